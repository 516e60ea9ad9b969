"""Levels and gathered columns: one process against two real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alignkit.modules.level import Level, columns_of_all_ranks
from alignkit.ranks import sum_over_ranks

RANK = """
import sys
import torch
import torch.distributed as dist
from alignkit.modules.level import Level, columns_of_all_ranks

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
level = Level(start=0.0, decay=0.5)
level.observe(torch.tensor([1.0, 2.0, 3.0]) if rank == 0 else torch.tensor([10.0]))
level.move()
columns, mine = columns_of_all_ranks(torch.arange(2.0 * (rank + 1)).view(2, -1) + 100 * rank)
print(level.state()["level"], columns.tolist(), columns[:, mine].tolist())
dist.destroy_process_group()
"""


def test_a_level_moves_once_a_step_by_the_mean_of_all_it_has_seen():
    level = Level(start=1.0, decay=0.25)
    for part in (torch.tensor([1.0, 2.0]), torch.tensor([9.0])):
        level.observe(part)
        assert level.value(part).item() == 1.0
    level.move()
    assert level.value(torch.zeros(1)).item() == pytest.approx(0.25 + 0.75 * 4)
    level.move()  # nothing was seen
    level.observe(torch.zeros(0))
    level.move()
    assert level.state() == {"level": pytest.approx(3.25)}


def test_a_level_is_not_rounded_to_the_type_of_the_weights():
    level = Level(start=0.1234567, decay=0.0)
    assert level.value(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert level.state()["level"] == pytest.approx(0.1234567, abs=1e-9)


def test_one_process_sees_its_own():
    sums = torch.tensor([1.0, 2.0])
    assert sum_over_ranks(sums) is sums
    columns, mine = columns_of_all_ranks(sums[None])
    assert torch.equal(columns[:, mine], sums[None])


def test_two_processes_have_one_level_and_see_the_columns_of_both(tmp_path: Path):
    # (1 + 2 + 3 + 10) / 4 = 4, and half of it: the mean of the ranks' means would be 6
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], env=environment, stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    outputs = [rank.communicate(timeout=120)[0].strip() for rank in ranks]
    both = [[0.0, 100.0, 101.0], [1.0, 102.0, 103.0]]
    assert outputs == [f"2.0 {both} {[[0.0], [1.0]]}", f"2.0 {both} {[[100.0, 101.0], [102.0, 103.0]]}"]
