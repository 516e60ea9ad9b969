"""What the audit found in the data of runs, on the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignkit.analysis.runs import load_runs
from alignkit.reporting.comparison import compare
from alignkit.reporting.data_quality import QUALITY, QualityPage, quality_of_runs
from alignkit.reporting.page import page

EVIL = "<script>alert(1)</script>\u202e"
ACCOUNT: dict[str, Any] = {
    "examples": 1239,
    "comparisons": 1240,
    "duplicates": {"near": 4, "held_out": 255, "leaked": 2},
    "contradictions": None,
    "lengths": [{"longer": {"value": 0.4455, "low": 0.418, "high": 0.4733}, "auc": {"value": 0.43584, "low": 0.4173, "high": None}}],
    "positions": [],
    "noise": {"accuracy": {"value": 0.603, "low": 0.575, "high": 0.63}, "tells": True, "rate": {"value": 0.2, "low": 0.0, "high": 0.33}},
    "suspects": [
        {"prompt": f"p {EVIL}", "chosen": "c", "rejected": "r", "chance": 0.0519, "row": "some/where/d.jsonl, line 8"},
        {"example": 4, "row": None},
    ],
}


@pytest.fixture
def folder(tmp_path: Path, run_maker: Any) -> Path:
    for number, account in enumerate([ACCOUNT, ACCOUNT, {**ACCOUNT, "noise": {"tells": False}, "positions": None}, None]):
        run = run_maker(
            tmp_path / "s" / str(number), config={"loss": {"name": "dpo"}, "seed": number, "dataset": {"pairs": 20 + number // 2}}
        )
        if account is not None:
            (run / QUALITY).write_text(json.dumps(account))
    return tmp_path / "s"


def told(folder: Path) -> QualityPage:
    runs = load_runs(folder)
    return quality_of_runs(runs, compare(runs))


def test_each_different_account_has_a_column(folder: Path) -> None:
    grid = told(folder).grid
    assert len(grid.headings) == 3
    assert {row[0]: row[1:] for row in grid.rows} == {
        "training examples": ("1,239", "1,239"),
        "comparisons of two completions": ("1,240", "1,240"),
        "prompts near to an earlier one": ("4", "4"),
        "held-out prompts near to a training prompt": ("2 of 255", "2 of 255"),
        "pairs labelled both ways": ("–", "–"),
        "prompts whose labels run in a circle": ("–", "–"),
        "chosen is longer": ("44.5 [41.8, 47.3] %", "44.5 [41.8, 47.3] %"),
        "AUC of length": ("0.436 [0.417, –]", "0.436 [0.417, –]"),
        "chosen stands first": ("not known", "–"),
        "labels that a model on words predicts": ("60.3 [57.5, 63.0] %", "–"),
        "labels flipped by mistake": ("20.0 [0.0, 33.0] %", "says nothing"),
    }


def test_suspects_name_their_row_and_are_harmless(folder: Path) -> None:
    suspect, other = told(folder).suspects
    assert (other.place, other.prompt, other.chance) == ("example 5", "–", "–")
    assert (suspect.place, suspect.chance) == ("d.jsonl, line 8", "5.2 %")
    text = page(load_runs(folder), [], title="t")
    assert "Quality of the data" in text
    assert EVIL not in text
    assert "<script>alert" not in text


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"lengths": 3, "noise": [], "positions": {"a": 1}}', '{"suspects": [1, {}], "noise": {"rate": 1}}']
)
def test_a_file_that_is_none_of_the_audits_hurts_nobody(tmp_path: Path, run_maker: Any, content: str) -> None:
    (run_maker(tmp_path / "run", config={"loss": {"name": "dpo"}}) / QUALITY).write_text(content)
    page(load_runs(tmp_path / "run"), [], title="t")


def test_without_an_account_nothing_is_said(tmp_path: Path, run_maker: Any) -> None:
    run_maker(tmp_path / "run", config={"loss": {"name": "dpo"}})
    assert "Quality of the data" not in page(load_runs(tmp_path / "run"), [], title="t")
