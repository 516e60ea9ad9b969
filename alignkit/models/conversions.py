"""Weights under autocast, converted as rarely as can be. Nothing that is computed changes by it, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from alignkit.models.backbone import Backbone

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""What matrix products run in, by Lightning's name of a precision that has autocast."""
PRODUCTS = frozenset([F.linear, torch.addmm, torch.matmul, Tensor.matmul])
"""How models multiply by their weights: `nn.Linear`, `Conv1D`."""


@contextmanager
def conversions_kept(device: str) -> Iterator[Callable[[Tensor], Tensor]]:
    """Keep what autocast makes of each weight that is trained until the end, when it is let go.

    Lightning's autocast keeps nothing, since weights change within it: this is for where they do not, as between two optimiser steps.
    Without autocast this does nothing.

    Yields:
        What a product reads of a tensor, for code that multiplies by itself.
    """
    if not torch.is_autocast_enabled(device):
        yield _as_it_is
        return
    with _Kept(device) as kept:
        yield kept.converted


@final
class _Kept(TorchFunctionMode):
    """Hands products the kept conversion of a weight.

    Autocast's own cache would do that too, but each backward pass reaches a conversion that an earlier micro-batch made only at its end:
    until then the gradients of all weights wait in the products' type. Here every use converts for itself, and what it is given is there.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device, self._dtype = device, torch.get_autocast_dtype(device)
        self._kept: dict[nn.Parameter, Tensor] = {}
        self._input: tuple[Tensor, int, Tensor] | None = None
        """What a product read last, in which version, and its conversion: those of queries, keys and values read the same states."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in PRODUCTS and torch.is_grad_enabled() and torch.is_autocast_enabled(self._device):  # heads leave autocast
            args = [self.converted(arg) if isinstance(arg, Tensor) else arg for arg in args]
        return func(*args, **(kwargs or {}))

    def converted(self, tensor: Tensor) -> Tensor:
        """A float32 tensor that needs a gradient in the products' type; others as they are, for autocast to convert."""
        if not tensor.requires_grad or tensor.dtype is not torch.float32:
            return tensor
        converted: Tensor = _Converted.apply(tensor, self._conversion(tensor))  # type: ignore[no-untyped-call]
        return converted

    def _conversion(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, nn.Parameter):
            if tensor not in self._kept:
                self._kept[tensor] = tensor.detach().to(self._dtype)
            return self._kept[tensor]
        if self._input is None or self._input[0] is not tensor or self._input[1] != tensor._version:
            self._input = tensor, tensor._version, tensor.detach().to(self._dtype)
        return self._input[2]


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


class _Converted(torch.autograd.Function):
    # Each use has a gradient of its own, which is widened before they are summed, as autocast does it.
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, converted: Tensor) -> Tensor:
        return converted

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].to(torch.float32), None


@contextmanager
def weights_converted_once(lm: PreTrainedModel) -> Iterator[None]:
    """The same for all weights of a model that draws tokens: to convert them for each takes longer than to multiply by them."""
    # Autocast keeps conversions of weights that are trained, and of no others.
    frozen = [weight for weight in lm.parameters() if weight.is_floating_point() and not weight.requires_grad]
    if torch.is_autocast_enabled(lm.device.type):
        for weight in frozen:
            weight.requires_grad_(True)
    try:
        with torch.autocast(lm.device.type, enabled=torch.is_autocast_enabled(lm.device.type), cache_enabled=True):
            yield
    finally:
        torch.clear_autocast_cache()
        for weight in frozen:
            weight.requires_grad_(False)


def convert_for_good(backbone: Backbone, dtype: torch.dtype) -> Backbone:
    """Store the linear maps of a frozen model as autocast to `dtype` would convert them: half the memory, and nothing is left to convert.

    Embeddings and norms, which autocast leaves alone, stay as they are, and so do quantised maps. An output embedding that is tied to the
    input's is converted where that loses nothing, as with weights from a bf16 file: what is looked up is widened again.
    """
    embedding, output = backbone.lm.get_input_embeddings(), backbone.lm.get_output_embeddings()
    tied = embedding.weight
    for module in backbone.lm.modules():
        if isinstance(module, nn.Linear | Conv1D) and module.weight.is_floating_point() and module.weight is not tied:
            assert not module.weight.requires_grad, "a model that is trained keeps its weights whole"
            # Not by `module.to`, which refuses parameters without values.
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
    # Not a kind of embedding of the model's own, which may compute with what it looked up.
    if type(embedding) is nn.Embedding and output.weight is tied and loses_nothing(tied, dtype):
        embedding.weight = output.weight = nn.Parameter(tied.detach().to(dtype), requires_grad=False)
        embedding.register_forward_hook(partial(_widened, dtype=tied.dtype))
    return backbone


def loses_nothing(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether a weight is what it was after a conversion to a narrower type and back. Of weights without values nobody knows."""
    if weight.is_meta or isinstance(weight, FakeTensor):
        return False
    # Row by row: a copy of the whole is what this is to save.
    return all(torch.equal(rows.to(dtype).to(rows.dtype), rows) for rows in weight.detach().split(4096))


def _widened(module: nn.Module, inputs: Any, looked_up: Tensor, *, dtype: torch.dtype) -> Tensor:
    return looked_up.to(dtype)
