"""How well scores follow gold: by hand, and against SciPy."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from alignkit.analysis.answers.rankings import answer, quality
from alignkit.analysis.runs import load_runs
from alignkit.errors import UserError


def test_pairs_of_equal_gold_do_not_count_and_tied_scores_count_half():
    accuracy, _, _ = quality([[3, 1, 1, 2]], [[0.9, 0.5, 0.1, 0.5]])
    # Pairs of unequal gold: (0, 1) (0, 2) (0, 3) right, (1, 2) tied, (3, 2) right.
    assert accuracy == 4.5 / 5


def test_a_scale_and_a_shift_of_each_prompt_change_nothing_and_a_perfect_score_has_no_error():
    gold = [[0.1, 0.5, 0.9], [-0.8, 0.2, 0.3]]
    scores = [[4 * one + shift for one in row] for row, shift in zip(gold, (100, -7), strict=True)]
    assert quality(scores, gold) == pytest.approx((1.0, 1.0, 0.0), abs=1e-6)
    assert quality([[-one for one in row] for row in gold], gold)[:2] == pytest.approx((0.0, -1.0))


def test_correlation_and_error_are_those_of_a_regression_on_what_is_left_of_each_prompt():
    rng = np.random.default_rng(0)
    gold = rng.normal(size=(40, 5))
    scores = gold + rng.normal(size=(40, 5))
    x, y = ((table - table.mean(1, keepdims=True)).ravel() for table in (scores, gold))
    line = stats.linregress(x, y)
    residuals = y - line.slope * x - line.intercept
    expected = (line.rvalue, math.sqrt((residuals**2).mean()))
    assert quality(scores.tolist(), gold.tolist())[1:] == pytest.approx(expected)


def test_scores_that_are_all_the_same_have_no_correlation():
    accuracy, correlation, error = quality([[1, 1]], [[0.0, 1.0]])
    assert accuracy == 0.5
    assert math.isnan(correlation)
    assert math.isnan(error)


def experiment(write_experiment, tmp_path, scores):
    """Jobs of two seeds each, whose check has these scores of two answers to one prompt with gold 0 and 1, then 1 and 0."""
    jobs = [(feedback, seed) for feedback in scores for seed in (0, 1)]
    write_experiment(
        [
            {
                "arm": feedback,
                "stages": {"reward": {"config": {"seed": seed, "dataset": {"pairs": 100}}}, "check": {"config": {"seed": seed}}},
            }
            for feedback, seed in jobs
        ]
    )
    for number, (feedback, _) in enumerate(jobs):
        rows = [
            {"prompt": "a", "completions": ["x", "y"], "scores": [0.0, 1.0], "gold": [0.0, 1.0]},
            {"prompt": "b", "completions": ["x", "y"], "scores": scores[feedback], "gold": [1.0, 0.0]},
        ]
        file = tmp_path / str(number) / "check" / "samples.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_runs(tmp_path)


def test_feedback_is_compared_with_its_neighbour_at_equal_prompts(write_experiment, tmp_path):
    told = answer(experiment(write_experiment, tmp_path, {"best_and_worst": [0.0, 1.0], "rankings": [1.0, 0.0]}))
    rows = told.table.set_index("feedback")
    assert rows["pair accuracy"].to_dict() == {"best_and_worst": 0.5, "rankings": 1.0}
    text = "\n".join(told.findings)
    assert "rankings 1.000 [1.000, 1.000], best_and_worst 0.500" in text
    assert (
        "rankings against best_and_worst: more pairs are ordered rightly (0.500 [0.500, 0.500] at equal seeds), and the error is smaller"
        in text
    )


def test_models_that_scored_nothing_are_no_answer(write_experiment):
    with pytest.raises(UserError, match="no reward model has scored answers"):
        answer(write_experiment([{"arm": "rankings", "stages": {"reward": {"config": {"seed": 0}}, "check": None}}]))
