"""What the machine is told and asked."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from alignkit.hardware import bf16_gain, device_kind
from alignkit.training import precision_line

FAULTS = """
import resource, sys, torch
from alignkit.hardware import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def touch():
    torch.zeros(32 * 2**20)  # 128 MB
for _ in range(20):  # aligned blocks do not fit into their own holes at first
    touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tells glibc")
def test_freed_memory_is_used_again_without_page_faults():
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True).stdout)
        for mode in ("keep", "leave")
    }
    if faults["leave"] < 1000:
        pytest.skip("this C library keeps memory by itself")
    assert faults["keep"] < 0.05 * faults["leave"]


def test_the_device_is_the_accelerators(monkeypatch):
    assert device_kind("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_kind("auto") == device_kind("gpu") == "cuda"
    assert device_kind("cpu") == "cpu"


def test_the_gain_of_bf16_is_a_ratio_of_times():
    assert 0.01 < bf16_gain(size=64) < 1000


@pytest.mark.parametrize(("gain", "words"), [(2.5, "2.5 times as fast"), (0.25, r"4\.0 times as long.*precision=fp32 is faster")])
def test_a_user_is_told_what_bf16_does_on_this_cpu(gain, words):
    assert re.search(words, precision_line(gain))
