"""Whether a run keeps the activations of its layers or computes them again."""

from __future__ import annotations

from alignkit.data.measured import longest_packed
from alignkit.forecast import needs_checkpointing
from alignkit.hardware import device_kind, free_memory
from alignkit.models.backbone import Backbone
from alignkit.models.skeleton import skeleton
from alignkit.modules.rollout_objective import RolloutObjective
from alignkit.random_module import RunInputs
from alignkit.rehearsal import Packer
from alignkit.settings import RunSettings

STATE_BYTES = 28
"""Of a parameter: float32 weight, gradient, two moments, initial weight and a reference's copy, and two bf16 ones."""
BYTES_A_FEATURE = 8
"""Kept of each input and output feature of each matrix a token, twice what Llama-like models were measured to keep."""
BESIDES = 2**30
"""Chunks of logits, gaps of the heap."""


def wants_checkpointing(settings: RunSettings, inputs: RunInputs, path: str, pack: Packer) -> bool:
    """`model.checkpointing`, where `auto` means: only if the run would not fit into the memory at hand otherwise.

    A rehearsal says so, and takes seconds; it is left out where a bound that is far too high fits.
    """
    if settings.model.checkpointing != "auto":
        return settings.model.checkpointing == "full"
    if settings.model.train == "heads":
        return False  # nothing is kept of a trunk that is not trained
    available = free_memory(device_kind(settings.hardware.accelerator))
    longest = longest_packed(inputs.prepared.train)
    if upper_bound(skeleton(path, inputs.config), max(settings.batch.tokens, longest)) < available:
        return False
    if isinstance(inputs.objective, RolloutObjective):
        return True  # there is no rehearsal of samples
    return needs_checkpointing(settings, inputs, pack, available)


def upper_bound(backbone: Backbone, tokens: int) -> int:
    """Bytes that training with micro-batches of so many tokens surely stays under, without checkpointing."""
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    features = sum(sum(parameter.shape) for layer in backbone.layers() for parameter in layer.parameters() if parameter.ndim == 2)
    if not features:
        return 2**63  # a model whose layers are not known
    return STATE_BYTES * parameters + BYTES_A_FEATURE * features * tokens + BESIDES
