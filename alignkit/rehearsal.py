"""A training step on tensors that have a shape and no bytes: how much memory is alive, when, and for what. Reads no weights.

The step is the module's own code; only the kernel of packed attention is replaced, by one that allocates what it allocates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from alignkit.batches import PackedBatch
from alignkit.data.packing import Packing
from alignkit.models.backbone import Backbone
from alignkit.models.reference import AdapterOffReference, LiveReference
from alignkit.models.tiled_attention import KEPT_KEYS
from alignkit.planning.ledger import ACTIVATIONS, GRADIENTS, OPTIMIZER, REFERENCE, TEMPORARIES, WEIGHTS, Ledger
from alignkit.planning.narrowing import narrowed, with_layers
from alignkit.random_module import RunInputs, build_module, module_optimizer, precision_plugin
from alignkit.settings import BatchSettings, RunSettings

Packer = Callable[[BatchSettings, Backbone], Packing]
"""How a model's examples are cut into micro-batches."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What one of several ranks holds and computes."""

    shards: int = 1
    """Ranks between which FSDP cuts weights, gradients and optimizer state."""
    tensor_parallel: int = 1
    """Ranks that compute each matrix product together."""
    device: str | None = None
    """`cpu` or `cuda`, where the run is for another machine than this one."""


ALONE = Share()
"""A run of one process, on this machine."""


@final
class _AttentionSizes(torch.autograd.Function):
    """Allocates what `tiled_attention` does, tile for tile, and computes nothing."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, kept: int, largest: int) -> Tensor:
        heads, tokens, width = query.shape
        query.new_empty(2, heads, largest)
        ctx.save_for_backward(query, key, value, query.new_empty(heads, kept))
        ctx.largest = largest
        return query.new_empty(tokens, heads, width)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *_ = ctx.saved_tensors
        sums = torch.promote_types(torch.float32, key.dtype)
        grad_query = torch.empty_like(query)
        grad_key, grad_value = torch.empty_like(key, dtype=sums), torch.empty_like(value, dtype=sums)
        query.new_empty(3, query.shape[0], ctx.largest)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


def attend_without_values(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, *, kept_keys: int, **options: Any
) -> tuple[Tensor, None]:
    """Attention over the table that `tile_table` makes; weights of tiles with at most `kept_keys` keys are kept for the backward pass."""
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    flat = (states.to(dtype).transpose(0, 1).flatten(1, 2) for states in (query, key, value))
    begin, end, prefix_begin, prefix_end, own_begin = attention_mask[0, 0].unbind(-1)
    keys = end - own_begin + prefix_end - prefix_begin
    scores = (end - begin) * keys
    output: Tensor = _AttentionSizes.apply(*flat, int(scores[keys <= kept_keys].sum()), int(scores.max()))  # type: ignore[no-untyped-call]
    return output.unflatten(0, (query.shape[0], -1)), None


STAND_INS = {"tiles": "alignkit_rehearsed_tiles", "flex": "alignkit_rehearsed_flex"}
"""What a language model's configuration calls the attention of a rehearsal, by the attention that it stands for."""
for kind, kept in (("tiles", KEPT_KEYS), ("flex", 0)):
    AttentionInterface.register(STAND_INS[kind], partial(attend_without_values, kept_keys=kept))
    AttentionMaskInterface.register(STAND_INS[kind], sdpa_mask)


@final
class Rehearsal:
    """A run without values on the CPU: its module, and what is alive while it works."""

    def __init__(
        self,
        settings: RunSettings,
        inputs: RunInputs,
        pack: Packer,
        *,
        checkpointing: bool,
        share: Share = ALONE,
        layers: int | None = None,
    ) -> None:
        """`share`: of one rank among several; `layers`: only so many of the model's."""
        self.checkpointing, self.share = checkpointing, share
        self._plugin = precision_plugin(settings, "cpu")
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        config = narrowed(inputs.config if layers is None else with_layers(inputs.config, layers), share.tensor_parallel)
        self._module = build_module(settings, inputs, config, checkpointing=checkpointing, mode=mode, device=share.device)
        self.backbone = backbone = self._module.backbone
        self.packing = pack(settings.batch, backbone)
        models = [module for module in self._module.modules() if isinstance(module, Backbone)]
        if self.packing.layout == "packed" and backbone.attention in STAND_INS:
            for model in models:
                model.lm.set_attn_implementation(STAND_INS[model.attention])
                model.attention = "tiles"  # the table that stand-ins read
        shapes = {parameter.shape for parameter in backbone.parameters()}
        # Heads are not cut; a shape that a weight of the trunk has too is taken for one of the trunk.
        whole = {parameter.shape for parameter in self._module.heads.parameters()} - shapes
        self._ledger: Ledger = Ledger(share.shards, whole)
        for part in (self._module.heads, *models):
            for tensor in (*part.parameters(), *part.buffers()):
                self._ledger.enter(tensor, WEIGHTS if part in (self._module.heads, backbone) else REFERENCE)
        trained = [parameter for parameter in self._module.parameters() if parameter.requires_grad]
        inside = {id(parameter) for layer in backbone.layers() for parameter in layer.parameters()}
        # FSDP scatters a layer's gradients when the layer is done, and those around the layers at the end.
        self._late = [parameter for parameter in backbone.parameters() if share.shards > 1 and id(parameter) not in inside]
        late = {id(parameter) for parameter in self._late}
        for parameter in trained:
            if id(parameter) not in late:
                parameter.register_post_accumulate_grad_hook(lambda done: self._ledger.enter(cast(Tensor, done.grad), GRADIENTS))
        self._optimizer = module_optimizer(settings, self._module)
        self.trained = sum(parameter.numel() for parameter in trained)
        self.trained_bytes = sum(parameter.nbytes for parameter in trained)
        self.around_bytes = sum(parameter.nbytes for parameter in self._module.heads.parameters() if parameter.requires_grad)
        """Of what is trained and not a part of the trunk."""
        self.product_bytes = 4 if settings.precision.lightning == "32-true" else 2
        """Of an element of what a matrix product puts out."""

    def step_peak(self, batch: PackedBatch, *, first: bool) -> Mapping[str, int]:
        """Bytes by kind at the peak of a micro-batch and an update after it. `first`: of its step; later ones find gradients."""
        with self._ledger, self._plugin.forward_context():
            self._make_gradients()
            self._update()
            earlier = [] if first else self._make_gradients()
            for parameter in self._late:
                parameter.grad = None  # scattered: `earlier` holds it
            self._ledger.restart()
            self._ledger.kind = ACTIVATIONS
            loss = self._module.evaluate(batch).sum()
            self._ledger.kind = TEMPORARIES
            loss.backward()
            del loss, earlier
            for parameter in self._late:
                if parameter.grad is not None:
                    self._ledger.enter(parameter.grad, GRADIENTS)
            self._update()
        return self._ledger.peak

    def passes(self, batch: PackedBatch) -> None:
        """A forward and a backward pass over a micro-batch, for who counts what is done."""
        with self._plugin.forward_context():
            self._module.evaluate(batch).sum().backward()
            self._optimizer.zero_grad()

    def held(self) -> Mapping[str, int]:
        """Bytes by kind of what a rank holds between micro-batches, gradients among them."""
        with self._ledger:
            self._make_gradients()
            self._update()
            made = self._make_gradients()
            held = {kind: self._ledger.alive[kind] for kind in (WEIGHTS, REFERENCE, GRADIENTS, OPTIMIZER)}
            del made
            self._optimizer.zero_grad()
        return held

    @property
    def policy(self) -> Backbone | None:
        """The trunk that each micro-batch runs through; None where its states are looked up."""
        return self.backbone if self._module.parts.states is None else None

    @property
    def references(self) -> list[Backbone]:
        """What each micro-batch runs through without gradient, after the policy; the policy itself where its adapters are switched off."""
        reference = self._module.reference
        return [reference.backbone] if isinstance(reference, LiveReference | AdapterOffReference) else []

    @property
    def trunk_passes(self) -> int:
        """Forward passes of a trunk in a micro-batch; a backward pass counts two, for it multiplies twice as much."""
        trained = any(parameter.requires_grad for parameter in self.backbone.parameters())
        backward = (3 if self.checkpointing else 2) if trained else 0
        return (1 + backward if self.policy is not None else 0) + len(self.references)

    @torch.no_grad()
    def look_peak(self, batch: PackedBatch) -> Mapping[str, int]:
        """Bytes by kind at the peak of a forward pass before training, of which nothing is kept."""
        backbone = self._module.backbone
        with self._ledger, self._plugin.forward_context():
            self._ledger.restart()
            self._ledger.kind = TEMPORARIES
            backbone.token_scores(backbone.hidden_states(batch), batch)
        return self._ledger.peak

    def _make_gradients(self) -> list[Tensor]:
        made = []
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.empty_like(parameter)
                self._ledger.enter(parameter.grad, GRADIENTS)
                made.append(parameter.grad)
        return made

    def _update(self) -> None:
        self._ledger.kind = OPTIMIZER
        self._optimizer.step()
        self._optimizer.zero_grad()
