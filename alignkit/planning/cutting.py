"""How FSDP2 cuts a model between ranks, in bytes: closed forms over the shapes of its parameters.

N = ranks that a model is cut between. A group is a layer, or what stands around the layers (the root): its parameters are gathered
and their gradients scattered by one call each. Each parameter is cut along its first axis into N equal parts, the last ones filled up.
Zhao et al. 2023 (arXiv:2304.11277); the filling is that of `torch.distributed.fsdp.fully_shard`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from alignkit.models.backbone import Backbone

REDUCED = 4
"""Bytes of an element of a gradient while it is summed: always float32."""


def part_numel(shape: Sequence[int], ranks: int) -> int:
    """Elements that each rank holds of a tensor, filling included; a scalar is not cut."""
    if not shape:
        return 1
    rows, *others = shape
    held = -(-rows // ranks)
    for size in others:
        held *= size
    return held


def part_bytes(tensor: Tensor, ranks: int) -> int:
    """Bytes that each rank holds of a tensor."""
    return part_numel(tensor.shape, ranks) * tensor.element_size()


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Parameters that are gathered by one call."""

    gathered: int
    """Bytes of what a gathering fills: N times the parts."""
    scattered: int
    """Bytes of the gradients that go into a scattering, in float32; 0 where nothing is trained."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CutModel:
    """One language model between N ranks."""

    ranks: int
    layers: tuple[Group, ...]
    root: Group
    """Embeddings, the last norm, the output embedding."""

    @property
    def largest(self) -> Group:
        """The layer that takes most."""
        return max(self.layers, key=lambda group: group.gathered)

    @property
    def layers_gathered(self) -> int:
        """Bytes of one gathering of each layer."""
        return sum(group.gathered for group in self.layers)

    @property
    def groups(self) -> tuple[Group, ...]:
        return (*self.layers, self.root)

    @property
    def scattered(self) -> int:
        """Bytes of one scattering of all gradients."""
        return sum(group.scattered for group in self.groups)


def cut_model(backbone: Backbone, ranks: int) -> CutModel:
    """What each group of a model comes to; a parameter that has two names counts once."""
    inside = [list(layer.parameters()) for layer in backbone.layers()]
    known = {id(parameter) for group in inside for parameter in group}
    around = [parameter for parameter in backbone.parameters() if id(parameter) not in known]
    return CutModel(ranks=ranks, layers=tuple(group_of(group, ranks) for group in inside), root=group_of(around, ranks))


def group_of(parameters: Iterable[nn.Parameter], ranks: int) -> Group:
    """The buffers of some parameters."""
    every = list(parameters)
    return Group(
        gathered=sum(ranks * part_bytes(parameter, ranks) for parameter in every),
        scattered=sum(REDUCED * ranks * part_numel(parameter.shape, ranks) for parameter in every if parameter.requires_grad),
    )
