"""The run directory: the files that every run leaves behind, whoever trained it."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from alignkit.errors import UserError
from alignkit.metrics import VALIDATION

Scalar = float | int | str | bool | None
START = "start/"
"""In `results.json` before the name of what the first validation measured."""


@final
@dataclass(frozen=True, slots=True)
class RunDir:
    """Names and writers of a run's files."""

    path: Path

    @classmethod
    def create(cls, path: str | Path) -> RunDir:
        """Make the directory. A finished or running run is never written over.

        Raises:
            UserError: when the place holds a run already or cannot be written.
        """
        run = cls(Path(path).expanduser().resolve())
        try:
            run.path.mkdir(parents=True, exist_ok=True)
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
    def last_checkpoint(self) -> Path:
        """The newest state with optimizer and schedule, beside `best.ckpt`, the best weights by the loss's monitor."""
        return self.checkpoints / "last.ckpt"

    def append_metrics(self, values: Mapping[str, Scalar], *, step: int, epoch: float) -> None:
        """Add one row; earlier rows are never touched, and a row is on disk when this returns."""
        append_jsonl(self.metrics, {"step": step, "epoch": epoch, "time": time.time(), **values})

    def write_results(self, values: Mapping[str, Scalar]) -> None:
        """Write `results.json` whole or not at all."""
        replace_text(self.results, json.dumps({k: jsonable(v) for k, v in values.items()}, indent=2) + "\n")


def jsonable(value: Scalar) -> Scalar:
    """NaN and infinities as null: JSON has no word for them and other readers refuse Python's."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_jsonl(path: Path, row: Mapping[str, Scalar]) -> None:
    """Append one JSON object as one line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json_line(row))


def forget_after(path: Path, step: int) -> None:
    """Leave out the rows of later steps, of which a resumed run writes its own. A file that is not there stays so."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            kept = [line for line in file if line.endswith("\n") and json.loads(line)["step"] <= step]
        replace_text(path, "".join(kept))


def rewrite_jsonl(path: Path, rows: Iterable[Mapping[str, Scalar]]) -> None:
    """Write JSON objects, one a line, in place of what the file held: whole or not at all."""
    replace_text(path, "".join(json_line(row) for row in rows))


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f"{path.name}.part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def json_line(row: Mapping[str, Scalar]) -> str:
    """One JSON object as one line."""
    return json.dumps({k: jsonable(v) for k, v in row.items()}, ensure_ascii=False) + "\n"


def read_jsonl(path: Path) -> Iterator[dict[str, Scalar]]:
    """The rows of a file that `append_jsonl` wrote."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


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
