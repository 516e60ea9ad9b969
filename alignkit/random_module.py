"""A run's module with random weights: what a plan measures instead of the real one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, cast, final

import torch
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from alignkit.batches import PackedBatch
from alignkit.data.preparation import PreparedData
from alignkit.errors import UserError
from alignkit.hardware import device_kind
from alignkit.models.adapters import add_adapters
from alignkit.models.backbone import Backbone
from alignkit.models.freezing import leave_trained
from alignkit.models.heads import Heads
from alignkit.models.loading import load_config
from alignkit.models.location import locate
from alignkit.models.reference import AdapterOffReference, LiveReference, Reference
from alignkit.modules.alignment import AlignmentModule
from alignkit.modules.forward import Parts
from alignkit.modules.objective import Objective
from alignkit.modules.recipe import Recipe
from alignkit.modules.stepping import SteppingModule
from alignkit.objectives import AnyObjective, build_objective
from alignkit.optim import build_optimizer
from alignkit.settings import RunSettings


class RunInputs(Protocol):
    """What a forecast reads of `assembly.Inputs`."""

    @property
    def module_class(self) -> type[SteppingModule]: ...
    @property
    def objective(self) -> AnyObjective: ...
    @property
    def config(self) -> PretrainedConfig: ...
    @property
    def prepared(self) -> PreparedData: ...


@final
class LookedUp:
    """Log-probs of a reference and hidden states [C, width] of a frozen trunk."""

    def __init__(self, lm: PreTrainedModel, width: int) -> None:
        self._width, self._dtype = width, lm.dtype

    def token_logps(self, batch: PackedBatch) -> Tensor:
        return torch.zeros(batch.completion_tokens)

    def __call__(self, batch: PackedBatch) -> Tensor:
        return torch.zeros(batch.completions, self._width, dtype=self._dtype)


def build_module(
    settings: RunSettings,
    inputs: RunInputs,
    config: PretrainedConfig,
    *,
    checkpointing: bool,
    mode: AbstractContextManager[object],
    device: str | None = None,
) -> AlignmentModule:
    """The module of a run with random weights, which are made under `mode`. `device`: `cpu` or `cuda`, where it is for another machine.

    Raises:
        UserError: what assembly would say of the model.
    """
    device = device or device_kind(settings.hardware.accelerator)
    with mode:
        lm = random_lm(config, settings)
    backbone = Backbone(lm).use_attention(settings.model.attention, device)
    looked_up, reference = LookedUp(lm, backbone.hidden_width), cast(Reference | None, None)
    objective, named = build_objective(settings.loss, settings.allow_code)
    assert isinstance(objective, Objective), "nobody knows how to rehearse samples"
    assert issubclass(inputs.module_class, AlignmentModule)
    if objective.needs_live_reference or (objective.needs_reference and settings.reference.source != "cache"):
        path = settings.reference.path
        if path is None and settings.reference.source != "moving" and settings.model.adapter is not None:
            reference = AdapterOffReference(backbone)
        else:
            config = config if path is None else load_config("reference.path", locate("reference.path", path))
            with mode:
                other = random_lm(config, settings)
            held = Backbone(other).use_attention(settings.model.attention, device)
            moves = settings.reference.source == "moving"
            reference = LiveReference(held) if moves else LiveReference.under(held, settings.precision.lightning)
    elif objective.needs_reference:
        reference = looked_up
    frozen = settings.model.train == "heads"
    leave_trained(backbone, settings.model)
    if settings.model.adapter is not None:
        # Not under `mode`: peft moves what it has made, which tensors without values refuse. Adapters are small.
        add_adapters(backbone, settings.model.lora)
        if isinstance(mode, FakeTensorMode):
            forget_values(backbone, mode)
    if checkpointing:
        backbone.checkpoint_activations()
    with mode, precision_plugin(settings, device).module_init_context():
        heads = Heads(backbone.hidden_width, named)
    states = looked_up if frozen and all(head.reads_terminal_states for head in named.values()) else None
    parts = Parts(backbone=backbone, heads=heads, reference=reference, states=states)
    recipe = Recipe(optimizer=settings.optimizer, schedule=settings.schedule, steps=settings.steps, log_every=settings.logger.every)
    return inputs.module_class(parts=parts, recipe=recipe, objective=objective)


def forget_values(backbone: Backbone, mode: FakeTensorMode) -> None:
    """Replace parameters that have values, in place, by such that have none."""
    for module in backbone.lm.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not isinstance(parameter, FakeTensor):
                setattr(module, name, nn.Parameter(mode.from_tensor(parameter.detach()), requires_grad=parameter.requires_grad))


def module_optimizer(settings: RunSettings, module: AlignmentModule) -> torch.optim.Optimizer:
    """The optimizer of a run."""
    return build_optimizer(settings.optimizer, trunk=dict(module.backbone.named_parameters()), heads=module.heads.parameters())


def random_lm(config: PretrainedConfig, settings: RunSettings) -> PreTrainedModel:
    """A causal language model with random weights. Raises UserError when there is none of this kind."""
    try:
        dtype = torch.bfloat16 if settings.precision.lightning == "bf16-true" else torch.float32
        lm: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    except ValueError as error:
        reason = str(error).partition(chr(10))[0][:200]
        raise UserError(f"model.path: a {config.model_type} is no causal language model ({reason})") from None
    return lm


def precision_plugin(settings: RunSettings, device: str) -> Precision:
    """The one that Lightning's trainer uses; fp16 weighs and takes what bf16 does, and needs no scaler here."""
    if settings.precision.lightning in ("bf16-mixed", "16-mixed"):
        return MixedPrecision("bf16-mixed", device)
    return HalfPrecision("bf16-true") if settings.precision.lightning == "bf16-true" else Precision()
