"""What the ranks of a run send each other in a step, and what that adds to its time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import final

from alignkit.models.tensor_parallel import products
from alignkit.planning.cutting import cut_model
from alignkit.planning.devices import DEVICES, HERE, NETWORK, PlanSettings
from alignkit.planning.load import Load
from alignkit.planning.traffic import Traffic, ddp_traffic, fsdp_traffic, tensor_parallel_traffic
from alignkit.rehearsal import Rehearsal
from alignkit.settings import HardwareSettings

HERE_GB_PER_SECOND = {"cpu": 1.0, "cuda": 12.5}
"""Assumed of this machine's own devices: gloo through memory, and half of a PCIe 4.0 x16 link, as GPUs without NVLink reach it."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Communication:
    """Rings of ranks."""

    hidden: Traffic | None
    """What is sent while a GPU computes: gathered and scattered weights, summed gradients."""
    between: Traffic | None
    """What computing waits for: sums of activations."""
    hidden_gb_per_second: float
    """Of the slowest link in the ring: 10^9 bytes, in one direction."""
    between_gb_per_second: float
    overlaps: bool
    """Whether something else computes meanwhile. The cores of a CPU send by themselves."""

    @property
    def hidden_seconds(self) -> float:
        return self.hidden.seconds(self.hidden_gb_per_second) if self.hidden is not None else 0.0

    @property
    def between_seconds(self) -> float:
        return self.between.seconds(self.between_gb_per_second) if self.between is not None else 0.0

    def step_seconds(self, computing: float) -> float:
        """Of a step that computes for so long."""
        working = computing + self.between_seconds
        return max(working, self.hidden_seconds) if self.overlaps else working + self.hidden_seconds


def measure_communication(hardware: HardwareSettings, own: PlanSettings, kind: str, rehearsal: Rehearsal, load: Load) -> Communication:
    """Of one optimiser step, the mean over the first ones."""
    micro_batches = len(load.batches) / len(load.first)
    sharing = hardware.readers
    hidden = between = None
    if sharing > 1 and hardware.strategy == "ddp":
        hidden = ddp_traffic(sharing, rehearsal.trained_bytes)
    elif sharing > 1:
        cut = [cut_model(backbone, sharing) for backbone in rehearsal.references]
        policy = cut_model(rehearsal.policy, sharing) if rehearsal.policy is not None else None
        hidden = fsdp_traffic(policy, cut, around=rehearsal.around_bytes, micro_batches=micro_batches)
    if hardware.tensor_parallel > 1:
        positions = sum(batch.input_ids.numel() for batch in load.batches) / len(load.batches)
        forward, backward = sums_of_products(rehearsal, int(positions))
        between = tensor_parallel_traffic(hardware.tensor_parallel, forward=forward, backward=backward, micro_batches=micro_batches)
    return Communication(
        hidden=hidden,
        between=between,
        hidden_gb_per_second=bandwidth(hardware, own, kind, leaves=hardware.nodes > 1),
        between_gb_per_second=bandwidth(hardware, own, kind, leaves=False),
        overlaps=kind == "cuda",
    )


def sums_of_products(rehearsal: Rehearsal, positions: int) -> tuple[Counter[int], Counter[int]]:
    """Sizes, in bytes, of what a micro-batch sums over ranks of tensor parallelism, forward and backward, and how often each.

    Under autocast a product's result is bf16, and the gradient of what it reads float32.
    """
    styles = Counter(products(rehearsal.backbone).values())
    states = positions * rehearsal.backbone.hidden_width
    forward: Counter[int] = Counter()
    backward: Counter[int] = Counter()
    running = (1 if rehearsal.policy is not None else 0) + len(rehearsal.references)
    trained = rehearsal.policy is not None and any(parameter.requires_grad for parameter in rehearsal.backbone.parameters())
    forward[states * rehearsal.product_bytes] = styles["rowwise"] * running
    if trained and rehearsal.checkpointing:  # computed again, but for each layer's last sum, which nothing in the layer reads
        forward[states * rehearsal.product_bytes] += styles["rowwise"] - len(rehearsal.backbone.layers())
    if trained:
        backward[states * rehearsal.backbone.lm.dtype.itemsize] = styles["colwise"]
    return forward, backward


def bandwidth(hardware: HardwareSettings, own: PlanSettings, kind: str, *, leaves: bool) -> float:
    """10^9 bytes a second of the slowest link in a ring, in one direction; `leaves`: the ring leaves the node."""
    device = None if own.device == HERE else DEVICES[own.device]
    link = HERE_GB_PER_SECOND[kind] if device is None else device.link_gb_per_second
    if not leaves:
        return link
    network = own.network or (NETWORK if device is None else device.network_gb_per_second)
    return min(link, network)
