"""Who starts the processes of a run, and which of them this one is: torchrun, Slurm, alignkit itself, or nobody. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from alignkit.errors import UserError
from alignkit.settings import HardwareSettings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """This process among those that train together."""

    rank: int
    """[0, ranks)."""
    ranks: int
    """Over all nodes, >= 1."""
    local_ranks: int
    """On this machine, >= 1."""


def placement(hardware: HardwareSettings, environ: Mapping[str, str] = os.environ) -> Placement | None:
    """This process's place where another program started it as one of several; None where alignkit is to start them, or there is one.

    Raises:
        UserError: when that program started another number of processes than the hardware asks for.
    """
    if hardware.slurm:
        # Only srun sets the step's tasks; SLURM_PROCID is also there in a batch script, which is one process.
        if "SLURM_STEP_NUM_TASKS" not in environ or "SLURM_PROCID" not in environ:
            return None
        found = Placement(
            rank=int(environ["SLURM_PROCID"]),
            ranks=int(environ["SLURM_STEP_NUM_TASKS"]),
            local_ranks=hardware.devices,
        )
        starter = "srun"
    elif "RANK" in environ and "WORLD_SIZE" in environ:
        ranks = int(environ["WORLD_SIZE"])
        found = Placement(rank=int(environ["RANK"]), ranks=ranks, local_ranks=int(environ.get("LOCAL_WORLD_SIZE", ranks)))
        starter = "torchrun"
    else:
        return None
    if found.ranks != hardware.processes:
        strategy = "ddp" if hardware.strategy == "one" else hardware.name
        raise UserError(
            f"hardware.devices = {hardware.devices}, hardware.nodes = {hardware.nodes}: {hardware.processes} processes, but {starter} "
            f"started {found.ranks}. Type hardware={strategy} hardware.devices={found.local_ranks} "
            f"hardware.nodes={max(1, found.ranks // found.local_ranks)}, or start as many as are asked for."
        )
    return found if found.ranks > 1 else None


def check_start(hardware: HardwareSettings, environ: Mapping[str, str] = os.environ, *, command: str = "python -m alignkit.train") -> None:
    """Refuse processes that nobody would start, with what to type instead.

    Raises:
        UserError: for nodes without torchrun or Slurm, for Slurm's hardware outside `srun`, and where `placement` raises.
    """
    if placement(hardware, environ) is not None or hardware.processes == 1:
        return
    typed = f"hardware={hardware.name} hardware.devices={hardware.devices} hardware.nodes={hardware.nodes}"
    if hardware.slurm:
        plain = "fsdp" if hardware.strategy == "fsdp" else "ddp"
        raise UserError(
            f"hardware = {hardware.name!r}: Slurm starts its processes, and srun did not start this one. Type in an allocation: "
            f"srun --nodes={hardware.nodes} --ntasks-per-node={hardware.devices} {command} {typed} ... Without Slurm: hardware={plain}."
        )
    if hardware.nodes > 1:
        raise UserError(
            f"hardware.nodes = {hardware.nodes}: alignkit starts processes on this machine only. Type on each node: "
            f"torchrun --nnodes={hardware.nodes} --nproc-per-node={hardware.devices} --rdzv-backend=c10d --rdzv-endpoint=FIRST_NODE:29500 "
            f"{command.removeprefix('python ')} {typed} ... On Slurm: hardware=slurm_{'fsdp' if hardware.strategy == 'fsdp' else 'ddp'}."
        )


def check_alone(environ: Mapping[str, str] = os.environ, *, command: str = "python -m alignkit.train -m", what: str = "sweep") -> None:
    """Refuse a sweep, or a pipeline, that torchrun or srun multiplied: each of its processes would run all of it.

    Raises:
        UserError: saying what to type.
    """
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        if int(environ.get(name, "1")) > 1:
            raise UserError(
                f"{command.removeprefix('python -m ')} in {environ[name]} processes at once: each would run the whole {what}. "
                f"Type {command} ... without torchrun or srun: each run starts its own processes."
            )
