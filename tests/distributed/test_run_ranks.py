"""The launcher of the tests of this folder says what went wrong, and nobody waits for a process that has failed."""

from __future__ import annotations

import time

import pytest

SAYS = "import os; print('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'])"


def test_each_process_knows_its_rank_and_is_heard(run_ranks):
    assert run_ranks("-c", SAYS, processes=3) == [f"rank {rank} of 3\n" for rank in range(3)]


def test_the_failure_of_one_ends_all_with_the_output_of_each(run_ranks):
    begun = time.monotonic()
    with pytest.raises(
        AssertionError, match=r"(?s)rank 0, exit code None\nrank 0 of 2.*rank 1, exit code 1\nrank 1 of 2.*ZeroDivisionError"
    ):
        run_ranks("-c", f"{SAYS}\nimport time\nif os.environ['RANK'] == '1': 1 / 0\ntime.sleep(60)")
    assert time.monotonic() - begun < 30


def test_what_is_not_done_in_time_is_stopped(run_ranks):
    with pytest.raises(AssertionError, match=r"stopped, after 0\.5 s"):
        run_ranks("-c", "import time; time.sleep(60)", timeout=0.5)
