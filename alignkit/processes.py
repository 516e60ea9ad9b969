"""The processes of a run: how they meet, and how Lightning has them train together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy

from alignkit import ranks
from alignkit.callbacks.sharded_checkpoints import ShardedStrategy
from alignkit.errors import UserError
from alignkit.hardware import device_kind
from alignkit.settings import HardwareSettings


@contextmanager
def meeting(hardware: HardwareSettings) -> Iterator[None]:
    """Every process of a run within reach of the others; a run of one process meets nobody.

    Raises:
        UserError: when this process was not started as one of so many.
    """
    environment = cluster(hardware)
    if environment is None:
        yield
        return
    if environment.world_size() != hardware.processes:
        raise UserError(
            f"hardware: {environment.world_size()} processes were started, and hardware.devices = {hardware.devices} on hardware.nodes = "
            f"{hardware.nodes} need {hardware.processes}. Start as many, or type hardware.devices={environment.world_size()}."
        )
    os.environ.setdefault("MASTER_ADDR", environment.main_address)
    os.environ.setdefault("MASTER_PORT", str(environment.main_port))
    on_gpus = device_kind(hardware.accelerator) == "cuda"
    if on_gpus:
        torch.cuda.set_device(environment.local_rank())
    with ranks.joined(
        processes=hardware.processes,
        holders=hardware.tensor_parallel,
        backend="nccl" if on_gpus else "gloo",
        timeout=hardware.timeout,
    ):
        yield


def cluster(hardware: HardwareSettings) -> ClusterEnvironment | None:
    """Whoever has started the processes; None where there is one.

    Raises:
        UserError: when nobody has.
    """
    if hardware.processes == 1:
        return None
    if hardware.slurm:
        if "SLURM_NTASKS" not in os.environ:
            raise UserError("hardware.slurm = true: Slurm has not started this. Type srun python -m alignkit.train ..., or hardware=ddp.")
        return SLURMEnvironment(auto_requeue=False)  # a run that is stopped says how it goes on
    if "WORLD_SIZE" not in os.environ:
        raise UserError(
            f"hardware: {hardware.processes} processes are needed, and this one was started alone. Type "
            f"torchrun --nproc-per-node={hardware.devices} -m alignkit.train ..., or hardware=auto."
        )
    return TorchElasticEnvironment()


def strategy_of(hardware: HardwareSettings) -> Strategy | str:
    """How gradients and weights are shared, in Lightning's terms."""
    environment = cluster(hardware)
    if environment is None:
        return "auto"
    timeout = timedelta(seconds=hardware.timeout)
    strategy: DDPStrategy | ShardedStrategy
    if hardware.strategy == "ddp":
        # Which weights a step uses depends on the data: a mixture may have no example for a head, an expert no token.
        options: dict[str, Any] = {"find_unused_parameters": True, "broadcast_buffers": False, "gradient_as_bucket_view": True}
        strategy = DDPStrategy(timeout=timeout, **options)
    else:
        strategy = ShardedStrategy(
            data_parallel_size=hardware.readers,
            tensor_parallel_size=hardware.tensor_parallel,
            timeout=timeout,
        )
    strategy.cluster_environment = environment
    return strategy
