"""What several files of faults compare with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alignkit.run_dir import RunDir

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "end_to_end")]  # what tests share is a module of their folder

from undisturbed import SHORT


@pytest.fixture(scope="session")
def undisturbed(commands: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert commands(*SHORT, "logger=jsonl", f"run_dir={folder / 'run'}", log=folder / "log.txt") == 0, (folder / "log.txt").read_text()
    return RunDir(folder / "run")
