"""The judge that knows the labels of the data repeats them, and knows nothing else."""

from __future__ import annotations

import pytest

from alignkit.data.examples import EncodedExample
from alignkit.errors import UserError
from alignkit.judge_assembly import build_judge, judge_settings
from alignkit.judges.judge import Candidates
from alignkit.judges.labels import Labels, judge_by_ranks


def candidates(completions: tuple[str, ...], ranks: tuple[int, ...]) -> Candidates:
    example = EncodedExample(key=0, prompt_ids=(1,), completion_ids=((2,),) * len(completions), ranks=ranks)
    return Candidates(prompt="1+1?", completions=completions, example=example)


def test_scores_are_in_the_order_of_the_labels():
    first, second = judge_by_ranks([candidates((" 3", " 2"), (1, 0)), candidates((" 2", " two", " 3"), (0, 0, 1))])
    assert first.scores == (-1.0, 0.0)
    assert second.scores == (0.0, 0.0, -1.0)
    assert (first.replies, first.unread, first.comparisons) == (0, 0, ())


def test_samples_of_a_model_are_refused_in_one_message():
    with pytest.raises(UserError) as refused:
        judge_by_ranks([candidates((" 3", " 2"), (1, 0)), candidates((" a sample", " another"), ())])
    assert str(refused.value) == (
        "judge = 'labels' says what the labels of a data set say, and these answers have none: ' a sample'. Type "
        "candidates=dataset:train, or another judge."
    )


def test_it_has_no_options():
    assert build_judge(judge_settings({"name": "labels"}, ())) == Labels()
    with pytest.raises(UserError, match=r"judge\.path"):
        judge_settings({"name": "labels", "path": "x"}, ())
