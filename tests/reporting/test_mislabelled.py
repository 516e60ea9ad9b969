"""Training pairs that look mislabelled, on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignkit.analysis.runs import load_runs
from alignkit.ledger_file import LedgerFile, record_type
from alignkit.reporting.mislabelled import mislabelled_of
from alignkit.reporting.page import page
from alignkit.run_dir import rewrite_jsonl

EVIL = "<script>alert(1)</script>\u202e"


def with_ledger(run: Path, suspects: list[tuple[int, int, str]]) -> None:
    records = np.zeros(20, record_type(implicit=False))
    records["key"], records["step"], records["margin"] = range(20), 1, np.linspace(-1, 2, 20)
    ledger = LedgerFile(folder=run / "ledger")
    ledger.begin(implicit=False, sources=[""])
    ledger.append(records)
    numbers = {"visits": 1, "area": -1.0, "area_scaled": -0.5, "confidence": 0.25, "variability": 0.0}
    rewrite_jsonl(
        ledger.suspects,
        [
            {"key": key, "rank": rank, "row": row, "source": "", "prompt": f"{key} {EVIL}", "chosen": "good", "rejected": "bad", **numbers}
            for rank, key, row in suspects
        ],
    )


@pytest.fixture
def folder(tmp_path: Path, run_maker: Any) -> Path:
    for seed, suspects in enumerate(
        ([(1, 7, "d.jsonl, line 8"), (2, 3, "")], [(1, 3, ""), (2, 7, "d.jsonl, line 8")], [(1, 7, "d.jsonl, line 8")])
    ):
        run = run_maker(tmp_path / "s" / str(seed), config={"loss": {"name": "dpo"}, "seed": seed, "dataset": {"pairs": 20 + seed // 2}})
        with_ledger(run, suspects)
    run_maker(tmp_path / "s" / "plain", config={"loss": {"name": "dpo"}})
    return tmp_path / "s"


def test_pairs_that_most_runs_name_come_first_and_the_map_is_of_runs_on_the_same_data(folder):
    told = mislabelled_of(load_runs(folder))
    assert [(pair.prompt[0], pair.runs, pair.place, pair.margin) for pair in told.shown] == [
        ("7", "3 of 3", "d.jsonl, line 8", "−0.50"),
        ("3", "2 of 3", "", "−0.50"),
    ]
    assert (told.runs, told.mapped, told.pairs, told.visits) == (3, 2, 20, 40)
    assert told.figure.startswith("data:image/png;base64,")


def test_the_page_shows_them_harmless(folder):
    text = page(load_runs(folder), [], title="t")
    assert "Training pairs that look mislabelled" in text
    assert "d.jsonl, line 8" in text
    assert EVIL not in text
    assert "<script>alert" not in text


def test_runs_without_a_ledger_have_no_such_part(folder):
    assert mislabelled_of(load_runs(folder / "plain")).runs == 0
    assert "mislabelled" not in page(load_runs(folder / "plain"), [], title="t")


def test_a_damaged_ledger_is_said_and_leaves_the_rest_of_the_page(folder):
    (folder / "0" / "ledger" / "ledger.json").write_text("{")
    told = mislabelled_of(load_runs(folder))
    assert "cannot be read" in told.trouble
    assert told.shown
    assert not told.figure
