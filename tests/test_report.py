"""`python -m alignkit.report`: the command. What the page looks like in a browser is in `reporting/test_page_in_browser.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from alignkit.errors import UserError
from alignkit.report import MARK, default_title, report


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A run that ended and one that did not."""
    for number, name in enumerate(("ended", "running")):
        folder = tmp_path / "sweep" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(
            yaml.safe_dump({"loss": {"name": "dpo", "monitor": "val/rewards/accuracies"}, "seed": number, "steps": 40})
        )
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 7, "epoch": 0.1, "time": 1.0, "train/loss": 0.5}) + "\n")
    (tmp_path / "sweep" / "ended" / "results.json").write_text(json.dumps({"val/rewards/accuracies": 0.75, "steps": 40, "seconds": 3.0}))
    return tmp_path / "sweep"


def test_a_page_is_written_and_written_over(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "page.html"
    assert report([str(runs), "-o", str(file)]) == 0
    assert capsys.readouterr().out.startswith(f"report: {file} (2 runs, ")
    first = file.read_text(encoding="utf-8")
    assert "<title>sweep</title>" in first
    assert MARK in first[:2000]
    assert "running, or was killed" in first
    assert "7 of 40" in first
    assert report([str(runs), "--output", str(file), "--title", "Mine & <yours>"]) == 0
    assert "<title>Mine &amp; &lt;yours&gt;</title>" in file.read_text(encoding="utf-8")
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["page.html"]


def test_the_page_lies_where_one_stands(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report(["sweep"])
    assert (tmp_path / "report.html").is_file()


def test_what_is_no_report_is_not_written_over(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "thesis.html"
    file.write_text("<html>years of work</html>")
    with pytest.raises(UserError, match=r"is no report, so it is not written over. Choose another with -o FILE"):
        report([str(runs), "-o", str(file)])
    assert file.read_text() == "<html>years of work</html>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "RUNS is missing"),
        (["{runs}", "-o", "{runs}"], "is a folder. Type -o .*report.html"),
        (["{runs}", "-o", "{runs}/nowhere/page.html"], "there is no folder"),
        (["{runs}", "--titel", "x"], "unrecognized arguments: --titel"),
        (["{runs}", "-o"], "expected one argument"),
        (["{runs}/nothing"], "there is no such place"),
        (["{empty}"], "holds no run"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(runs: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    typed = [argument.format(runs=runs, empty=tmp_path / "empty") for argument in arguments]
    if "-o" not in typed:
        typed += ["-o", str(tmp_path / "page.html")] if typed else []
    with pytest.raises(UserError, match=message):
        report(typed)
    assert not (tmp_path / "page.html").exists()


def test_a_run_that_has_done_nothing_yet_makes_a_page(tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("seed: 0\n")
    assert report([str(tmp_path / "begun"), "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "unfinished" in page
    assert 'id="curves"' not in page
    assert "No run has left counts of its data yet." in page


def test_a_failed_job_says_why(runs: Path, tmp_path: Path) -> None:
    (runs / "running" / "failure.json").write_text(json.dumps({"exit_code": 3, "message": "the loss is <nan> at step 7"}))
    report([str(runs), "-o", str(tmp_path / "page.html")])
    assert "the loss is &lt;nan&gt; at step 7" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_titles_name_the_places() -> None:
    assert default_title(["runs/a", "runs/b/", "wandb:me/mine", "x", "y"]) == "a, b, wandb:me/mine and 2 more"


def test_neither_torch_nor_lightning_is_loaded(runs: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from alignkit.report import report; report(sys.argv[1:]); "
        "print(sorted({'torch', 'transformers', 'lightning'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(runs), "-o", str(tmp_path / "page.html")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_names_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("RUNS", "-o, --output", "--title", "wandb:entity/project"))
