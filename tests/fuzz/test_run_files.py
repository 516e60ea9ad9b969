"""Run directories that were cut off, damaged or written by somebody else are read as far as they make sense, and never crash a reader."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from alignkit.analysis.json_lines import rows_of
from alignkit.analysis.pairs import disputed, held_out_pairs
from alignkit.analysis.runs import load_runs
from alignkit.errors import UserError
from alignkit.reporting.experiment import read_answer
from alignkit.reporting.page import page
from alignkit.resuming.resumption import check_unfinished, read_settings
from alignkit.run_dir import RunDir

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from hostile import altered, lines, mutated
from trials import fuzz, outcome

Row = dict[str, Any]

STORED = Path(__file__).parents[1] / "stored_runs" / "01_first_run"
HISTORY: list[Row] = [
    {"step": 0, "epoch": 0.0, "time": 1.5, "val/loss": 0.7, "val/rewards/accuracies": 0.5},
    {"step": 1, "epoch": 0.1, "time": 2.5, "train/loss": 0.6931471805599453, "train/lr": 1e-12},
    {"step": 2, "epoch": 0.2, "time": 3.5, "train/loss": None},
    {"step": 2, "epoch": 0.2, "time": 3.5, "val/loss": 0.1, "val/rewards/accuracies": 1.0},
]
PAIRS: list[Row] = [
    {
        "step": 2,
        "prompt": "p",
        "chosen": "a",
        "rejected": "b",
        "chosen_tokens": 3,
        "rejected_tokens": 4,
        "rewards/chosen": 0.5,
        "rewards/rejected": reward,
    }
    for reward in (0.1, 1e-3)
]
SAMPLES: list[Row] = [
    {"step": 0, "prompt": "p", "policy": "so it is", "reference": "so it was"},
    {"step": 2, "prompt": [{"role": "user", "content": "q"}], "completions": ["x", "y"], "scores": [1.0, 2.0]},
]
RESULTS: Row = {"steps": 2, "seconds": 3.5, "data/train": 10, "certificate/first_loss": 0.69, "val/loss": 0.1, "start/val/loss": 0.7}
JOBS: list[Row] = [{"job": 0, "run": "job-0", "overrides": ["loss.beta=0.1"]}, {"job": 1, "run": "job-1", "overrides": []}]
PIPE: Row = {"pipeline": "rlhf", "overrides": ["stages.sft.steps=3"], "stages": [{"stage": "sft", "directory": "job-0", "status": "done"}]}


@pytest.fixture(scope="module")
def config() -> Row:
    given: Row = yaml.safe_load((STORED / "config.yaml").read_text(encoding="utf-8"))
    return given


@pytest.fixture
def sweep(tmp_path: Path, config: Row) -> Callable[..., Path]:
    """Two runs in the folder of a sweep, the files of the first one replaced by the bytes that are given."""

    def write(**changed: bytes) -> Path:
        for job in ("job-0", "job-1"):
            folder = tmp_path / "sweep" / job
            folder.mkdir(parents=True, exist_ok=True)
            files = {
                "config.yaml": yaml.safe_dump({**config, "seed": int(job[-1])}).encode(),
                "metrics.jsonl": lines(*HISTORY),
                "pairs.jsonl": lines(*PAIRS),
                "samples.jsonl": lines(*SAMPLES),
                "results.json": json.dumps(RESULTS).encode(),
                "failure.json": b"",
            }
            files |= {name.replace("_", "."): content for name, content in changed.items() if job == "job-0" and "__" not in name}
            for name, content in files.items():
                (folder / name).write_bytes(content)
        for name, content in (("sweep__json", json.dumps(JOBS).encode()), ("pipeline__json", json.dumps(PIPE).encode())):
            (tmp_path / "sweep" / name.replace("__", ".")).write_bytes(changed.get(name, content))
        return tmp_path / "sweep"

    return write


def read_all(folder: Path) -> None:
    """What notebooks and the report read; a UserError names what is wrong."""
    runs = outcome(lambda: load_runs(folder))
    if not isinstance(runs, UserError):
        disputed(held_out_pairs(runs))
        page(runs, [], title="t")


@pytest.mark.parametrize(
    "name",
    ["config_yaml", "metrics_jsonl", "pairs_jsonl", "samples_jsonl", "results_json", "failure_json", "sweep__json", "pipeline__json"],
)
def test_a_damaged_file_is_read_or_refused(name: str, sweep: Callable[..., Path]) -> None:
    whole = sweep() / (name.replace("__", ".") if "__" in name else f"job-0/{name.replace('_', '.')}")
    content = whole.read_bytes() or b'{"exit_code": 1, "message": "no"}'

    @fuzz(3)
    @given(damaged=mutated(content))
    def on(damaged: bytes) -> None:
        read_all(sweep(**{name: damaged}))

    on()


@pytest.mark.parametrize(
    "name", ["metrics_jsonl", "pairs_jsonl", "samples_jsonl", "results_json", "failure_json", "sweep__json", "pipeline__json"]
)
def test_a_file_of_sound_json_that_says_something_else_is_read_or_refused(name: str, sweep: Callable[..., Path]) -> None:
    told: dict[str, Any] = {"metrics_jsonl": HISTORY, "pairs_jsonl": PAIRS, "samples_jsonl": SAMPLES, "results_json": RESULTS}
    told |= {"failure_json": {"exit_code": 1, "message": "no"}, "sweep__json": JOBS, "pipeline__json": PIPE}

    @fuzz(3)
    @given(other=altered(told[name]))
    def on(other: Any) -> None:
        content = lines(*(other if isinstance(other, list) else [other])) if name.endswith("jsonl") else json.dumps(other).encode()
        read_all(sweep(**{name: content}))

    on()


@fuzz(20)
@given(data=st.data(), rows=st.lists(st.sampled_from(HISTORY), min_size=1, max_size=6))
def test_of_a_history_that_was_cut_every_whole_row_is_read_to_the_bit(
    data: st.DataObject, rows: list[Row], sweep: Callable[..., Path]
) -> None:
    content = lines(*rows)
    length = data.draw(st.integers(0, len(content)))
    whole = [row for number, row in enumerate(rows, start=1) if len(lines(*rows[:number])) - 1 <= length]
    history = load_runs(sweep(metrics_jsonl=content[:length]) / "job-0").history
    assert history["step"].tolist() == [row["step"] for row in whole]
    for name in {name for row in whole for name, value in row.items() if value is not None}:
        found = history[name].tolist()
        expected = [math.nan if row.get(name) is None else row[name] for row in whole]
        assert repr(found) == repr([float(value) if name != "step" else value for value in expected])


@pytest.mark.parametrize(
    "content",
    [
        b"null\n",  # Arrow's reader crashed the interpreter
        b'{"step": 1.5}\n',
        b'{"step": 1e300}\n',
        b'{"step": {"a": 1}}\n',
        b'{"step": 1, "run": 2}\n',  # the name of a column that every frame has
        b'{"step": 1, "a": ' + b"9" * 400 + b"}\n",
        b"[" * 100_000 + b"\n",
    ],
)
def test_histories_that_broke_a_reader_once_are_read_beside_a_sound_row(content: bytes, sweep: Callable[..., Path]) -> None:
    folder = sweep(metrics_jsonl=content + lines({"step": 3, "val/loss": 0.5}))
    history = load_runs(folder / "job-0").history
    assert history.loc[history["step"] == 3, "val/loss"].tolist() == [0.5]
    read_all(folder)


def test_a_config_of_aliases_is_refused_before_it_is_unfolded(sweep: Callable[..., Path]) -> None:
    bomb = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'x'}]" for n in range(12))
    with pytest.raises(UserError, match="aliases"):
        load_runs(sweep(config_yaml=bomb.encode()))


@fuzz(100)
@given(content=mutated(lines(*HISTORY)))
@example(content=b"[" * 100_000)
@example(content=b'{"a": ' + b"9" * 5000 + b"}")
def test_lines_that_are_no_objects_are_left_out(content: bytes) -> None:
    for row in rows_of(content):
        assert isinstance(row, dict)


@fuzz(12)
@given(data=st.data())
def test_a_config_that_was_changed_resumes_with_what_it_says_or_not_at_all(
    data: st.DataObject, sweep: Callable[..., Path], config: Row
) -> None:
    run = RunDir(sweep() / "job-0")
    content = data.draw(mutated(yaml.safe_dump(config).encode()) | altered(config).map(lambda other: yaml.safe_dump(other).encode()))
    run.config.write_bytes(content)
    settings = outcome(lambda: read_settings(run))
    refusal = settings if isinstance(settings, UserError) else outcome(lambda: check_unfinished(run, settings))
    assert refusal is None or str(run.path) in str(refusal)


ANSWER = {
    "findings.md": b"# Which?\n\n- One is better: 0.5 [0.4, 0.6].\n- Two.\n",
    "table.csv": b"method,gold\ndpo,0.5\nppo,-1e-5\n",
    "figure.svg": b"<svg/>",
    "answer.json": b'{"question": "Which?"}',
}


@pytest.mark.parametrize("name", ["findings.md", "table.csv", "figure.svg", "answer.json"])
def test_a_damaged_answer_is_told_or_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "answer").mkdir()
    for other, content in ANSWER.items():
        (tmp_path / "answer" / other).write_bytes(content)

    @fuzz(40)
    @given(damaged=mutated(ANSWER[name]))
    def on(damaged: bytes) -> None:
        (tmp_path / "answer" / name).write_bytes(damaged)
        told = outcome(lambda: read_answer(tmp_path))
        assert not isinstance(told, UserError) or str(tmp_path) in str(told)

    on()
