"""What a stranger may send: pickles that run something, models that ask for it, directories that lead elsewhere."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.lab import tiny

MARK = "touched"
"""A file that no test may find: whoever could run code would have made it."""


class Evil:
    """Unpickled, it touches a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.mark}'",)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A file that must not be there at the end."""
    file = tmp_path / MARK
    yield file
    assert not file.exists(), "somebody else's code was run"


@pytest.fixture
def evil_pickle(mark: Path) -> bytes:
    """Bytes that run a command when they are unpickled."""
    return pickle.dumps(Evil(mark))


@pytest.fixture
def evil_checkpoint(mark: Path, tmp_path: Path) -> Path:
    """A file of torch's that runs a command when everything in it is loaded."""
    file = tmp_path / "evil.pt"
    torch.save({"state_dict": {"weight": Evil(mark)}, "alignkit": {"steps_done": 1}}, file)
    return file


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A copy of the packaged model, to be changed."""
    return Path(shutil.copytree(Path(tiny.__file__).parent / "pretrained" / "tiny", tmp_path / "model"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, commands: Any) -> Path:
    """A run that a signal stopped: two steps are done, two are left. Tests copy it."""
    folder = tmp_path_factory.mktemp("trained")
    run = folder / "run"
    code = commands(*SMALL, f"run_dir={run}", log=folder / "log.txt", signal=15, at="alignkit.run_dir:RunDir.append_metrics", call=4)
    assert code == 143, (folder / "log.txt").read_text()
    return run


SMALL = (
    *("loss=con_dph", "steps=4", "schedule.warmup_steps=1", "validation.every=4", "validation.samples=0", "logger=jsonl"),
    *("logger.every=1", "dataset.pairs=24", "dataset.validation_examples=4", "batch.pairs=4", "callbacks.progress_bar=false"),
)


@pytest.fixture
def stopped(trained: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))


@pytest.fixture
def alone(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command in a process of its own, with nothing on standard input."""

    def run(module: str, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *argv],
            cwd=tmp_path, env=os.environ | environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    return run
