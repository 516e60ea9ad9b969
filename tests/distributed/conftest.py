"""Several real processes that meet through gloo, for tests of what they compute together."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
GRACE = 2.0
"""Seconds that the others have once one has failed: they may know more of what happened."""
RunRanks = Callable[..., list[str]]


def start_ranks(*args: str | Path, processes: int = 2, timeout: float = 120, environment: Mapping[str, str] | None = None) -> list[str]:
    """Run `python *args` in several processes, as a launcher of torch.distributed would; the first fails all.

    A script finds `alignkit`, what lies in `ranks/`, and as `conftest` the builders of `tests/conftest.py`. Lightning takes the
    environment for torchrun's.

    Args:
        args: of the interpreter: a script with its arguments, or `-m` with a module's.
        processes: that each get a RANK.
        timeout: seconds, for all of them.
        environment: added to this process's own.

    Returns:
        What each process wrote, errors included, by rank.

    Raises:
        AssertionError: when a process fails or is not done in time, with the output of all.
    """
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [*map(str, (TESTS.parent, TESTS, TESTS / "distributed" / "ranks")), os.environ.get("PYTHONPATH", "")]
        ),
        "PYTHONSAFEPATH": "1",  # this folder has a conftest too
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "tests",
        **(environment or {}),
    }
    with contextlib.ExitStack() as stack:
        # Files, not pipes: nobody reads while the processes wait for each other.
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(processes)]
        started = [
            subprocess.Popen(
                [sys.executable, *map(str, args)],
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            for rank, file in enumerate(files)
        ]
        codes = await_all(started, timeout)
        for file in files:
            file.seek(0)
        outputs = [file.read().decode(errors="replace") for file in files]
    if any(code != 0 for code in codes):
        said = "\n".join(f"--- rank {rank}, exit code {codes[rank]}\n{output}" for rank, output in enumerate(outputs))
        raise AssertionError(f"{' '.join(map(str, args))} (None: stopped, after {timeout} s or with another)\n{said}")
    return outputs


def await_all(processes: Sequence[subprocess.Popen[bytes]], timeout: float) -> list[int | None]:
    """Exit codes; None of those that were stopped because time was up or another had failed."""
    end = time.monotonic() + timeout
    try:
        while None in (codes := [process.poll() for process in processes]) and time.monotonic() < end:
            if any(codes):
                end = min(end, time.monotonic() + GRACE)
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return codes


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def run_ranks() -> RunRanks:
    """`start_ranks`."""
    return start_ranks
