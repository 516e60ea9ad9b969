"""Records of visits on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from alignkit.ledger_file import LedgerFile, record_type


def records(*steps: int, implicit: bool = False) -> np.ndarray:
    made = np.zeros(len(steps), record_type(implicit=implicit))
    made["step"], made["key"], made["margin"] = steps, range(len(steps)), np.arange(len(steps)) / 3
    return made


@pytest.fixture
def file(tmp_path: Path) -> LedgerFile:
    ledger = LedgerFile(folder=tmp_path / "ledger")
    ledger.begin(implicit=False, sources=[""])
    return ledger


def test_a_visit_takes_about_twenty_bytes():
    assert (record_type(implicit=False).itemsize, record_type(implicit=True).itemsize) == (19, 23)


def test_what_is_appended_is_read(file: LedgerFile):
    assert len(file.read()) == 0
    for part in (records(1, 1), records(2)):
        file.append(part)
    assert file.read()["step"].tolist() == [1, 1, 2]
    assert file.read()["margin"].tolist() == np.float32([0, 1 / 3, 0]).tolist()
    assert file.visits.stat().st_size == 3 * 19


def test_half_a_record_is_neither_read_nor_left_in_the_way(file: LedgerFile):
    file.append(records(1, 2))
    with file.visits.open("ab") as content:
        content.write(b"\x01" * 7)
    assert file.read()["step"].tolist() == [1, 2]
    file.append(records(3))
    assert file.read()["step"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("step", "kept"), [(-1, []), (0, []), (2, [1, 2, 2]), (3, [1, 2, 2]), (4, [1, 2, 2, 4]), (9, [1, 2, 2, 4])])
def test_later_steps_are_forgotten(file: LedgerFile, step: int, kept: list[int]):
    file.append(records(1, 2, 2, 4))
    file.forget_after(step)
    assert file.read()["step"].tolist() == kept


def test_a_run_without_a_ledger_has_nothing_to_forget(tmp_path: Path):
    LedgerFile(folder=tmp_path / "none").forget_after(3)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_says_how_its_records_are_read(tmp_path: Path):
    ledger = LedgerFile(folder=tmp_path)
    ledger.begin(implicit=True, sources=["a", "ü"])
    ledger.append(records(1, implicit=True))
    assert ledger.read().dtype == record_type(implicit=True)
    assert ledger.sources() == ["a", "ü"]
    assert json.loads(ledger.about.read_text())["columns"][0] == ["key", "<i4"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 1}', '{"format": 2, "columns": []}', '{"format": 1, "columns": [["key", "<O8"]]}']
)
def test_another_manifest_is_refused(file: LedgerFile, content: str):
    file.about.write_text(content)
    with pytest.raises(ValueError, match=r"ledger\.json: is (no manifest|not JSON)"):
        file.read()
