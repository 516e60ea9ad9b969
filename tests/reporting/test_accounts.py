from __future__ import annotations

from pathlib import Path

from alignkit.analysis.runs import load_runs
from alignkit.data.dropping import REASONS
from alignkit.reporting.accounts import certificate, costs, data_counts, total_time, uncertified
from alignkit.reporting.comparison import compare


def test_equal_counts_stand_once_with_what_they_count(tmp_path: Path, run_maker) -> None:
    for seed in range(3):
        results = {"data/validation": 256, "data/train": 2000, "data/too_long": 7}
        run_maker(tmp_path / f"{seed}", config={"loss": {"name": "dpo"}, "seed": seed}, results=results)
    runs = load_runs(tmp_path)
    grid = data_counts(runs, compare(runs))
    assert grid.headings == ("count", "all 3 runs", "what it counts")
    assert [row[:2] for row in grid.rows] == [("too_long", "7"), ("train", "2,000"), ("validation", "256")]
    assert REASONS["too_long"] in grid.rows[0][2]


def test_different_counts_stand_side_by_side(tmp_path: Path, run_maker) -> None:
    for name, train in (("a", 100), ("b", 200)):
        run_maker(tmp_path / name, config={"loss": {"name": "dpo"}, "dataset": {"pairs": train}}, results={"data/train": train})
    runs = load_runs(tmp_path)
    grid = data_counts(runs, compare(runs))
    assert grid.headings[1:3] == ("dataset.pairs=100 (1 run)", "dataset.pairs=200 (1 run)")
    assert grid.rows[0][1:3] == ("100", "200")


def test_the_certificate_tells_its_extremes_and_who_has_none(tmp_path: Path, run_maker) -> None:
    for name, error in (("a", 1e-6), ("b", 3e-6)):
        run_maker(tmp_path / name, config={"loss": {"name": "dpo"}}, results={"certificate/layout_error": error})
    run_maker(tmp_path / "c", config={"loss": {"name": "dpo"}})
    runs = load_runs(tmp_path)
    (row,) = certificate(runs).rows
    assert row[:4] == ("layout_error", "2", "1e-06", "3e-06")
    assert "packed" in row[4]
    assert uncertified(runs) == ["c"]


def test_costs_in_units_that_fit(tmp_path: Path, run_maker) -> None:
    results = {"seconds": 100.0, "tokens_per_second": 5432.1, "peak_memory_bytes": 3 * 2**29}
    run_maker(tmp_path / "a", config={"loss": {"name": "dpo"}}, results=results)
    run_maker(tmp_path / "b", config={"loss": {"name": "dpo"}})
    runs = load_runs(tmp_path)
    grid = costs(runs)
    assert grid.headings == ("run", "steps", "time", "tokens/s", "peak memory, GiB")
    assert grid.rows == (("a", "40", "1 min 40 s", "5,432", "1.50"), ("b", "–", "–", "–", "–"))
    assert grid.order[0] == (None, 40.0, 100.0, 5432.1, 3 * 2**29)
    assert total_time(runs) == "1 run, 1 min 40 s in all"
