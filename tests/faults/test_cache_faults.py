"""A cache of computed values that is shared, damaged and killed over: no wrong value, nobody stuck, and nobody told to give up."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # a script, whose parts are used here

import cache_storm
from cache_storm import FILLER, make_examples, truth, weather

from alignkit.caches.store import Store


def check_survived(storm: cache_storm.Storm) -> None:
    print(storm)
    assert storm.is_survived, storm
    assert storm.counts["read"] > 0
    assert storm.counts["computed"] > 0
    assert storm.kills > 0
    assert len(storm.damages) > 3


def test_three_processes_on_one_cache_that_is_being_destroyed(tmp_path: Path) -> None:
    check_survived(weather(tmp_path / "cache", seconds=4, processes=3, seed=0))


@pytest.mark.slow
def test_eight_processes_on_one_cache_that_is_being_destroyed_for_five_minutes(tmp_path: Path) -> None:
    check_survived(weather(tmp_path / "cache", seconds=300, processes=8, seed=0))


def hold(folder: Path, computing: Path) -> None:
    """Computes, and so holds the cache, until killed."""

    def compute(*anything: object) -> None:
        computing.touch()
        time.sleep(60)

    object.__setattr__(FILLER.quantity, "compute", compute)
    FILLER.fill(Store(folder, {"values": "stand_in"}, print), make_examples()[:5], "waiting")


def test_who_waits_for_a_process_that_is_killed_goes_on_itself(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path / "cache", tmp_path / "computing"))
    process.start()
    for _ in range(600):
        if (tmp_path / "computing").exists():
            break
        time.sleep(0.05)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        os.kill(process.pid or 0, signal.SIGKILL)

    examples = make_examples()[:5]
    filled = FILLER.fill(Store(tmp_path / "cache", {"values": "stand_in"}, say), examples, "waiting")
    process.join()
    assert said == ["waiting"]
    assert filled.computed == 5
    assert all(filled.values[example.key].equal(truth(example)) for example in examples)
