"""Rows out of judgements: what each form is, and what makes no row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from alignkit.data.dropping import fault
from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.sources.local import Local
from alignkit.judge_settings import JudgeSettings
from alignkit.judges.bouts import Verdict
from alignkit.judges.judge import Comparison, Judgement
from alignkit.label_settings import LabelSettings
from alignkit.labelling.forms import label_rows
from alignkit.labelling.judged import JudgedPrompt, Revised
from alignkit.labelling.pool import Origin

JUDGE = JudgeSettings(name="gold", options={})
LOCAL = Local(columns={}, ratings=[])


def judged(scores: Sequence[float | None], **changes: Any) -> JudgedPrompt:
    """Answers ` a0`, ` a1`, ... with these scores."""
    count = len(scores)
    whole = JudgedPrompt(
        prompt="Is 2 a number?",
        place="prompts = p.txt, line 1",
        completions=tuple(f" a{place}" for place in range(count)),
        lengths=(3,) * count,
        finished=(True,) * count,
        origins=(),
        drawn=count,
        tokens=3 * count,
        judgement=Judgement(scores=tuple(scores)),
    )
    return replace(whole, **changes)


def own(form: str, **keys: Any) -> LabelSettings:
    return LabelSettings(judge=JUDGE, form=form, **keys)


def as_read(row: dict[str, Any]) -> PreferenceExample:
    """What `dataset=local` makes of a row."""
    (example,) = LOCAL.to_examples(row)
    assert fault(example) is None
    return example


def test_a_pair_is_the_best_over_the_worst_with_the_gap_as_its_margin() -> None:
    ((row,), left_out) = label_rows(judged([0.5, 2.0, -1.0, 2.0]), own("pairs"))
    example = as_read(row)
    assert (example.completions, example.margin, example.ratings) == ((" a1", " a2"), 3.0, {"overall": (2.0, -1.0)})
    assert row["provenance"] == {
        "source": "prompts = p.txt, line 1",
        "answers": [1, 2],
        "scores": [0.5, 2.0, -1.0, 2.0],
        "comparisons": [],
    }
    assert not left_out


@pytest.mark.parametrize(
    ("scores", "gap", "reason"),
    [
        ([1.0, 1.0, 1.0], None, "tie"),
        ([1.0, 1.25], 0.5, "below_min_gap"),
        ([1.0, None], None, "unread"),
        ([None, None], None, "unread"),
        ([1.0], None, "one_answer"),
        ([], None, "one_answer"),
    ],
)
def test_what_cannot_be_told_apart_is_no_pair_and_is_counted(scores: list[float | None], gap: float | None, reason: str) -> None:
    assert label_rows(judged(scores), own("pairs", min_gap=gap)) == ([], {reason: 1})


def test_a_gap_of_min_gap_is_enough_and_unread_answers_stand_aside() -> None:
    ((row,), left_out) = label_rows(judged([None, 1.0, 1.5]), own("pairs", min_gap=0.5))
    assert (row["chosen"], row["rejected"]) == (" a2", " a1")
    assert not left_out


def test_a_ranking_stands_best_first_with_its_ties() -> None:
    ((row,), _) = label_rows(judged([1.0, 3.0, None, 1.0, 2.0]), own("rankings"))
    example = as_read(row)
    assert (example.completions, example.ranks) == ((" a1", " a4", " a0", " a3"), (0, 1, 2, 2))
    assert row["provenance"]["answers"] == [1, 4, 0, 3]
    assert label_rows(judged([1.0, 1.0]), own("rankings")) == ([], {"tie": 1})


def test_scores_keep_ties_and_single_answers() -> None:
    ((row,), _) = label_rows(judged([1.0, 1.0, None]), own("scores"))
    assert as_read(row).ratings == {"overall": (1.0, 1.0)}
    ((row,), _) = label_rows(judged([0.25]), own("scores"))
    assert as_read(row).ratings == {"overall": (0.25,)}
    assert label_rows(judged([None]), own("scores")) == ([], {"unread": 1})
    assert label_rows(judged([]), own("scores")) == ([], {"no_answer": 1})


def test_an_unpaired_answer_is_wanted_above_the_mean_of_its_prompt() -> None:
    rows, left_out = label_rows(judged([0.0, 1.0, 5.0, 2.0, None]), own("unpaired"))  # the mean of 0, 1, 5, 2 is 2
    examples = [as_read(row) for row in rows]
    assert [(example.completions, example.desirable) for example in examples] == [
        ((" a0",), (False,)),
        ((" a1",), (False,)),
        ((" a2",), (True,)),
    ]
    assert left_out == {"tie": 1, "unread": 1}


def test_a_threshold_is_one_for_all_prompts_and_min_gap_is_the_distance_from_it() -> None:
    rows, left_out = label_rows(judged([-0.5, 0.1, 0.5]), own("unpaired", threshold=0.0, min_gap=0.5))
    assert [(row["completion"], row["label"]) for row in rows] == [(" a0", False), (" a2", True)]
    assert left_out == {"below_min_gap": 1}
    ((row,), _) = label_rows(judged([0.5]), own("unpaired", threshold=0.0))
    assert row["label"] is True


def test_a_revision_is_chosen_over_the_answer_as_it_was() -> None:
    revised = (
        Revised(final=" better", principles=("kind",), critiques=("unkind",), unread=()),
        Revised(final=None, principles=("kind",), critiques=(None,), unread=("critique_cut",)),
        Revised(final=None, principles=("kind",), critiques=("fine",), unread=("revision_unchanged",)),
    )
    ((row,), left_out) = label_rows(judged([None] * 3, revisions=revised), own("revisions"))
    assert as_read(row).completions == (" better", " a0")
    assert (row["provenance"]["principles"], row["provenance"]["critiques"]) == (["kind"], ["unkind"])
    assert left_out == {"unread": 1, "unchanged": 1}


def test_a_row_tells_what_was_compared_and_where_its_answers_come_from() -> None:
    comparisons = (Comparison(first=0, second=1, straight=Verdict.WIN, swapped=None),)
    origins = ((Origin(source="a.jsonl", model="m"),), (Origin(source="b.jsonl", model=None),))
    one = judged([1.0, 0.0], judgement=Judgement(scores=(1.0, 0.0), comparisons=comparisons, replies=2, unread=1), origins=origins)
    ((row,), _) = label_rows(one, own("pairs"))
    assert row["provenance"]["comparisons"] == [[0, 1, "win", None]]
    assert row["provenance"]["origins"] == [[{"source": "a.jsonl", "model": "m"}], [{"source": "b.jsonl", "model": None}]]


def test_messages_are_messages_again_when_they_are_read() -> None:
    prompt = (Message(role="system", content="Be short."), Message(role="user", content="Hi"))
    ((row,), _) = label_rows(judged([1.0, 0.0], prompt=prompt), own("pairs"))
    assert as_read(row).prompt == prompt
