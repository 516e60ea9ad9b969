"""Prompts and answers out of files and data sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignkit.command_line import precheck
from alignkit.data.examples import Message
from alignkit.data.source import load_examples
from alignkit.errors import UserError
from alignkit.judge_settings import JudgeSettings
from alignkit.label_settings import LabelSettings
from alignkit.labelling.pool import Entry, Origin, digest, read_pool
from alignkit.resolution import build_source
from alignkit.settings import RunSettings

Pool = Callable[..., list[Entry]]


@pytest.fixture(scope="module")
def settings() -> RunSettings:
    return precheck(["dataset.pairs=30", "dataset.validation_examples=5"])[0]


@pytest.fixture
def pool(settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pool:
    """Reads what `candidates` and the like mean, in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def read(**keys: Any) -> list[Entry]:
        return read_pool(settings, LabelSettings(judge=JudgeSettings(name="gold", options={}), **keys))

    return read


def write(name: str, *rows: dict[str, Any]) -> str:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return name


def answers(entries: list[Entry]) -> dict[Any, tuple[str, ...]]:
    return {entry.example.prompt: entry.example.completions for entry in entries}


def test_answers_of_several_files_are_put_together_by_prompt(pool: Pool) -> None:
    samples = write(
        "run/samples.jsonl",
        {"prompt": "p", "completions": [" a", " b", " a"], "scores": None, "parts": {}, "finished": [True] * 3, "tokens": [1] * 3},
        {"prompt": "q", "completions": [" c"], "scores": None},
    )
    Path("run/config.yaml").write_text("model: {path: mine}\n")
    responses = write(
        "responses.jsonl", {"prompt": "q", "response": " d"}, {"prompt": "q", "response": " c"}, {"prompt": "r", "response": " e"}
    )
    labels = write("labels.jsonl", {"prompt": "p", "chosen": " b", "rejected": " f", "provenance": {"model": {"path": "other"}}})
    entries = pool(candidates=[samples, responses, labels])
    assert answers(entries) == {"p": (" a", " b", " f"), "q": (" c", " d"), "r": (" e",)}
    mine, theirs, other = Origin(source=samples, model="mine"), Origin(source=responses, model=None), Origin(source=labels, model="other")
    assert [entry.origins for entry in entries] == [((mine,), (mine, other), (other,)), ((mine, theirs), (theirs,)), ((theirs,),)]
    assert entries[0].place == "candidates = run/samples.jsonl, line 1"


def test_dialogues_are_asked_as_dialogues(pool: Pool) -> None:
    turns = [{"role": "user", "content": "Hi"}]
    file = write("chat.jsonl", {"prompt": turns, "completions": ["Hello", [*turns, {"role": "assistant", "content": "Hey"}]][:1]})
    whole = write("whole.jsonl", {"prompt": turns, "completion": [*turns, {"role": "assistant", "content": "Hey"}]})
    assert answers(pool(candidates=[file, whole])) == {(Message(role="user", content="Hi"),): ("Hello", "Hey")}


def test_answers_of_a_data_set_keep_their_ranks_in_an_order_that_tells_nothing(pool: Pool, settings: RunSettings) -> None:
    examples = load_examples(settings.dataset, build_source(settings.dataset)).train  # type: ignore[arg-type]
    entries = pool(candidates=["dataset:train"])
    assert len(entries) == len(examples) == 30
    for entry, example in zip(entries, examples, strict=True):
        best_first = sorted(range(2), key=entry.example.ranks.__getitem__)
        assert tuple(entry.example.completions[place] for place in best_first) == example.completions
        assert entry.example.margin == 0
    assert 5 < sum(entry.example.ranks[0] == 0 for entry in entries) < 25  # of 30, each as likely: 0.03 % are outside
    assert [entry.example for entry in pool(candidates=["dataset:train"])] == [entry.example for entry in entries]
    assert len(pool(candidates=["dataset"])) == 5


def test_prompts_of_a_file_come_from_the_column_that_is_named(pool: Pool) -> None:
    file = write("q.jsonl", {"question": "a"}, {"question": "b"})
    entries = pool(prompts=file, column="question")
    assert [(entry.example.prompt, entry.example.completions) for entry in entries] == [("a", ()), ("b", ())]
    with pytest.raises(UserError, match=r"q\.jsonl: no column 'prompt'; found 'question'"):
        pool(prompts=file)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "p", "completions": [" a"]}, r"no column 'prompt'; found 'question', 'completions'\. Type column=NAME"),
        ({"prompt": "p", "text": " a"}, r"no answers; found 'prompt', 'text'\. There must be a column completions, completion or response"),
        ({"prompt": None, "completions": [" a"]}, r"line 1: 'prompt' is null"),
        ({"prompt": "p", "completions": []}, r"line 1: 'completions' is .*; must be a list with at least one element"),
        ({"prompt": "p", "completions": [3]}, r"line 1: .*must be text"),
        ({"prompt": "p", "completions": [" a", [{"role": "assistant", "content": "b"}]]}, r"line 1: .*both must be of one kind"),
    ],
)
def test_a_file_without_answers_is_refused(pool: Pool, row: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        pool(candidates=[write("c.jsonl", row)])


def test_the_digest_is_of_prompts_answers_and_ranks(pool: Pool) -> None:
    (entry,) = pool(candidates=[write("c.jsonl", {"prompt": "p", "completions": [" a", " b"]})])
    others = [
        replace(entry, example=replace(entry.example, prompt="q")),
        replace(entry, example=replace(entry.example, completions=(" a", " c"))),
        replace(entry, example=replace(entry.example, ranks=(0, 1))),
    ]
    assert len({digest([one]) for one in (entry, *others)}) == 4
    assert digest([entry]) == digest([replace(entry, place="elsewhere")])
