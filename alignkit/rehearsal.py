"""A training step on tensors that have a shape and no bytes: how much memory is alive, when, and for what. Reads no weights.

The step is the module's own code; only the kernel of packed attention is replaced, by one that allocates what it allocates.
"""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self, cast, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from alignkit.batches import PackedBatch
from alignkit.data.packing import Packing
from alignkit.models.backbone import Backbone
from alignkit.models.tiled_attention import KEPT_KEYS
from alignkit.random_module import RunInputs, build_module, module_optimizer, precision_plugin
from alignkit.settings import BatchSettings, RunSettings

WEIGHTS = "weights"
REFERENCE = "reference"
COPIES = "copies of weights in bfloat16"
GRADIENTS = "gradients"
OPTIMIZER = "optimizer state"
ACTIVATIONS = "activations"
TEMPORARIES = "temporaries"

CPU = torch.device("cpu")
Packer = Callable[[BatchSettings, Backbone], Packing]
"""How a model's examples are cut into micro-batches."""


@final
class Ledger(TorchDispatchMode):
    """Counts the bytes of every storage from its first use to its end, while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind = TEMPORARIES  # what new storages are for
        self.alive: Counter[str] = Counter()
        """Bytes by kind."""
        self.peak: Mapping[str, int] = {}
        """`alive` when its sum was greatest."""
        self._highest = self._total = 0
        self._kinds: dict[int, str] = {}
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __enter__(self) -> Self:
        gc.disable()  # half of the time otherwise
        return cast(Self, super().__enter__())  # type: ignore[no-untyped-call]

    def __exit__(self, *error: object) -> None:
        gc.enable()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def restart(self) -> None:
        """Forget the peak, not what is alive."""
        self.peak, self._highest = {}, 0

    def enter(self, tensor: Tensor, kind: str) -> None:
        """Count a tensor's storage under `kind`, from now on or again."""
        storage = tensor.untyped_storage()
        number, size = id(storage), storage.nbytes()
        if number in self._storages:
            self.alive[self._kinds[number]] -= size
            self.alive[kind] += size
            self._kinds[number] = kind
            return

        def leave(_: object) -> None:
            self.alive[self._kinds.pop(number)] -= size
            self._total -= size
            del self._storages[number]

        self._storages[number], self._kinds[number] = weakref.ref(storage, leave), kind
        self.alive[kind] += size
        self._total += size
        if self._total > self._highest:
            self._highest, self.peak = self._total, dict(self.alive)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # two of three calls, and slow
            return CPU
        result = func(*args, **(kwargs or {}))
        for tensor in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in self._storages:
                # Autocast keeps what it casts, for the rest of the step.
                is_cast = func is torch.ops.aten._to_copy.default and self._kinds.get(id(args[0].untyped_storage())) in (WEIGHTS, REFERENCE)
                self.enter(tensor, COPIES if is_cast else self.kind)
        return result


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

    def __init__(self, settings: RunSettings, inputs: RunInputs, pack: Packer, *, checkpointing: bool) -> None:
        self.checkpointing = checkpointing
        self._plugin = precision_plugin(settings, "cpu")
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._module = build_module(settings, inputs, inputs.config, checkpointing=checkpointing, mode=mode)
        backbone = self._module.backbone
        self.packing = pack(settings.batch, backbone)
        models = [module for module in self._module.modules() if isinstance(module, Backbone)]
        if self.packing.layout == "packed" and backbone.attention in STAND_INS:
            for model in models:
                model.lm.set_attn_implementation(STAND_INS[model.attention])
                model.attention = "tiles"  # the table that stand-ins read
        self._ledger: Ledger = Ledger()
        for part in (self._module.heads, *models):
            for tensor in (*part.parameters(), *part.buffers()):
                self._ledger.enter(tensor, WEIGHTS if part in (self._module.heads, backbone) else REFERENCE)
        trained = [parameter for parameter in self._module.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.register_post_accumulate_grad_hook(lambda done: self._ledger.enter(cast(Tensor, done.grad), GRADIENTS))
        self._optimizer = module_optimizer(settings, self._module)
        self.trained = sum(parameter.numel() for parameter in trained)

    def step_peak(self, batch: PackedBatch, *, first: bool) -> Mapping[str, int]:
        """Bytes by kind at the peak of a micro-batch and an update after it. `first`: of its step; later ones find gradients."""
        with self._ledger, self._plugin.forward_context():
            self._make_gradients()
            self._update()
            if not first:
                self._make_gradients()
            self._ledger.restart()
            self._ledger.kind = ACTIVATIONS
            loss = self._module.evaluate(batch).sum()
            self._ledger.kind = TEMPORARIES
            loss.backward()
            del loss
            self._update()
        return self._ledger.peak

    @torch.no_grad()
    def look_peak(self, batch: PackedBatch) -> Mapping[str, int]:
        """Bytes by kind at the peak of a forward pass before training, of which nothing is kept."""
        backbone = self._module.backbone
        with self._ledger, self._plugin.forward_context():
            self._ledger.restart()
            self._ledger.kind = TEMPORARIES
            backbone.token_scores(backbone.hidden_states(batch), batch)
        return self._ledger.peak

    def _make_gradients(self) -> None:
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.empty_like(parameter)
                self._ledger.enter(parameter.grad, GRADIENTS)

    def _update(self) -> None:
        self._ledger.kind = OPTIMIZER
        self._optimizer.step()
        self._optimizer.zero_grad()
