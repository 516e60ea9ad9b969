"""Seconds of a run on a device that is not here: operations and kernels are counted in rehearsals of shallow models.

    a micro-batch takes    max(operations / (best * utilisation), kernels * 10 us)
    an update takes        2 * bytes of weights, gradients and optimizer state / the memory's bandwidth

Operations are those of matrix products, a multiplication and an addition being two, and of attention where a token sees another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, final

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from alignkit.batches import PackedBatch
from alignkit.data.examples import EncodedExample
from alignkit.data.measured import with_keys
from alignkit.planning.costs import Costs, costs_of
from alignkit.planning.devices import GIGA, Device
from alignkit.planning.ledger import GRADIENTS, OPTIMIZER, WEIGHTS
from alignkit.planning.load import Load
from alignkit.planning.measuring import Pace
from alignkit.random_module import RunInputs
from alignkit.rehearsal import STAND_INS, Packer, Rehearsal
from alignkit.settings import RunSettings

KERNEL_SECONDS = 10e-6
"""Assumed: what Python and torch take to start one, which is what small models wait for."""
DEPTHS = (1, 2)
"""Layers of the models that are rehearsed."""


@final
class _Kernels(TorchDispatchMode):
    """Counts the operators that compute."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.namespace == "aten" and not func.is_view
        return func(*args, **(kwargs or {}))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What passes are made of."""

    operations: Costs
    """Of matrix products."""
    kernels: Costs
    """A micro-batch, whatever its size: their unit is the sample they were counted on."""
    sample: PackedBatch


def count_work(settings: RunSettings, inputs: RunInputs, load: Load, pack: Packer, rehearsal: Rehearsal) -> Work:
    """Rehearse passes over a micro-batch with one and with two layers, as one rank computes them."""
    counts = []
    layers: int = inputs.config.num_hidden_layers
    for depth in (min(depth, layers) for depth in DEPTHS):
        shallow = Rehearsal(settings, inputs, pack, checkpointing=rehearsal.checkpointing, share=rehearsal.share, layers=depth)
        kernels, operations = _Kernels(), FlopCounterMode(display=False)
        with operations, kernels:
            shallow.passes(load.sample)
        counts.append((depth, operations.get_total_flops(), kernels.count))
    (low, few, less), (high, many, more) = counts
    return Work(
        operations=costs_of((low, few), (high, many), load.sample),
        kernels=costs_of((low, less), (high, more), load.sample),
        sample=load.sample,
    )


def estimate_pace(
    device: Device, utilisation: float, settings: RunSettings, inputs: RunInputs, load: Load, pack: Packer, rehearsal: Rehearsal
) -> Pace:
    """How fast a rank would compute on a device."""
    work = count_work(settings, inputs, load, pack, rehearsal)
    layers: int = inputs.config.num_hidden_layers
    rate = device.flops(settings.precision.lightning) * utilisation
    keys = [key for batch in load.batches for key in batch.example_keys]
    by_key = {example.key: example for example in with_keys(inputs.prepared.train, keys)}
    attention = sum(attention_operations(batch, by_key, rehearsal) for batch in load.batches) / len(load.first)
    products = work.operations.of_batches(layers, load.batches) / len(load.first)
    kernels = work.kernels.of_batches(layers, [work.sample]) * len(load.batches) / len(load.first)
    computing = (products + attention) / rate
    held = rehearsal.held()
    moved = 2 * (held.get(WEIGHTS, 0) + held.get(GRADIENTS, 0) + held.get(OPTIMIZER, 0))
    slowed = max(computing, kernels * KERNEL_SECONDS) / products if products else 0.0
    return Pace(
        passes=Costs(layer=work.operations.layer * slowed, around=work.operations.around * slowed),
        update=moved / (device.memory_gb_per_second * GIGA),
        step=max(computing, kernels * KERNEL_SECONDS),
    )


def attention_operations(batch: PackedBatch, by_key: dict[int, EncodedExample], rehearsal: Rehearsal) -> float:
    """Of all layers of a rank over a micro-batch: 4 * width a pair of tokens, forward; twice that backward.

    In tiles and blocks of packed rows pairs that see each other are computed, in all else every pair of a row.
    """
    if not rehearsal.trunk_passes:
        return 0.0
    rows, tokens = batch.input_ids.shape
    pairs: float = rows * tokens * tokens
    if rehearsal.packing.layout == "packed" and rehearsal.backbone.lm.config._attn_implementation in STAND_INS.values():
        shapes = [(len(by_key[key].prompt_ids), [len(ids) for ids in by_key[key].completion_ids]) for key in batch.example_keys]
        pairs = sum(visible_pairs(prompt, completions) for prompt, completions in shapes)
    config = rehearsal.backbone.lm.config
    heads = cast(int, config.num_attention_heads)
    width: int = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    return 4.0 * width * pairs * len(rehearsal.backbone.layers()) * rehearsal.trunk_passes


def visible_pairs(prompt: int, completions: Sequence[int]) -> int:
    """Pairs (token, token that it sees) of one example whose completions share the prompt.

    A prompt of 2 with completions of 2 and 1: 1 + 2 in the prompt, 3 + 4 and 3 in the completions, 13.
    """
    own = prompt * (prompt + 1) // 2
    return own + sum(prompt * length + length * (length + 1) // 2 for length in completions)
