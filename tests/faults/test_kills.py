"""Runs that are killed at random moments and resumed equal runs that were not; the README has the hundred kills of `kill_storm.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what they share is a module of their folder

from kill_storm import RUNS, Storm


@pytest.mark.parametrize(("kills", "seed"), [(4, 11), pytest.param(100, 0, marks=pytest.mark.slow)])
def test_no_kill_at_any_moment_changes_what_a_run_leaves(kills, seed, commands, tmp_path):
    storm = Storm(tmp_path, commands, seed)
    runs = storm.blow(kills)
    assert storm.differ == []
    assert storm.kills.total() == kills
    assert runs >= len(RUNS) / 2
