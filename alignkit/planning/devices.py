"""Devices that a plan knows without having them: what their makers promise. Loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from alignkit.errors import UserError, check_choice, check_range

GIGA = 10**9
TERA = 10**12
HERE = "here"
"""`device=`: this machine's own, measured."""
OWN = ("device", "network", "utilisation")
"""Keys that no run has."""
NETWORK = 12.5
"""GB/s of a node whose maker does not build the network in: 100 Gbit/s."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One device as its data sheet has it: dense products, no sparsity. A vendor's GB is 10^9 bytes, and so is ours."""

    name: str
    memory_gb: float
    """Of the device. What it really has beyond 10^9-byte gigabytes is left to the driver, the context and NCCL's buffers."""
    bf16_teraflops: float
    """Matrix products of bf16 or fp16, sums in float32."""
    fp32_teraflops: float
    """Matrix products of float32, which torch computes without tensor cores."""
    memory_gb_per_second: float
    link_gb_per_second: float
    """To the other devices of the node, in one direction."""
    link: str
    """What that is."""
    network_gb_per_second: float
    """Of a whole node to others, in one direction."""
    source: str
    """Where the numbers stand."""

    @property
    def memory_bytes(self) -> int:
        return int(self.memory_gb * GIGA)

    def flops(self, precision: str) -> float:
        """Operations a second at best, under Lightning's name of a precision."""
        return TERA * (self.fp32_teraflops if precision == "32-true" else self.bf16_teraflops)


DEVICES = {
    device.name: device
    for device in (
        Device(
            name="h200",
            memory_gb=141,
            bf16_teraflops=989.5,
            fp32_teraflops=67,
            memory_gb_per_second=4800,
            link_gb_per_second=450,
            link="NVLink",
            network_gb_per_second=400,
            source="NVIDIA H200 data sheet (SXM; halved where it counts sparsity), DGX H200 data sheet for the network: 8 x 400 Gbit/s",
        ),
        Device(
            name="h100",
            memory_gb=80,
            bf16_teraflops=989.5,
            fp32_teraflops=67,
            memory_gb_per_second=3350,
            link_gb_per_second=450,
            link="NVLink",
            network_gb_per_second=400,
            source="NVIDIA H100 data sheet (SXM; halved where it counts sparsity), DGX H100 data sheet for the network: 8 x 400 Gbit/s",
        ),
        Device(
            name="a100",
            memory_gb=80,
            bf16_teraflops=312,
            fp32_teraflops=19.5,
            memory_gb_per_second=2039,
            link_gb_per_second=300,
            link="NVLink",
            network_gb_per_second=200,
            source="NVIDIA A100 80GB data sheet (SXM), DGX A100 data sheet for the network: 8 x 200 Gbit/s",
        ),
        Device(
            name="l40s",
            memory_gb=48,
            bf16_teraflops=362,
            fp32_teraflops=91.6,
            memory_gb_per_second=864,
            link_gb_per_second=32,
            link="PCIe 4.0 x16",
            network_gb_per_second=NETWORK,
            source="NVIDIA L40S data sheet; the network is assumed: 100 Gbit/s",
        ),
        Device(
            name="rtx4090",
            memory_gb=24,
            bf16_teraflops=165.2,
            fp32_teraflops=82.6,
            memory_gb_per_second=1008,
            link_gb_per_second=32,
            link="PCIe 4.0 x16",
            network_gb_per_second=NETWORK,
            source="NVIDIA Ada GPU architecture white paper, appendix A; the network is assumed: 100 Gbit/s",
        ),
    )
}


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PlanSettings:
    """The plan's own keys."""

    device: str = HERE
    """A name of `DEVICES`, or `here`: this machine's own device, on which time is measured."""
    network: float | None = None
    """GB/s of a whole node to the others, in one direction; null takes what the device's maker builds in, else 12.5 (100 Gbit/s)."""
    utilisation: float = 0.4
    """Share of the device's best matrix products that a large model reaches, in (0, 1]; it is not used where time is measured."""

    def __post_init__(self) -> None:
        check_choice("device", self.device, (HERE, *DEVICES))
        check_range("utilisation", self.utilisation, above=0.0, high=1.0, hint="0.4 is usual for large models; 0.5 is very good.")
        if self.network is not None:
            check_range("network", self.network, above=0.0, hint="GB/s of a node: 12.5 is 100 Gbit/s.")


def read_own(argv: Sequence[str]) -> tuple[PlanSettings, list[str]]:
    """The plan's own settings, and the arguments that a run knows.

    Raises:
        UserError: on a value out of its range.
    """
    own: dict[str, str] = {}
    rest: list[str] = []
    for argument in argv:
        key, equals, value = argument.partition("=")
        if equals and key.lstrip("+") in OWN:
            own[key.lstrip("+")] = value
        else:
            rest.append(argument)
    numbers = {key: number(key, own[key]) for key in ("network", "utilisation") if key in own}
    return PlanSettings(device=own.get("device", HERE), **numbers), rest


def number(key: str, text: str) -> float:
    """A typed number.

    Raises:
        UserError: where it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{key} = {text!r}; must be a number.") from None
