"""What the machine under a run can be told, and what can be known of it."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from pathlib import Path

import torch

M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
"""Parameters of glibc's `mallopt`."""
CGROUP = Path("/sys/fs/cgroup")
"""Where Linux keeps the limits of a container."""


def keep_freed_memory() -> bool:
    """Have the C library keep freed blocks for the next tensor instead of handing them back to the system.

    By default glibc maps every block above 32 MB anew and unmaps it when it is freed, so that each large temporary costs a page
    fault every 4 KB: a 113 MB tensor takes 80 ms to zero instead of 8. Tensors of a training step come back in every step.

    Returns:
        Whether this C library can be told.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has none
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def device_kind(accelerator: str) -> str:
    """Where Lightning's accelerator (`auto`, `cpu`, `gpu`) will run: `cpu`, `cuda` or `mps`."""
    if accelerator == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def bf16_gain(size: int = 768) -> float:
    """Float32 seconds over bf16 seconds of one square matrix product on this CPU, just now: above 1 where bf16 is the faster."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left = torch.ones(size, size, dtype=dtype)
        torch.mm(left, left)  # the first product of a type sets things up
        tries = []
        for _ in range(5):
            started = time.perf_counter()
            torch.mm(left, left)
            tries.append(time.perf_counter() - started)
        seconds[dtype] = min(tries)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def free_memory(device: str) -> int:
    """Bytes that a run may still take on a device: of a GPU's own, else what the system has available within its container's limit."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    info = Path("/proc/meminfo")
    fields = dict(line.split(":", 1) for line in info.read_text().splitlines()) if info.exists() else {}
    if "MemAvailable" not in fields:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        available = min(available, int(text) - int(used.read_text()))
    return available


def peak_memory(device: torch.device) -> int:
    """Bytes: the device's peak of allocated memory on a GPU, the process's peak resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes everywhere but on macOS
