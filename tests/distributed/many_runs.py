"""Run by every rank: the runs that a file lists, one after the other in one meeting of the processes.

many_runs.py FILE       [{"folder": ..., "overrides": [...], "resume": bool, "stop_at": step of a SIGTERM to the last rank}, ...]
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from alignkit import ranks
from alignkit.command_line import precheck
from alignkit.configuration import config_yaml
from alignkit.errors import UserError
from alignkit.modules.stepping import SteppingModule
from alignkit.run_dir import RunDir
from alignkit.training import train

clip_gradients = SteppingModule.clip_gradients_by_norm


def run_one(folder: str, overrides: list[str], resume: bool = False, stop_at: int | None = None) -> None:
    """One run in a directory of its own, or the rest of one; a refusal is written there as `refused`."""
    run = RunDir(Path(folder))
    settings = dataclasses.replace(precheck([*overrides, f"run_dir={folder}"])[0], run_dir=folder)
    if ranks.is_first() and not resume:
        RunDir.create(run.path).config.write_text(config_yaml(settings), encoding="utf-8")
    SteppingModule.clip_gradients_by_norm = clip_gradients if stop_at is None else signalling(stop_at)  # type: ignore[method-assign]
    try:
        train(settings, run, resume=resume)
    except UserError as error:
        (run.path / "refused").write_text(str(error))
    except SystemExit as stopped:
        if stopped.code != 128 + signal.SIGTERM:
            raise
    gc.collect()


def signalling(step: int) -> Any:
    """In a step, one of the ranks receives a signal."""

    def clip(module: SteppingModule) -> float:
        if module.steps_done == step - 1 and ranks.rank() == ranks.ranks() - 1:
            signal.raise_signal(signal.SIGTERM)
        return clip_gradients(module)

    return clip


def main(file: str) -> None:
    warnings.filterwarnings("error")
    # Of libraries, in what they do with each other.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    if "WORLD_SIZE" in os.environ and os.environ["WORLD_SIZE"] != "1":
        torch.distributed.init_process_group("gloo")
    for one in json.loads(Path(file).read_text()):
        run_one(**one)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
