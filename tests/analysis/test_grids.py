"""Planes and lines through the best setting of a sweep whose numbers are known."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from alignkit.analysis.grids import against_best, best_setting, half_widths, means, summary, swept, through_best, widest
from alignkit.analysis.runs import Runs, load_runs
from alignkit.errors import UserError

ACCURACY = "val/rewards/accuracies"
BETA, EPSILON, RATE = "loss.beta", "loss.epsilon", "optimizer.lr"


@pytest.fixture
def sweep(write_run, tmp_path) -> Runs:
    """beta x epsilon x lr at two seeds; best at beta 0.5, epsilon 0.1, lr 1e-3. `loss.module` and the name follow from other keys."""
    for number, (beta, epsilon, rate, seed) in enumerate(itertools.product((0.1, 0.5), (0.0, 0.1, 0.2), (1e-4, 1e-3), (0, 1))):
        config = {"loss": {"name": "dpo", "beta": beta, "epsilon": epsilon}, "optimizer": {"lr": rate}, "seed": seed}
        accuracy = 0.5 + 0.2 * beta - (epsilon - 0.1) ** 2 + 10 * rate + 0.02 * seed
        write_run(f"{number:02}", config | {"tag": f"twice {beta}"}, results={ACCURACY: accuracy, "val/loss": 1 - accuracy})
    return load_runs(tmp_path)


def test_keys_that_follow_from_others_and_seeds_are_not_swept(sweep):
    assert swept(sweep) == [BETA, EPSILON, RATE]  # the tag says no more than beta


def test_the_widest_keys_are_those_with_the_most_values(sweep):
    assert widest(sweep) == (BETA, EPSILON)
    assert widest(sweep.only(sweep.config[BETA] == 0.1)) == (EPSILON, RATE)


def test_one_swept_key_stands_beside_the_loss(sweep):
    one = sweep.only((sweep.config[BETA] == 0.1) & (sweep.config[RATE] == 1e-3))
    assert widest(one) == (EPSILON, "loss.name")
    with pytest.raises(UserError, match="no key but the seed"):
        swept(one.only(one.config[EPSILON] == 0.0))


def test_the_best_setting_follows_the_metric_s_direction(sweep):
    best = best_setting(sweep, ACCURACY)
    assert (best[BETA], best[EPSILON], best[RATE]) == (0.5, 0.1, 1e-3)
    assert best["mean"] == pytest.approx(0.5 + 0.1 + 0.01 + 0.01)
    assert best["seeds"] == 2
    assert tuple(best_setting(sweep, "val/loss")[[BETA, EPSILON, RATE]]) == (0.5, 0.1, 1e-3)  # here lower is better


def test_a_line_through_the_best_setting_varies_its_key_alone(sweep):
    line = through_best(sweep, ACCURACY, [EPSILON])
    assert sorted(line.config[EPSILON]) == [0.0, 0.0, 0.1, 0.1, 0.2, 0.2]
    assert set(line.config[BETA]) == {0.5}
    assert set(line.config[RATE]) == {1e-3}
    assert len(through_best(sweep, ACCURACY, [BETA, EPSILON]).names) == 12
    assert through_best(sweep, ACCURACY, [BETA, EPSILON, RATE]) is sweep


def test_every_other_value_is_compared_with_the_best_setting(sweep):
    told = against_best(sweep, ACCURACY).set_index(["key", "value"])
    assert list(told.index) == [(BETA, 0.1), (EPSILON, 0.0), (EPSILON, 0.2), (RATE, 1e-4)]
    assert list(told["baseline"]) == [0.5, 0.1, 0.1, 1e-3]
    # 0.2 * (0.1 - 0.5), -(0.1)^2 twice, 10 * (1e-4 - 1e-3): seeds cancel, so that the interval has no width.
    assert list(told["mean"]) == pytest.approx([-0.08, -0.01, -0.01, -0.009])
    assert list(told["low"]) == pytest.approx(list(told["high"]))


def test_keys_without_partners_are_not_compared(write_run, tmp_path):
    for loss, beta in (("dpo", 0.1), ("kto", 0.5)):
        for seed in (0, 1):
            write_run(f"{loss}-{seed}", {"loss": {"name": loss, "beta": beta}, "seed": seed}, results={ACCURACY: beta})
    told = against_best(load_runs(tmp_path), ACCURACY)
    assert list(told["key"]) == ["loss.name"]  # beta follows from the loss
    assert list(told["mean"]) == pytest.approx([-0.4])


def test_half_widths_are_those_of_student_s_t(sweep):
    plane = through_best(sweep, ACCURACY, [BETA, EPSILON])
    halves = half_widths(plane, ACCURACY, rows=BETA, columns=EPSILON)
    assert halves.shape == (2, 3)
    # Two seeds that are 0.02 apart: s / sqrt(2) is 0.01.
    assert halves.to_numpy() == pytest.approx(np.full((2, 3), stats.t.ppf(0.975, 1) * 0.01))


def test_a_summary_leaves_out_what_no_run_has_and_sorts_numbers_by_size(sweep):
    told = summary(sweep.only(sweep.config[RATE] == 1e-3), [ACCURACY, "val/objective/kl"], [EPSILON])
    assert list(told.index) == [0.0, 0.1, 0.2]
    assert list(told.columns) == ["seeds", "rewards/accuracies, held out"]
    assert list(told["seeds"]) == [4, 4, 4]


def test_means_are_written_with_the_half_of_their_interval():
    rows = pd.DataFrame({"method": ["a", "a", "b", "c", "d", "d", "d"], "x": [0.5, 0.7, 2.0, np.nan, 0.1, 0.1, 0.1]})
    told = means(rows, ["method"], ["x"])
    assert list(told["x"]) == ["0.600 ± 1.271", "2.00", "", "0.100"]  # t(0.975, 1) = 12.7062 times 0.1; one seed; none; no spread


def test_no_rows_have_no_means():
    assert means(pd.DataFrame(columns=["method", "x"]), ["method"], ["x"]).empty
