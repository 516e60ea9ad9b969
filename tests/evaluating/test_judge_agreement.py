"""Judges against people, from rows to files: the small model that ships with alignkit, on a few made-up pairs."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score

from alignkit.command_line import precheck
from alignkit.data.encoding import Encoder
from alignkit.data.questions import Question
from alignkit.errors import UserError
from alignkit.evaluating.asked_pairs import ask, in_order_of_texts, read_pairs, terminator_of
from alignkit.evaluating.judge_agreement import evaluate
from alignkit.evaluating.outcome import Outcome
from alignkit.evaluation.agreement import krippendorff_alpha
from alignkit.evaluation_settings import JUDGEMENTS, EvaluateSettings, JudgeAgreementSettings
from alignkit.judge_assembly import judge_settings
from alignkit.models.loading import load_tokenizer
from alignkit.models.location import locate
from alignkit.run_dir import RunDir

WORDS = ("room", "film", "soup", "song", "walk", "bike", "play", "view")


def llmbar(folder: Path, *, group: str = "natural", count: int = 8) -> None:
    """Pairs of which people prefer the one that VADER's lexicon prefers, but for the last; which stands first alternates."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"llmbar_{group}.jsonl").open("w") as file:
        for number in range(count):
            outputs = [f"The {WORDS[number]} was wonderful and I love it.", f"The {WORDS[number]} was terrible, {number} of 10."]
            label = 1 if number < count - 1 else 2
            row = {"input": f"How was the {WORDS[number]} ({group})?", "output_1": outputs[0], "output_2": outputs[1], "label": label}
            if number % 2:
                row |= {"output_1": outputs[1], "output_2": outputs[0], "label": 3 - label}
            file.write(json.dumps(row) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    llmbar(folder / "llmbar")
    llmbar(folder / "llmbar", group="adver_manual", count=4)
    return folder


def ask_judge(folder: Path, run: RunDir, limit: int | None = None, **judge: Any) -> Outcome:
    settings = precheck(["batch.pairs=5"])[0]
    own = EvaluateSettings(
        evaluation=JudgeAgreementSettings(name="judge_agreement", tasks=["llmbar"], path=str(folder), limit=limit),
        scorers=(),
        against=None,
        judge=judge_settings(judge, []),
    )
    return evaluate(settings, own, run)


@pytest.fixture(scope="module")
def voted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, list[dict[str, Any]]]:
    """Three judges: VADER, texts by their length, and a small language model that follows no format."""
    run = RunDir.create(tmp_path_factory.mktemp("voted") / "run")
    judges = {
        "gold": {"judge": "gold"},
        "long": {"judge": "scorer", "scorer": "length"},
        "llm": {"judge": "llm", "max_tokens": 4},
    }
    outcome = ask_judge(folder, run, name="vote", judges=judges)
    return outcome, [json.loads(line) for line in (run.path / JUDGEMENTS).read_text(encoding="utf-8").splitlines()]


def test_a_judge_agrees_with_people_as_often_as_the_rows_say(voted: tuple[Outcome, list[dict[str, Any]]]) -> None:
    """Seven of eight natural pairs and three of four adversarial ones are labelled as VADER would."""
    results = voted[0].results
    assert results["llmbar/gold/accuracy"] == 10 / 12
    assert results["llmbar/natural/gold/accuracy"] == 7 / 8
    assert results["llmbar/adversarial/gold/accuracy"] == 3 / 4
    assert 0.5 < results["llmbar/gold/accuracy_low"] < 10 / 12 < results["llmbar/gold/accuracy_high"] < 1
    assert results["llmbar/gold/pairs"] == results["llmbar/gold/read_pairs"] == 12
    assert results["llmbar/gold/replies"] == 0


def test_replies_that_cannot_be_read_are_counted_and_no_verdict_is_made_of_them(voted: tuple[Outcome, list[dict[str, Any]]]) -> None:
    results, rows = voted[0].results, voted[1]
    assert results["llmbar/llm/replies"] == 24
    assert results["llmbar/llm/unread_replies"] == 1.0
    assert results["llmbar/llm/read_pairs"] == 0
    assert "llmbar/llm/accuracy" not in results
    own = [row["by_judge"]["llm"] for row in rows]
    assert all(one["scores"] == [None, None] and len(one["said"]) == 2 for one in own)
    assert sum(sum(one["reasons"].values()) for one in own) == 24


def test_a_vote_is_counted_beside_its_members_and_agreement_is_between_these(voted: tuple[Outcome, list[dict[str, Any]]]) -> None:
    results, rows = voted[0].results, voted[1]
    assert len(rows) == results["llmbar/vote/pairs"] == 12
    both = [tuple(row["by_judge"][name]["scores"] for name in ("gold", "long")) for row in rows]
    words = [[(first > second) - (first < second) for first, second in pair] for pair in both]
    # Two voters: where they differ it is a tie.
    expected = [(word[0] if word[0] == word[1] else 0) for word in words]
    assert [(row["scores"][0] > row["scores"][1]) - (row["scores"][0] < row["scores"][1]) for row in rows] == expected
    assert results["llmbar/gold+long/agreement"] == sum(left == right for left, right in words) / 12
    assert results["llmbar/gold+long/cohen_kappa"] == pytest.approx(cohen_kappa_score(*zip(*words, strict=True)))
    assert math.isnan(results["llmbar/gold+llm/agreement"])
    # The third one is silent throughout.
    assert results["llmbar/krippendorff_alpha"] == pytest.approx(krippendorff_alpha(list(zip(*words, strict=True))))
    assert "llmbar/gold+vote/agreement" not in results
    tasks = voted[0].document["tasks"]["llmbar"]  # type: ignore[index]
    json.dumps(tasks, allow_nan=False)
    assert set(tasks["groups"]) == {"llmbar_natural", "llmbar_adver_manual"}
    assert tasks["groups"]["llmbar_adver_manual"]["gold"]["accuracy"]["value"] == 3 / 4


def test_which_answer_people_prefer_does_not_follow_from_its_place(voted: tuple[Outcome, list[dict[str, Any]]]) -> None:
    assert {row["preferred"] for row in voted[1]} == {0, 1}
    question = Question(prompt="p", candidates=("right", "wrong"), correct=(0,))
    _, texts, preferred = in_order_of_texts(question)
    assert texts[preferred] == "right"
    turned = Question(prompt="p", candidates=("wrong", "right"), correct=(1,))
    assert in_order_of_texts(turned)[1][in_order_of_texts(turned)[2]] == "right"


def test_a_limit_takes_of_each_group_its_share(folder: Path, tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    outcome = ask_judge(folder, run, limit=6, name="scorer", scorer="vader")
    rows = [json.loads(line) for line in (run.path / JUDGEMENTS).read_text(encoding="utf-8").splitlines()]
    assert Counter(row["group"] for row in rows) == {"llmbar_natural": 4, "llmbar_adver_manual": 2}
    assert outcome.results["llmbar/vader/pairs"] == 6


def test_a_task_that_is_not_of_pairs_is_refused(tmp_path: Path) -> None:
    row = {"question": "Which?", "choices": {"text": ["a", "b", "c"], "label": ["A", "B", "C"]}, "answerKey": "A"}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    evaluation = JudgeAgreementSettings(name="judge_agreement", tasks=["arc_easy"], path=str(tmp_path / "test.jsonl"), limit=None)
    with pytest.raises(UserError, match=r"arc_easy asks about more than two answers"):
        list(read_pairs(evaluation))


def test_texts_and_dialogues_are_not_judged_together(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "llmbar").symlink_to(folder / "llmbar")
    pair = {"prompt": "Say", "chosen": " yes", "rejected": " no"}
    (tmp_path / "preference_pairs.jsonl").write_text(json.dumps(pair) + "\n")
    evaluation = JudgeAgreementSettings(name="judge_agreement", tasks=["llmbar", "preference_pairs"], path=str(tmp_path), limit=None)
    tokenizer = load_tokenizer("model.path", locate("model.path", "builtin:tiny"))
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})

    def encoder() -> Encoder:
        return Encoder(tokenizer, format="auto", max_length=256, overflow="trim")

    asked = [ask(*task, encoder()) for task in read_pairs(evaluation)]
    with pytest.raises(UserError, match=r"evaluation\.tasks: llmbar and preference_pairs hold texts and dialogues"):
        terminator_of(asked, encoder())
    assert terminator_of(asked[:1], encoder()) == tokenizer.convert_tokens_to_ids("<|im_end|>")
