"""Combinations of hardware, precision and model that cannot work, refused before anything loads, with the one that can."""

from __future__ import annotations

import os

from alignkit.errors import UserError
from alignkit.settings import HardwareSettings, RunSettings

CUT = ("fsdp", "tensor_parallel")
"""Strategies under which no process holds a whole model."""
FP16 = "16-mixed"
RANKS_A_CORE = 8
"""Processes on a CPU, for each of its cores, beyond which they are a mistake."""


def check_hardware(settings: RunSettings) -> None:
    """Refuse what the settings alone show to be wrong. Without torch, whatever this machine has.

    Raises:
        UserError: naming the two keys and what to type.
    """
    check_strategy(settings.hardware)
    check_precision(settings)
    hardware, sharing = settings.hardware, settings.hardware.readers
    if settings.model.quantize is not None and hardware.strategy in CUT:
        raise UserError(
            f"hardware = {hardware.name!r} with model.quantize = {settings.model.quantize!r}: packed weights of 4 bits cannot be cut. Type "
            "hardware=ddp, under which each device holds them whole, or model.quantize=null."
        )
    if settings.loss.module == "trpo" and hardware.strategy in CUT:
        raise UserError(
            f"hardware = {hardware.name!r} with loss={settings.loss.name}: its products with the Fisher matrix differentiate twice, which "
            "cut weights do not allow. Type hardware=ddp, or loss=ppo."
        )
    if settings.model.adapter is not None and hardware.tensor_parallel > 1:
        raise UserError(
            f"hardware = {hardware.name!r} with model.adapter = {settings.model.adapter!r}: adapted layers cannot be computed in parts. "
            "Type hardware=fsdp, which cuts them where they lie, or model.adapter=null."
        )
    if settings.batch.pairs < sharing:
        raise UserError(
            f"batch.pairs = {settings.batch.pairs} for {sharing} processes that share the examples of a step: some would have none. Type "
            f"batch.pairs={sharing} or more, or fewer hardware.devices."
        )


def check_strategy(hardware: HardwareSettings) -> None:
    """Refuse numbers of processes that a strategy cannot use.

    Raises:
        UserError: naming the number.
    """
    numbers = f"hardware.devices={hardware.devices}" + f" hardware.nodes={hardware.nodes}" * (hardware.nodes > 1)
    if hardware.strategy == "one" and hardware.processes > 1:
        raise UserError(
            f"hardware.devices = {hardware.devices}, hardware.nodes = {hardware.nodes} with hardware={hardware.name}, which is for one "
            f"device. Type hardware=ddp {numbers}, or hardware=fsdp where the model does not fit on one."
        )
    if hardware.strategy != "tensor_parallel" and hardware.tensor_parallel > 1:
        raise UserError(
            f"hardware.tensor_parallel = {hardware.tensor_parallel} has no effect with hardware={hardware.name}. Type "
            f"hardware=tensor_parallel {numbers} hardware.tensor_parallel={hardware.tensor_parallel}."
        )
    if hardware.devices % hardware.tensor_parallel:
        fits = max(
            number for number in range(1, hardware.devices + 1) if hardware.devices % number == 0 and number <= hardware.tensor_parallel
        )
        better = f"hardware.tensor_parallel={fits}" if fits > 1 else f"hardware.devices={hardware.tensor_parallel}"
        raise UserError(
            f"hardware.tensor_parallel = {hardware.tensor_parallel} does not divide hardware.devices = {hardware.devices}: those that hold "
            f"one model together are on one machine. Type {better}."
        )
    if hardware.strategy == "tensor_parallel" and hardware.tensor_parallel == 1 and hardware.devices > 1:
        raise UserError(
            f"hardware.tensor_parallel = 1 with hardware={hardware.name}: no device would share its model. Type "
            f"hardware.tensor_parallel={hardware.devices}, or hardware=ddp {numbers}."
        )


def check_precision(settings: RunSettings) -> None:
    """Refuse number formats that the hardware cannot train in.

    Raises:
        UserError: naming the format that can.
    """
    if settings.precision.lightning != FP16:
        return
    if settings.hardware.accelerator == "cpu":
        raise UserError("precision = 'fp16' on a CPU, which has no fast fp16 products. Type precision=bf16, or precision=fp32.")
    if settings.hardware.strategy in CUT:
        raise UserError(
            f"precision = 'fp16' with hardware={settings.hardware.name}: gradients that are cut cannot be scaled. Type precision=bf16, or "
            "hardware=ddp."
        )


def check_machine(settings: RunSettings) -> None:
    """Refuse more than the machine that trains has. Imports torch.

    Raises:
        UserError: naming what is there.
    """
    import torch

    hardware, gpus = settings.hardware, torch.cuda.device_count()
    if hardware.accelerator == "gpu" and gpus == 0 and not torch.backends.mps.is_available():
        raise UserError(f"hardware = {hardware.name!r}: there is no GPU that torch {torch.__version__} can use. Type hardware=cpu.")
    on_gpus = hardware.accelerator != "cpu" and gpus > 0
    if on_gpus and hardware.devices > gpus:
        raise UserError(
            f"hardware.devices = {hardware.devices}: this machine has {gpus} GPU{'s' * (gpus > 1)}. Type hardware.devices={gpus}"
            + (", or hardware.accelerator=cpu to train on its cores." if gpus == 1 else ".")
        )
    cores = os.cpu_count() or 1
    if not on_gpus and hardware.devices > RANKS_A_CORE * cores:
        raise UserError(
            f"hardware.devices = {hardware.devices}: this machine has {cores} core{'s' * (cores > 1)}, of which each process "
            f"wants one to itself. Type hardware.devices={cores} or less."
        )
    if settings.precision.lightning == FP16 and not on_gpus:
        raise UserError("precision = 'fp16' without a CUDA GPU, of which this machine has none. Type precision=bf16, or precision=fp32.")
