"""Low-rank adapters in a frozen trunk: put in, switched off, merged into the weights, told apart from them.

    y = W x + alpha / rank * B A dropout(x)        A [rank, in] is drawn, B [out, rank] is zero, W stays as it is

Hu et al. 2021 (arXiv:2106.09685), with peft's layers. They replace linear layers of the language model in place, so that whatever
runs the model without adapters runs it with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from alignkit.errors import UserError, did_you_mean
from alignkit.model_settings import AdapterSettings
from alignkit.models.backbone import Backbone

if TYPE_CHECKING:  # a second, which only runs with adapters should take
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

NAME = "default"
"""What peft calls the only adapter of a model."""


@final
class AdapterDropout(nn.Module):
    """Dropout that is on while the backbone is in training mode, though the language model around it never is.

    The dropout of an adapter is the user's; the trunk's own would stand between policy and reference.
    """

    def __init__(self, rate: float, backbone: Backbone) -> None:
        super().__init__()
        self.rate = rate
        # A module that holds the one it is part of would never end; a copied backbone is followed by its own copies.
        self._is_training = partial(getattr, backbone, "training")

    def forward(self, states: Tensor) -> Tensor:
        return F.dropout(states, self.rate, self._is_training())

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def add_adapters(backbone: Backbone, settings: AdapterSettings) -> Backbone:
    """Put adapters into a backbone, in place; from then on they alone of its weights are trained. The same function as before,
    to the bit, until the first update. Adapters are float32 on a trunk of less, whose type would swallow their small steps.

    Raises:
        UserError: when the targets do not name linear layers of this model, or peft cannot adapt them.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import cast_adapter_dtype

    targets = target_layers(backbone, settings.targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft divides it
        lora_dropout=settings.dropout,
        target_modules=sorted(targets),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in targets.values()),
        task_type="CAUSAL_LM",
    )
    try:
        inject_adapter_in_model(config, backbone.lm, NAME)
    except ValueError as error:
        raise UserError(
            f"model.adapter = 'lora': peft cannot adapt this model ({str(error).partition(chr(10))[0][:200]}). "
            "Name other layers with model.lora.targets=[...]."
        ) from None
    cast_adapter_dtype(backbone.lm, NAME)
    if settings.dropout > 0:
        for layer in adapter_layers(backbone.lm).values():
            layer.lora_dropout[NAME] = AdapterDropout(settings.dropout, backbone)
    return backbone


def target_layers(backbone: Backbone, targets: Sequence[str] | None) -> dict[str, nn.Module]:
    """The linear layers to adapt, by name: those inside the trunk's layers, or those whose names end with one of `targets`.

    Raises:
        UserError: when a target names none, or the layers are not known.
    """
    output = backbone.lm.get_output_embeddings()
    linear = {name: module for name, module in backbone.lm.named_modules() if isinstance(module, (nn.Linear, Conv1D))}
    allowed: dict[str, nn.Module] = {name: module for name, module in linear.items() if module is not output}
    if targets is None:
        inside = {id(module) for layer in backbone.layers() for module in layer.modules()}
        found = {name: module for name, module in allowed.items() if id(module) in inside}
        if not found:
            kind = type(backbone.lm).__name__
            raise UserError(f"model.adapter = 'lora': the layers of a {kind} are not known. Name some with model.lora.targets=[...].")
        return found
    ends = sorted({name.rpartition(".")[2] for name in allowed})
    for target in targets:
        if not any(_ends_with(name, target) for name in allowed):
            why = f"no linear layer is called {target!r}.{did_you_mean(target, ends)}"
            if any(_ends_with(name, target) for name in linear):
                why = f"{target!r} is the output embedding, which gets no adapter."
            raise UserError(f"model.lora.targets: {why} Choose of {', '.join(ends)}.")
    return {name: module for name, module in allowed.items() if any(_ends_with(name, target) for target in targets)}


def has_adapters(lm: PreTrainedModel) -> bool:
    """Whether adapters were put into a language model."""
    return bool(getattr(lm, "peft_config", None))  # peft's mark


def adapter_layers(module: nn.Module) -> dict[str, LoraLayer]:
    """The layers that have an adapter, by name."""
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}


@contextmanager
def adapters_off(backbone: Backbone) -> Iterator[Backbone]:
    """The backbone as it was before it got adapters, to the bit. One without adapters is left as it is."""
    if not has_adapters(backbone.lm):
        yield backbone
        return
    layers = adapter_layers(backbone.lm).values()
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield backbone
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        # peft freezes what it switches off, and trains what it switches on.
        backbone.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)


def trunk_state(backbone: Backbone) -> dict[str, Tensor]:
    """The state of a backbone without its adapters, under the names and with the values that it had before it got them."""
    if not has_adapters(backbone.lm):
        return dict(backbone.state_dict())
    adapted = tuple(f"{name}." for name in adapter_layers(backbone))
    state: dict[str, Tensor] = {}
    for name, tensor in backbone.state_dict().items():
        layer = next((prefix for prefix in adapted if name.startswith(prefix)), None)
        if layer is None:
            state[name] = tensor
        elif name.startswith(f"{layer}base_layer."):
            state[layer + name.removeprefix(f"{layer}base_layer.")] = tensor
    return state


@torch.no_grad()
def merged_weights(backbone: Backbone) -> Iterator[tuple[str, Tensor]]:
    """The weights of the language model that computes, without adapters, what this one computes with them:

        W + alpha / rank * B A        in float32 at least, in the weight's type at last

    By the names of a model without adapters, one after the other; the backbone stays as it is, and what no adapter changes is not
    copied.
    """
    changed: dict[str, LoraLayer] = {}
    if has_adapters(backbone.lm):
        changed = {f"{name}.weight": layer for name, layer in adapter_layers(backbone.lm).items()}
    for name, tensor in trunk_state(backbone).items():
        plain = name.removeprefix("lm.")
        yield plain, _merged(tensor, changed[plain]) if plain in changed else tensor


def adapter_config(lm: PreTrainedModel) -> LoraConfig:
    """How a language model's adapters were made, in peft's words."""
    config: LoraConfig = lm.peft_config[NAME]  # type: ignore[assignment]
    return config


def adapter_state(lm: PreTrainedModel) -> dict[str, Tensor]:
    """The adapters alone, under the names that peft looks for in a file."""
    from peft import get_peft_model_state_dict

    state: dict[str, Tensor] = get_peft_model_state_dict(lm, adapter_name=NAME)
    return {f"base_model.model.{name}": tensor for name, tensor in state.items()}


def _merged(weight: Tensor, layer: LoraLayer) -> Tensor:
    wide = torch.promote_types(weight.dtype, torch.float32)
    down, up = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
    assert isinstance(down, Tensor)
    assert isinstance(up, Tensor)
    change: Tensor = up.to(wide) @ down.to(wide) * layer.scaling[NAME]
    if isinstance(layer.get_base_layer(), Conv1D):  # its weight is [in, out]
        change = change.T
    return (weight.to(wide) + change).to(weight.dtype)


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
