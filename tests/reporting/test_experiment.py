from __future__ import annotations

import base64
import json
from pathlib import Path

import pandas as pd
import pytest

from alignkit.errors import UserError
from alignkit.reporting.experiment import read_answer


def test_an_answer_is_told_as_it_was_written(tmp_path: Path) -> None:
    place = tmp_path / "answer"
    place.mkdir()
    (tmp_path / "experiment.json").write_text(json.dumps({"question": "Which?"}))
    (place / "findings.md").write_text("# Which?\n\n- dpo wins by 0.1\n  at equal KL.\n- ppo is slow.\n")
    frame = pd.DataFrame({"loss": ["dpo", "a,b"], "mean": [0.5, 0.123456], "seeds": [3, 3], "low": [float("nan"), 0.1]})
    frame.to_csv(place / "table.csv", index=False)
    (place / "figure.png").write_bytes(b"png")
    (place / "figure.svg").write_text("<svg/>")
    told = read_answer(tmp_path)
    assert told is not None
    assert told.question == "Which?"
    assert told.findings == ("dpo wins by 0.1 at equal KL.", "ppo is slow.")
    assert told.headings == ("loss", "mean", "seeds", "low")
    assert told.rows == (("dpo", "0.5000", "3", ""), ("a,b", "0.1235", "3", "0.1"))
    assert told.numeric == (False, True, True, True)
    assert told.figure == "data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode()


def test_the_question_is_else_the_heading_of_the_findings(tmp_path: Path) -> None:
    (tmp_path / "answer").mkdir()
    (tmp_path / "answer" / "findings.md").write_text("# Does it?\n\nIt does.\n")
    told = read_answer(tmp_path)
    assert told is not None
    assert (told.question, told.findings, told.rows, told.figure) == ("Does it?", ("It does.",), (), "")


def test_folders_without_an_answer_have_none(tmp_path: Path) -> None:
    assert read_answer(tmp_path) is None
    (tmp_path / "answer").mkdir()
    assert read_answer(tmp_path) is None
    assert read_answer(Path("wandb:entity/project")) is None


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "answer").mkdir()
    (tmp_path / "answer" / "findings.md").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="answer: cannot be read"):
        read_answer(tmp_path)
