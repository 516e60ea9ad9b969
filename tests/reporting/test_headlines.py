from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from alignkit.analysis.runs import load_runs
from alignkit.reporting.comparison import compare
from alignkit.reporting.headlines import Column, Headlines, headlines, is_tied

ACCURACIES, MARGINS, GOLD, KL = "val/rewards/accuracies", "val/rewards/margins", "val/objective/gold", "val/objective/kl"


def table_of(folder: Path) -> tuple[Headlines, dict[str, Column]]:
    runs = load_runs(folder)
    table = headlines(runs, compare(runs))
    return table, {column.name: column for column in table.columns}


def make(folder: Path, run_maker: Any, values: dict[tuple[str, float], list[dict[str, float]]]) -> None:
    for (name, beta), seeds in values.items():
        for seed, results in enumerate(seeds):
            run_maker(folder / f"{name}-{beta}-{seed}", config={"loss": {"name": name, "beta": beta}, "seed": seed}, results=results)


def test_the_interval_is_students(tmp_path: Path, run_maker) -> None:
    make(tmp_path, run_maker, {("dpo", 0.1): [{ACCURACIES: value} for value in (0.7, 0.8, 0.9)]})
    table, columns = table_of(tmp_path)
    (cell,) = columns[ACCURACIES].cells
    # s = 0.1, t(0.975, 2) = 4.303: 4.303 * 0.1 / sqrt(3) = 0.248, two digits of which are shown
    assert (cell.mean, cell.spread) == ("0.80", "0.25")
    assert table.seeds == (3,)
    assert not cell.is_best  # of one there is no best


def test_the_best_is_marked_and_what_cannot_be_told_from_it(tmp_path: Path, run_maker) -> None:
    values = {0.1: (0.80, 0.82, 0.84), 0.2: (0.70, 0.721, 0.739), 0.5: (0.81, 0.80, 0.83)}
    make(tmp_path, run_maker, {("dpo", beta): [{ACCURACIES: value, KL: value} for value in own] for beta, own in values.items()})
    table, columns = table_of(tmp_path)
    assert table.groups == (("0.1",), ("0.2",), ("0.5",))
    best, worse, near = columns[ACCURACIES].cells
    assert (best.is_best, worse.is_best, near.is_best) == (True, False, False)
    assert (best.is_tied, worse.is_tied, near.is_tied) == (False, False, True)
    assert stats.ttest_rel(values[0.1], values[0.2]).pvalue < 0.05 < stats.ttest_rel(values[0.1], values[0.5]).pvalue
    assert not any(cell.is_best or cell.is_tied for cell in columns[KL].cells)  # KL has no direction


def test_lower_is_better_for_a_loss(tmp_path: Path, run_maker) -> None:
    for beta, loss in ((0.1, 0.4), (0.5, 0.6)):
        config = {"loss": {"name": "sft", "beta": beta, "monitor": "val/loss"}}
        run_maker(tmp_path / f"{beta}", config=config, results={"val/loss": loss})
    table, columns = table_of(tmp_path)
    assert [cell.is_best for cell in columns["val/loss"].cells] == [True, False]
    assert columns["val/loss"].is_monitor
    assert not table.has_intervals


def test_margins_of_different_losses_do_not_compete(tmp_path: Path, run_maker) -> None:
    margins = {("dpo", 0.1): 1.0, ("dpo", 0.5): 2.0, ("ipo", 0.1): 30.0, ("ipo", 0.5): 20.0}
    make(tmp_path, run_maker, {key: [{MARGINS: value, ACCURACIES: value / 40}] for key, value in margins.items()})
    table, columns = table_of(tmp_path)
    assert [cell.is_best for cell in columns[MARGINS].cells] == [False, True, True, False]
    assert [cell.is_best for cell in columns[ACCURACIES].cells] == [False, False, True, False]
    assert any("own scale" in note for note in table.notes)


def test_equal_means_are_both_best(tmp_path: Path, run_maker) -> None:
    make(tmp_path, run_maker, {("dpo", 0.1): [{GOLD: 0.5}], ("dpo", 0.5): [{GOLD: 0.5}]})
    _, columns = table_of(tmp_path)
    assert [(cell.is_best, cell.is_tied) for cell in columns[GOLD].cells] == [(True, False), (True, False)]


def test_runs_that_have_not_ended_are_counted_apart(tmp_path: Path, run_maker) -> None:
    make(tmp_path, run_maker, {("dpo", 0.1): [{ACCURACIES: 0.8}, {ACCURACIES: 0.9}]})
    run_maker(tmp_path / "running", config={"loss": {"name": "dpo", "beta": 0.1}, "seed": 2}, history=[{"step": 1, "train/loss": 0.7}])
    table, _ = table_of(tmp_path)
    assert (table.seeds, table.unfinished) == ((2,), (1,))


@pytest.mark.parametrize(
    ("other", "tied"), [({"0": 0.9, "1": 0.7}, True), ({"0": 0.79, "1": 0.79}, False), ({"0": 0.8}, False), ({"7": 0.8, "8": 0.8}, False)]
)
def test_a_tie_needs_two_common_seeds_and_an_interval_with_0(other: dict[str, float], tied: bool) -> None:
    assert is_tied({"0": 0.8, "1": 0.8001}, other) is tied
