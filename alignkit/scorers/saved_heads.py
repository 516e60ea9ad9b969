"""Heads that a run left behind: which there are, one of them loaded, and the normalisation of its scores.

    score = gain * (what the head says) + bias

Gain and bias are those of `alignkit.scorers.normalization`, 1 and 0 where none were stored.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, final

from safetensors import SafetensorError, safe_open

from alignkit.errors import UserError, check_choice
from alignkit.models.export import head_settings
from alignkit.models.heads import Heads
from alignkit.run_dir import RunDir
from alignkit.scorers.normalization import Normalization


@final
class SavedHead:
    """The description of one head in a run's `heads.json`."""

    def __init__(self, run: RunDir, name: str, entry: dict[str, Any]) -> None:
        self.run = run
        self.name = name
        self.entry = entry

    @property
    def terminator(self) -> int:
        """The token that ended completions when the head was trained."""
        return int(self.entry["terminator_id"])

    @property
    def normalization(self) -> Normalization:
        """What is stored, else the one that changes nothing."""
        return Normalization(gain=float(self.entry.get("gain", 1.0)), bias=float(self.entry.get("bias", 0.0)))

    def store_normalization(self, normalization: Normalization) -> None:
        """Write gain and bias of this head into `heads.json`, whole or not at all; whatever else is there stays as it is."""
        entries = _read(self.run)
        entries[self.name] |= {"gain": normalization.gain, "bias": normalization.bias}
        draft = self.run.heads_description.with_suffix(".json.part")
        draft.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
        os.replace(draft, self.run.heads_description)
        self.entry = entries[self.name]

    def load(self) -> Heads:
        """The head alone, float32, in evaluation mode.

        Raises:
            UserError: when its weights are missing or of another shape.
        """
        heads = Heads(int(self.entry["hidden_width"]), {self.name: head_settings(self.name, self.entry)})
        prefix = f"{self.name}."
        try:
            with safe_open(self.run.heads, framework="pt") as file:
                heads.load_state_dict({key: file.get_tensor(key) for key in file.keys() if key.startswith(prefix)})  # noqa: SIM118
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{self.run.heads}: the head {self.name!r} cannot be loaded ({reason})") from None
        return heads.requires_grad_(False).eval()


def head_names(path: str | Path, where: str = "scorer") -> list[str]:
    """The names of all heads of a finished run.

    Raises:
        UserError: when there is no such run, or it trained none.
    """
    return list(_entries(path, where)[1])


def saved_head(path: str | Path, name: str | None, where: str = "scorer") -> SavedHead:
    """A head of a finished run; None names the only one. Reads `heads.json` and no weights.

    `where` is the dotted path of the settings that have `path` and `head`.

    Raises:
        UserError: when there is no such run or head, or several heads and no name.
    """
    run, entries = _entries(path, where)
    if name is None:
        if len(entries) > 1:
            raise UserError(f"{where}.head is missing: {run.path} has {', '.join(entries)}. Type {where}.head={next(iter(entries))}.")
        name = next(iter(entries))
    check_choice(f"{where}.head", name, entries)
    return SavedHead(run, name, entries[name])


def finished_run(path: str | Path, where: str) -> RunDir:
    """The directory of a run that has saved its model. `where` is the setting that names it.

    Raises:
        UserError: when it is none.
    """
    run = RunDir(Path(path).expanduser())
    if not run.path.is_dir():
        raise UserError(f"{where} = {str(path)!r}: there is no such folder (looked at {run.path.absolute()}). Type {where}=RUN_DIRECTORY.")
    if not run.model.is_dir():
        raise UserError(f"{where} = {str(path)!r}: holds no model/ folder, so it is no finished run. Type {where}=RUN_DIRECTORY.")
    return run


def _entries(path: str | Path, where: str) -> tuple[RunDir, dict[str, dict[str, Any]]]:
    run = finished_run(path, f"{where}.path")
    if not run.heads_description.is_file():
        raise UserError(f"{where}.path = {str(path)!r}: the run trained no head. Type {where}.path=RUN of one with loss=bradley_terry.")
    return run, _read(run)


def _read(run: RunDir) -> dict[str, dict[str, Any]]:
    try:
        entries = json.loads(run.heads_description.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{run.heads_description}: cannot be read ({error})") from None
    if not isinstance(entries, dict) or not entries or not all(isinstance(entry, dict) for entry in entries.values()):
        raise UserError(f"{run.heads_description}: describes no heads.")
    return entries
