"""Who starts the processes of a run: what torchrun and Slurm say of themselves in the environment, and what is refused."""

from __future__ import annotations

import pytest

from alignkit.command_line import precheck
from alignkit.errors import UserError
from alignkit.launching.placement import Placement, check_alone, check_start, placement
from alignkit.settings import HardwareSettings

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
SRUN = {"SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_STEP_NUM_TASKS": "16"}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "16"}


def hardware(*typed: str) -> HardwareSettings:
    (settings,) = precheck(["batch.pairs=64", *typed])
    return settings.hardware


def test_torchrun_and_srun_say_which_rank_this_is() -> None:
    four = hardware("hardware=ddp", "hardware.devices=2", "hardware.nodes=2")
    assert placement(four, TORCHRUN) == Placement(rank=3, ranks=4, local_ranks=2)
    assert placement(four, {}) is None
    sixteen = hardware("hardware=slurm_fsdp", "hardware.nodes=2")
    assert placement(sixteen, SRUN) == Placement(rank=9, ranks=16, local_ranks=8)
    assert placement(sixteen, BATCH_SCRIPT) is None


def test_a_job_that_slurm_runs_as_one_task_starts_its_own_processes() -> None:
    task = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}
    two = hardware("hardware=ddp")
    assert placement(two, task) is None
    check_start(two, task)
    check_alone(task)


def test_another_number_of_processes_than_asked_for_is_refused() -> None:
    with pytest.raises(UserError, match=r"2 processes, but torchrun started 4\. Type hardware=ddp hardware\.devices=2 hardware\.nodes=2,"):
        placement(hardware("hardware=ddp"), TORCHRUN)
    with pytest.raises(UserError, match=r"1 processes, but torchrun started 4\. Type hardware=ddp"):
        placement(hardware(), TORCHRUN)
    with pytest.raises(
        UserError, match=r"8 processes, but srun started 16\. Type hardware=slurm_ddp hardware\.devices=8 hardware\.nodes=2,"
    ):
        placement(hardware("hardware=slurm_ddp"), SRUN)


def test_processes_that_nobody_starts_are_refused_with_the_command_that_does() -> None:
    with pytest.raises(UserError, match=r"torchrun --nnodes=4 --nproc-per-node=8 .* -m alignkit\.train hardware=fsdp hardware\.devices=8"):
        check_start(hardware("hardware=fsdp", "hardware.devices=8", "hardware.nodes=4"), {})
    with pytest.raises(UserError, match=r"srun --nodes=1 --ntasks-per-node=8 python -m alignkit\.train .* Without Slurm: hardware=ddp\."):
        check_start(hardware("hardware=slurm_ddp"), BATCH_SCRIPT)
    check_start(hardware("hardware=ddp", "hardware.devices=8"), {})
    check_start(hardware(), {})


@pytest.mark.parametrize("environ", [TORCHRUN, SRUN])
def test_a_sweep_that_a_launcher_multiplied_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"each would run the whole sweep"):
        check_alone(environ)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (["hardware.devices=2"], r"^hardware\.devices = 2, .*for one device\. Type hardware=ddp hardware\.devices=2, or hardware=fsdp"),
        (
            ["hardware=fsdp", "model.adapter=lora", "model.quantize=nf4", "model.lora.export=adapter"],
            r"^hardware = 'fsdp' with model\.quantize = 'nf4'.* Type hardware=ddp",
        ),
        (["hardware=fsdp", "loss=trpo"], r"^hardware = 'fsdp' with loss=trpo.* Type hardware=ddp"),
        (["hardware=ddp", "hardware.tensor_parallel=2"], r"has no effect with hardware=ddp\. Type hardware=tensor_parallel"),
        (
            ["hardware=tensor_parallel", "hardware.devices=6", "hardware.tensor_parallel=4"],
            r"does not divide hardware\.devices = 6.* Type hardware\.tensor_parallel=3\.",
        ),
        (["hardware=tensor_parallel", "model.adapter=lora"], r"^hardware = 'tensor_parallel' with model\.adapter.* Type hardware=fsdp"),
        (["hardware=tensor_parallel", "hardware.tensor_parallel=1"], r"no device would share its model"),
        (["hardware=cpu", "precision=fp16"], r"^precision = 'fp16' on a CPU.* Type precision=bf16"),
        (["hardware=fsdp", "precision=fp16"], r"cannot be scaled\. Type precision=bf16, or hardware=ddp"),
        (["hardware=ddp", "hardware.devices=4", "batch.pairs=3"], r"^batch\.pairs = 3 for 4 processes.* Type batch\.pairs=4"),
    ],
)
def test_combinations_that_cannot_work_are_refused_with_the_one_that_can(typed: list[str], answer: str) -> None:
    with pytest.raises(UserError, match=answer):
        precheck(typed)


def test_what_shares_one_model_shares_its_examples() -> None:
    precheck(["hardware=tensor_parallel", "hardware.devices=4", "hardware.tensor_parallel=4", "batch.pairs=1", "loss=dpo"])
