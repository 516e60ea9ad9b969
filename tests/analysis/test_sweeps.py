"""Statistics over seeds: against tables of Student's t, SciPy's own tests, and differences worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from alignkit.analysis.runs import Runs, load_runs
from alignkit.analysis.sweeps import best, interval, p_value, paired, pivot, table
from alignkit.errors import UserError

ACCURACY = "val/rewards/accuracies"


@pytest.fixture
def sweep(write_run, tmp_path):
    """`sweep({("dpo", 0.1, 0): 0.7, ...})`: a run for each loss, beta and seed, with that accuracy."""

    def make(results: dict[tuple[str, float, int], float | None]) -> Runs:
        for number, ((loss, beta, seed), accuracy) in enumerate(results.items()):
            config = {"loss": {"name": loss, "beta": beta}, "seed": seed}
            write_run(f"{number:02}", config, results=None if accuracy is None else {ACCURACY: accuracy, "val/loss": -accuracy})
        return load_runs(tmp_path)

    return make


def test_an_interval_is_that_of_a_table_of_student_s_t():
    # t(0.975, 2) = 4.302653 and t(0.975, 4) = 2.776445 in any table; the standard deviation of 1, 2, 3 is 1.
    three = interval([1.0, 2.0, 3.0])
    assert (three.mean, three.low, three.high) == pytest.approx((2.0, 2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), rel=1e-6)
    five = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert five.high - five.mean == pytest.approx(2.776445 * math.sqrt(2.5) / math.sqrt(5), rel=1e-6)


def test_one_value_has_no_interval_and_none_has_no_mean():
    one = interval([0.25])
    assert one.mean == 0.25
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert math.isnan(interval([]).mean)
    assert (interval([2.0, 2.0]).low, interval([2.0, 2.0]).high) == (2.0, 2.0)


def test_intervals_hold_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = sum(over.low <= 5 <= over.high for over in (interval(rng.normal(5, 2, 3)) for _ in range(2000)))
    assert 0.935 < held / 2000 < 0.965  # 0.95 ± 3 standard errors


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_p_is_that_of_scipy_s_paired_test(seeds):
    rng = np.random.default_rng(seeds)
    ours, theirs = rng.normal(0.3, 1, seeds), rng.normal(0, 1, seeds)
    assert p_value(ours - theirs) == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=1e-9)


def test_p_without_spread_or_without_a_second_seed():
    assert (p_value([0.0, 0.0]), p_value([0.5, 0.5])) == (1.0, 0.0)
    assert math.isnan(p_value([0.5]))


def test_a_table_has_a_row_a_combination_in_order_and_its_values_by_seed(sweep):
    runs = sweep({("dpo", 0.5, 1): 0.8, ("dpo", 0.05, 0): 0.6, ("dpo", 0.5, 0): 0.7, ("cdpo", 0.05, 0): 0.9, ("dpo", 0.5, 2): 0.9})
    rows = table(runs, ACCURACY, ["loss.name", "loss.beta"])
    assert list(rows) == ["loss.name", "loss.beta", "mean", "low", "high", "seeds", "missing", "values"]
    assert rows[["loss.name", "loss.beta", "seeds", "values"]].to_numpy().tolist() == [
        ["cdpo", 0.05, 1, (0.9,)],
        ["dpo", 0.05, 1, (0.6,)],
        ["dpo", 0.5, 3, (0.7, 0.8, 0.9)],
    ]
    assert rows.loc[2, ["mean", "low", "high"]].tolist() == pytest.approx(
        [0.8, 0.8 - 4.302653 * 0.1 / 3**0.5, 0.8 + 4.302653 * 0.1 / 3**0.5]
    )
    assert rows["low"].isna().tolist() == [True, True, False]


def test_runs_without_a_result_are_counted_and_not_averaged(sweep):
    rows = table(sweep({("dpo", 0.1, 0): 0.5, ("dpo", 0.1, 1): None, ("dpo", 0.1, 2): math.nan}), ACCURACY, ["loss.name"])
    assert rows.loc[0, ["mean", "seeds", "missing"]].tolist() == [0.5, 1, 2]


def test_values_that_another_key_sets_apart_are_not_averaged(sweep):
    runs = sweep({("dpo", 0.1, 0): 0.5, ("dpo", 0.5, 0): 0.6})
    with pytest.raises(UserError, match=r"seed = 0: two runs or more, 00 and 01. They differ in loss.beta: compare by it too"):
        table(runs, ACCURACY, ["loss.name"])


def test_equal_runs_are_named(sweep, write_run, tmp_path):
    write_run("again", {"loss": {"name": "dpo", "beta": 0.1}, "seed": 0}, results={ACCURACY: 0.5})
    with pytest.raises(UserError, match=r"two runs or more, 00 and again. Leave one out"):
        table(sweep({("dpo", 0.1, 0): 0.5}), ACCURACY, ["loss.name"])


def test_unknown_names_are_answered_with_near_ones(sweep):
    runs = sweep({("dpo", 0.1, 0): 0.5})
    with pytest.raises(UserError, match=r"config key 'loss.bet' is not there. Did you mean 'loss.beta'"):
        table(runs, ACCURACY, ["loss.bet"])
    with pytest.raises(UserError, match=r"metric 'val/rewards/accuracy' is not there. Did you mean 'val/rewards/accuracies'"):
        table(runs, "val/rewards/accuracy", ["loss.name"])


def test_a_pivot_is_a_grid_of_means_with_holes(sweep):
    runs = sweep({("dpo", 0.5, 0): 0.7, ("dpo", 0.5, 1): 0.9, ("dpo", 0.05, 0): 0.6, ("cdpo", 10.0, 0): 0.5})
    grid = pivot(runs, ACCURACY, rows="loss.name", columns="loss.beta")
    assert (list(grid.index), list(grid.columns)) == (["cdpo", "dpo"], [0.05, 0.5, 10.0])
    assert grid.loc["dpo"].tolist()[:2] == pytest.approx([0.6, 0.8])
    assert grid.isna().sum().sum() == 3


def test_differences_are_taken_at_equal_seed(sweep):
    """Seeds differ by far more than losses do: 0.02, 0.03 and 0.04 between losses, 0.3 between seeds."""
    ours, theirs = {0: 0.32, 1: 0.63, 2: 0.94}, {0: 0.30, 1: 0.60, 2: 0.90}
    runs = sweep({("cdpo", 0.1, s): a for s, a in ours.items()} | {("dpo", 0.1, s): a for s, a in theirs.items()})
    (row,) = paired(runs, ACCURACY, between="loss.name", baseline="dpo").to_dict("records")
    expected = stats.ttest_rel(list(ours.values()), list(theirs.values()))
    assert row["loss.name"] == "cdpo"
    assert (row["mean"], row["p"], row["seeds"]) == pytest.approx((0.03, expected.pvalue, 3))
    over = expected.confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((over.low, over.high))


def test_swapping_the_baseline_negates_the_difference(sweep):
    runs = sweep({(loss, 0.1, seed): seed / 7 + (loss == "dpo") * 0.1 * (seed + 1) for loss in ("dpo", "cdpo") for seed in range(3)})
    (there,) = paired(runs, ACCURACY, between="loss.name", baseline="dpo").to_dict("records")
    (back,) = paired(runs, ACCURACY, between="loss.name", baseline="cdpo").to_dict("records")
    assert (there["mean"], there["low"], there["p"]) == pytest.approx((-back["mean"], -back["high"], back["p"]))


def test_differences_are_taken_at_equal_other_keys_and_averaged_within_a_seed(sweep):
    results = {
        ("dpo", 0.1, 0): 0.1,
        ("cdpo", 0.1, 0): 0.2,
        ("dpo", 0.5, 0): 0.5,
        ("cdpo", 0.5, 0): 0.8,
        ("dpo", 0.1, 1): 0.0,
        ("cdpo", 0.1, 1): 0.4,
        ("cdpo", 0.5, 1): 0.9,  # without a partner
    }
    (row,) = paired(sweep(results), ACCURACY, between="loss.name", baseline="dpo").to_dict("records")
    assert (row["mean"], row["seeds"]) == (pytest.approx(((0.1 + 0.3) / 2 + 0.4) / 2), 2)


def test_a_key_that_follows_from_the_compared_one_is_not_matched(sweep):
    runs = sweep({("dpo", 0.1, 0): 0.5, ("simpo", 2.0, 0): 0.6, ("dpo", 0.1, 1): 0.5, ("simpo", 2.0, 1): 0.7})
    (row,) = paired(runs, ACCURACY, between="loss.name", baseline="dpo").to_dict("records")
    assert (row["loss.name"], row["mean"], row["seeds"]) == ("simpo", pytest.approx(0.15), 2)


def test_numbers_may_be_the_compared_key(sweep):
    runs = sweep({("dpo", beta, seed): beta * (1 + seed) for beta in (0.1, 0.2, 0.4) for seed in (0, 1)})
    rows = paired(runs, ACCURACY, between="loss.beta", baseline=0.1)
    assert rows["loss.beta"].tolist() == [0.2, 0.4]
    assert rows["mean"].tolist() == pytest.approx([0.15, 0.45])


def test_runs_without_a_partner_are_refused(sweep):
    with pytest.raises(UserError, match=r"no run has a partner with loss.name = 'dpo' at equal seed"):
        paired(sweep({("dpo", 0.1, 0): 0.5, ("cdpo", 0.1, 1): 0.6}), ACCURACY, between="loss.name", baseline="dpo")


def test_an_unknown_baseline_is_refused(sweep):
    with pytest.raises(UserError, match=r"loss.name = 'ipo' is not there. .*There are: dpo, cdpo"):
        paired(sweep({("dpo", 0.1, 0): 0.5, ("cdpo", 0.1, 0): 0.6}), ACCURACY, between="loss.name", baseline="ipo")


def test_best_goes_by_the_direction_of_the_metric(sweep):
    runs = sweep({("dpo", 0.1, 0): 0.5, ("dpo", 0.5, 0): 0.8, ("dpo", 0.7, 0): None})
    assert (best(runs, ACCURACY), best(runs, "val/loss")) == ("01", "01")  # the loss is minus the accuracy
    assert best(runs, ACCURACY, better="lower") == "00"


def test_best_of_a_number_without_direction_must_be_told(write_run, tmp_path):
    for number, kl in enumerate((3.0, 2.0)):
        write_run(str(number), {"seed": number}, results={"val/objective/kl": kl, "seconds": kl, "val/loss": None})
    runs = load_runs(tmp_path)
    for name in ("val/objective/kl", "seconds"):
        with pytest.raises(UserError, match="neither higher nor lower is better by itself"):
            best(runs, name)
        assert best(runs, name, better="lower") == "1"
    with pytest.raises(UserError, match="no run has a number for it yet"):
        best(runs, "val/loss")
