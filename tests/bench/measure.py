"""What the benchmarks share and what imports nothing heavy: arguments, child processes with their peak memory, ratios, the machine.

The parent of a benchmark never imports torch: a child's peak resident memory starts from that of the process which forked it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

Options = TypeVar("Options")

TOLERANCE = 1e-4
"""Nats, absolute up to a loss of 1 and relative above: what float32 rounding leaves between two orders of the same sums."""


def parse_arguments(record: type[Options], argv: Sequence[str]) -> Options:
    """`key=value` arguments as a record; its field types say how a value is read, tuples are separated by commas.

    Raises:
        SystemExit: with one message, on an unknown or missing key or a value that cannot be read.
    """
    hints = typing.get_type_hints(record)
    required = [f.name for f in dataclasses.fields(record) if f.default is dataclasses.MISSING]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for argument in argv:
        key, is_pair, text = argument.partition("=")
        if not is_pair or key not in hints:
            raise SystemExit(f"{argument!r}: no such argument. Arguments are written key=value; there are {', '.join(hints)}.")
        values[key] = convert(key, hints[key], text)
    missing = [name for name in required if name not in values]
    if missing:
        raise SystemExit(f"{missing[0]}= is missing. Arguments are written key=value; there are {', '.join(hints)}.")
    return record(**values)


def convert(key: str, kind: Any, text: str) -> Any:
    """One value of an argument.

    Raises:
        SystemExit: naming the argument, what came and what is allowed.
    """
    if typing.get_origin(kind) is tuple:
        return tuple(convert(key, typing.get_args(kind)[0], part) for part in split(text))
    if typing.get_origin(kind) is typing.Literal:
        allowed = typing.get_args(kind)
        if text not in allowed:
            raise SystemExit(f"{key} = {text!r}; must be one of {', '.join(allowed)}.")
        return text
    try:
        return kind(text)
    except ValueError:
        raise SystemExit(f"{key} = {text!r}; must be a value of type {kind.__name__}.") from None


def split(text: str) -> list[str]:
    """Parts between commas; commas inside brackets separate nothing: `a=1,b={c: d, e: f}` has two parts."""
    return re.split(r",(?![^{\[(]*[}\])])", text) if text else []


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """A finished child process."""

    seconds: float
    """Wall time, start of the interpreter included."""
    peak_bytes: int
    """Highest resident memory of the process."""
    exit_code: int


def run_child(command: Sequence[str], log: Path, *, threads: int) -> Child:
    """Run a command to its end, its output going to a file.

    What alignkit keeps between runs goes to a new folder beside the file: no run finds there what another one computed.
    """
    environment = {
        **os.environ,
        "ALIGNKIT_CACHE": str(log.with_suffix(".cache")),
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TQDM_DISABLE": "1",
        "WANDB_MODE": "offline",
    }
    started = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)  # wait4 alone tells the peak of one child; getrusage tells that of all
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return Child(seconds=time.perf_counter() - started, peak_bytes=usage.ru_maxrss * unit, exit_code=process.returncode)


def job_order(names: Sequence[str], rounds: int) -> list[tuple[int, str]]:
    """(round, name) in turn, A B A B: what slows the machine for a while slows every contestant."""
    return [(number, name) for number in range(rounds) for name in names]


def ratios(slower: Sequence[Sequence[float]], faster: Sequence[Sequence[float]]) -> list[float]:
    """Quotients of two contestants' costs, step by step and round by round."""
    pairs = zip(slower, faster, strict=True)
    return [above / below for left, right in pairs for above, below in zip(left, right, strict=True)]


def median(values: Sequence[float]) -> float:
    """NaN where nothing was measured, so that a table can be printed all the same."""
    return statistics.median(values) if values else math.nan


def worst_difference(left: Sequence[float], right: Sequence[float]) -> float:
    """Largest |a - b| / max(1, |a|) of two loss traces.

    Raises:
        ValueError: when one trace is longer.
    """
    return max(abs(a - b) / max(1.0, abs(a)) for a, b in zip(left, right, strict=True))


def machine() -> dict[str, Any]:
    """What a measurement depends on and another machine has otherwise."""
    information = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*:\s*(.*)$", information, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.*)$", information, re.MULTILINE)
    known = set(flags.group(1).split()) if flags else set()
    return {
        "cpu": model.group(1) if model else platform.processor(),
        "cores": os.cpu_count(),
        "flags": {name: name in known for name in ("avx512f", "avx512_bf16", "amx_tile", "amx_bf16")},
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def append_record(path: str, record: Mapping[str, Any]) -> None:
    """One JSON object as one more line of a file; no path, no record."""
    if path:
        with Path(path).expanduser().open("a") as file:
            file.write(json.dumps(record) + "\n")


def say(line: str) -> None:
    """One line for the user, now."""
    print(line, flush=True)
