"""The run directory: the files that every run leaves behind, whoever trained it."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from alignkit.errors import UserError
from alignkit.foreign_files import check_folder_contained
from alignkit.metrics import VALIDATION
from alignkit.row_files import RowFiles, append_text, replace_text

Scalar = float | int | str | bool | None
START = "start/"
"""In `results.json` before the name of what the first validation measured."""


@final
@dataclass(frozen=True, slots=True)
class RunDir:
    """Names and writers of a run's files."""

    path: Path
    rows: RowFiles = field(default_factory=RowFiles, init=False, repr=False, compare=False)
    """Writes the files that grow: what a full disk refuses waits there."""

    @classmethod
    def create(cls, path: str | Path) -> RunDir:
        """Make the directory. A finished or running run is never written over.

        Raises:
            UserError: when the place holds a run already, cannot be written, or leads elsewhere.
        """
        run = cls(Path(path).expanduser().resolve())
        if os.path.exists(run.path) and not os.path.isdir(run.path):  # false for names that no file system takes
            raise UserError(f"run_dir = {run.path}: is a file. Choose another, e.g. run_dir={run.path}-2.")
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            check_folder_contained(run.path, "run_dir")
            # Exclusive creation decides between two runs that start in the same second.
            os.close(os.open(run.config, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            raise UserError(f"run_dir = {run.path}: holds a run already. Choose another, e.g. run_dir={run.path}-2.") from None
        except OSError as error:
            raise UserError(f"run_dir = {run.path}: cannot be written ({error.strerror}). Choose another with run_dir=DIR.") from None
        return run

    @property
    def config(self) -> Path:
        """The whole resolved config."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object a logged step."""
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """One JSON object a sampled prompt: step, prompt, policy, reference."""
        return self.path / "samples.jsonl"

    @property
    def pairs(self) -> Path:
        """One JSON object a held-out pair, of the newest validation: texts, tokens, rewards."""
        return self.path / "pairs.jsonl"

    @property
    def ledger(self) -> Path:
        """What each training pair was worth each time it was trained on, with `callbacks.ledger=true`; see `ledger_file`."""
        return self.path / "ledger"

    @property
    def results(self) -> Path:
        """Final and best values, costs, fingerprints, counts; one flat object."""
        return self.path / "results.json"

    @property
    def model(self) -> Path:
        """A Hugging Face folder."""
        return self.path / "model"

    @property
    def trial(self) -> Path:
        """Of a job of a study: which of its trials the job is."""
        return self.path / "trial.json"

    @property
    def pruned(self) -> Path:
        """Of a job of a study that did worse than others: the step at which it was stopped."""
        return self.path / "pruned.json"

    @property
    def heads(self) -> Path:
        """Weights of the heads."""
        return self.path / "heads.safetensors"

    @property
    def heads_description(self) -> Path:
        """How the heads pool and which token they read."""
        return self.path / "heads.json"

    @property
    def texts(self) -> Path:
        """How texts were written for the model, and the token that ends them."""
        return self.path / "texts.json"

    @property
    def card(self) -> Path:
        """What the model is, for people and for the hub."""
        return self.model / "README.md"

    @property
    def checkpoints(self) -> Path:
        """For resuming only."""
        return self.path / "checkpoints"

    @property
    def failures(self) -> Path:
        """Steps that were not taken, each in a folder of its own: for `alignkit.audit failure=`."""
        return self.path / "failures"

    @property
    def last_checkpoint(self) -> Path:
        """The newest state with optimizer and schedule, beside `best.ckpt`, the best weights by the loss's monitor."""
        return self.checkpoints / "last.ckpt"

    def append_metrics(self, values: Mapping[str, Scalar], *, step: int, epoch: float) -> None:
        """Add one row; earlier rows are never touched, and a row is in the file when this returns, or waits where the disk is full."""
        self.rows.append(self.metrics, json_line({"step": step, "epoch": epoch, "time": time.time(), **values}))

    def append_sample(self, row: Mapping[str, Scalar]) -> None:
        """Add one row to `samples.jsonl`, in the same way."""
        self.rows.append(self.samples, json_line(row))

    def rewrite_pairs(self, rows: Iterable[Mapping[str, Scalar]]) -> None:
        """Write `pairs.jsonl` anew: whole or not at all, and later where the disk is full."""
        self.rows.replace(self.pairs, "".join(map(json_line, rows)))

    def metric_rows(self) -> list[dict[str, Scalar]]:
        """All rows of `metrics.jsonl`, those that wait too."""
        written = list(read_jsonl(self.metrics)) if self.metrics.exists() else []
        return [*written, *map(json.loads, self.rows.waiting(self.metrics))]

    def write_results(self, values: Mapping[str, Scalar]) -> None:
        """Write `results.json` whole or not at all."""
        replace_text(self.results, json.dumps({k: jsonable(v) for k, v in values.items()}, indent=2) + "\n")


def jsonable(value: Scalar) -> Scalar:
    """NaN and infinities as null: JSON has no word for them and other readers refuse Python's."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_jsonl(path: Path, row: Mapping[str, Scalar]) -> None:
    """Append one JSON object as one line."""
    append_text(path, json_line(row))


def forget_after(path: Path, step: int) -> None:
    """Leave out the rows of later steps, of which a resumed run writes its own, and a last line that is half written. A file that is not
    there stays so. Rows are in order of step; what is cut off needs no room on the disk, the lack of which may have stopped the run."""
    if path.exists():
        end = next((end for end, row in _from_the_end(path) if int(row["step"] or 0) <= step), 0)
        os.truncate(path, end)


def rewrite_jsonl(path: Path, rows: Iterable[Mapping[str, Scalar]]) -> None:
    """Write JSON objects, one a line, in place of what the file held: whole or not at all."""
    replace_text(path, "".join(json_line(row) for row in rows))


def json_line(row: Mapping[str, Scalar]) -> str:
    """One JSON object as one line."""
    return json.dumps({k: jsonable(v) for k, v in row.items()}, ensure_ascii=False) + "\n"


def read_jsonl(path: Path) -> Iterator[dict[str, Scalar]]:
    """The rows of a file that `append_jsonl` wrote, without what was written by half."""
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            if (row := row_in(line)) is not None:
                yield row


def newest_first(path: Path) -> Iterator[dict[str, Scalar]]:
    """The rows of a file that `append_jsonl` wrote, from its end, of which the first ones cost little in a long file."""
    return (row for _, row in _from_the_end(path))


def _from_the_end(path: Path) -> Iterator[tuple[int, dict[str, Scalar]]]:
    """Each row, the newest first, with the place in the file where it ends."""
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    while end > 0:
        start = content.rfind(b"\n", 0, end - 1) + 1
        if (row := row_in(content[start:end])) is not None:
            yield end, row
        end = start


def row_in(line: str | bytes) -> dict[str, Scalar] | None:
    """The JSON object that a line is; None where it is none, or half of one."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def start_and_end(rows: Iterable[Mapping[str, Scalar]]) -> dict[str, Scalar]:
    """Of rows of `metrics.jsonl`, `start/val/*` of the first validation and `val/*` of the newest; a validation may have several rows."""
    every = list(rows)
    validations = [row["step"] for row in every if any(name.startswith(VALIDATION) for name in row)]
    if not validations:
        return {}
    first, last = (
        {name: value for row in every if row["step"] == step for name, value in row.items() if name.startswith(VALIDATION)}
        for step in (validations[0], validations[-1])
    )
    return {**{START + name: value for name, value in first.items()}, **last}
