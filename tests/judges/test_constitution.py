"""Answers to one prompt are compared by one principle, by whichever language model is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from alignkit.configuration import packaged
from alignkit.data.examples import EncodedExample, Message
from alignkit.errors import UserError
from alignkit.judge_assembly import build_judge, judge_node, judge_settings
from alignkit.judges.asking import AskingJudge, JudgePrompts
from alignkit.judges.constitution import Constitution
from alignkit.judges.http import Http
from alignkit.judges.judge import Candidates, Judge, JudgeKind, JudgeSurroundings
from alignkit.judges.llm import Llm
from alignkit.judges.scorer import ScorerJudge
from alignkit.judges.writer import Reply, Writer, WritingJudgeKind

NOTHING: Any = None
SURROUNDINGS = JudgeSurroundings(scoring=NOTHING, answers=NOTHING, model_path="", cache=Path(), batch=4)
OWN: dict[str, Any] = packaged("judge")["constitution"]
URL = "http://127.0.0.1:1/v1"


class Partial:
    """Likes the answer that holds a word of the principle; remembers the questions."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, questions: Sequence[tuple[Message, ...]]) -> list[Reply]:
        self.asked += [question[-1].content for question in questions]
        return [Reply(text=self.verdict(question[-1].content), finished=True) for question in questions]

    def verdict(self, question: str) -> str:
        _, one, other, principle = question.split("|")
        liked = "kind" if "kind" in principle else "true"
        return "C" if (liked in one) == (liked in other) else "A" if liked in one else "B"


class Fake(WritingJudgeKind):
    """A language model that is `Partial`."""

    def __init__(self) -> None:
        self.writer = Partial()

    def open(self, surroundings: JudgeSurroundings) -> Judge:
        prompts = JudgePrompts(
            asks="compare", system="own", template="own {prompt}{first}{second}", lowest=None, highest=None, comparisons=None
        )
        return AskingJudge(writer=self.writer, prompts=prompts)

    def open_writer(self, surroundings: JudgeSurroundings, *, max_tokens: int | None = None) -> Writer:
        return self.writer


def constitution(file: Path, by: JudgeKind, **changes: Any) -> Constitution:
    own = {"seed": 0, "system": None, "template": "{prompt}|{first}|{second}|{principle}", "comparisons": None}
    return Constitution(**{"file": str(file), "by": by, **own, **changes})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two principles."""
    (tmp_path / "mine.txt").write_text("Be kind.\nBe true.\n", encoding="utf-8")
    return tmp_path / "mine.txt"


def candidates(prompt: str, *completions: str) -> Candidates:
    example = EncodedExample(key=0, prompt_ids=(1,), completion_ids=tuple((2,) for _ in completions))
    return Candidates(prompt=prompt, completions=completions, example=example)


PROMPTS = [f"question {number}?" for number in range(12)]


def test_all_answers_to_a_prompt_are_compared_by_one_principle_in_both_orders(file: Path) -> None:
    by = Fake()
    judged = constitution(file, by).open(SURROUNDINGS)([candidates(prompt, "kind", "true", "kind and true") for prompt in PROMPTS])
    # Of the one who is kind alone two comparisons are by kindness: a win and a tie; by truth both are lost.
    by_kindness, by_truth = (0.75, 0.0, 0.75), (0.0, 0.75, 0.75)
    assert {one.scores for one in judged} == {by_kindness, by_truth}
    assert [one.unread for one in judged] == [0] * 12
    assert len(by.writer.asked) == 12 * 6
    for prompt in PROMPTS:
        principles = {question.split("|")[3] for question in by.writer.asked if question.startswith(f"{prompt}|")}
        assert len(principles) == 1


def test_the_principle_follows_from_seed_and_prompt_alone(file: Path) -> None:
    together = constitution(file, Fake()).open(SURROUNDINGS)([candidates(prompt, "kind", "true") for prompt in PROMPTS])
    alone = [constitution(file, Fake()).open(SURROUNDINGS)([candidates(prompt, "kind", "true")])[0] for prompt in reversed(PROMPTS)]
    assert together == alone[::-1]
    other = constitution(file, Fake(), seed=1).open(SURROUNDINGS)([candidates(prompt, "kind", "true") for prompt in PROMPTS])
    assert other != together


def test_what_a_principle_or_an_answer_says_is_no_part_of_the_template(tmp_path: Path) -> None:
    (tmp_path / "odd.txt").write_text("Be \\1 {kind.\n", encoding="utf-8")
    by = Fake()
    constitution(tmp_path / "odd.txt", by).open(SURROUNDINGS)([candidates("{first}", "{principle} kind", "{second}")])
    assert by.writer.asked[0] == "{first}|{principle} kind|{second}|Which answer follows this principle better? Be \\1 {kind."


def test_its_critic_is_whoever_is_asked(file: Path) -> None:
    by = Fake()
    assert constitution(file, by).open_writer(SURROUNDINGS) is by.writer


class Mute(JudgeKind):
    """No language model."""

    def open(self, surroundings: JudgeSurroundings) -> Judge:
        return lambda asked: []


def test_who_is_no_language_model_cannot_be_asked(file: Path) -> None:
    with pytest.raises(UserError, match=r"^judge\.by: Mute is no language model"):
        constitution(file, Mute()).open(SURROUNDINGS)
    with pytest.raises(UserError, match=r"^judge\.by: Mute writes no critiques"):
        constitution(file, Mute()).open_writer(SURROUNDINGS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, r"^judge\.seed = -1"),
        ({"template": "{prompt}{first}{second}"}, r"^judge\.template: has no \{principle\}"),
        ({"template": "{prompt}{first}{principle}"}, r"^judge\.template: has no \{second\}"),
        ({"comparisons": 0}, r"^judge\.comparisons = 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str, file: Path) -> None:
    with pytest.raises(UserError, match=message):
        constitution(file, Fake(), **changes)


def built(**typed: Any) -> JudgeKind:
    return build_judge(judge_settings({**OWN, **typed}, ()))


def test_by_default_the_model_that_is_sampled_judges_by_the_packaged_constitution() -> None:
    kind = built()
    assert isinstance(kind, Constitution)
    assert isinstance(kind.by, Llm)
    assert (kind.by.model, kind.file) == (None, None)


def test_another_language_model_nests_with_its_keys_and_is_read_again_from_a_saved_config() -> None:
    settings = judge_settings({**OWN, "seed": 3, "by": {"judge": "http", "url": URL, "model": "m", "retries": 1}}, ())
    kind = build_judge(settings)
    assert isinstance(kind, Constitution)
    assert isinstance(kind.by, Http)
    assert (kind.seed, kind.by.url, kind.by.retries, kind.by.backoff) == (3, URL, 1, packaged("judge")["http"]["backoff"])
    assert judge_settings(judge_node(settings), ()) == settings


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ({"by": "llm"}, r"^judge\.by = 'llm'; must say who is asked"),
        ({"by": {"model": "m"}}, r"^judge\.by = .*must say who is asked"),
        ({"by": {"judge": "gold"}}, r"^unknown judge\.by 'gold'"),
        ({"by": {"judge": "constitution"}}, r"^unknown judge\.by 'constitution'"),
        ({"by": {"judge": "http", "model": "m"}}, r"^judge\.by\.url is missing"),
        ({"by": {"judge": "http", "url": URL, "model": "m", "retrys": 3}}, r"^judge\.by\.retrys: no such key\. Did you mean 'retries'\?"),
        ({"by": {"judge": "http", "url": URL, "model": "m", "retries": -1}}, r"^judge\.by: judge\.retries = -1"),
        (
            {"by": {"judge": "llm", "template": "{prompt}{first}{second}"}},
            r"^judge\.by\.template has no effect: what is asked is judge\.template",
        ),
        ({"seed": "three"}, r"^judge\.seed = 'three'; must be a whole number"),
        ({"file": "/absent/file.txt"}, r"^judge\.file = '/absent/file\.txt': cannot be read"),
        ({"fil": "x"}, r"^judge\.fil: no such key\. Did you mean 'file'\?"),
    ],
)
def test_what_cannot_be_meant_is_told(typed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        built(**typed)


def test_a_scorer_is_no_language_model() -> None:
    assert not issubclass(ScorerJudge, WritingJudgeKind)
