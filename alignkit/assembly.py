"""From checked settings to a trained model: the one place where the parts meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from alignkit.checkpointing import wants_checkpointing
from alignkit.data.packing import Packing
from alignkit.data.preparation import PreparedData, prepare
from alignkit.errors import UserError
from alignkit.hardware import device_kind
from alignkit.losses.families import Loss
from alignkit.models.backbone import Backbone
from alignkit.models.flex_attention import BLOCK
from alignkit.models.heads import Heads
from alignkit.models.loading import check_fit, load_config, load_lm, load_tokenizer
from alignkit.models.location import locate
from alignkit.models.reference import CachedReference, LiveReference, Reference, fingerprint, freeze, frozen_copy
from alignkit.models.terminal_states import CachedStates
from alignkit.modules.alignment import AlignmentModule, Parts, Recipe
from alignkit.modules.datamodule import PreferenceDataModule
from alignkit.resolution import MODULES, build_loss, build_source, option_records, resolve
from alignkit.settings import BatchSettings, HeadSettings, JointSettings, RunSettings

DENSE_ROW = 128
"""Rows under a dense mask are filled up to the longest example, and to so many tokens at least."""
ATTENTION_WORDS = {"tiles": "tiles of visible tokens", "flex": "FlexAttention blocks", "dense": "a dense mask"}


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What a run reads before it loads weights."""

    module_class: type[AlignmentModule]
    options: dict[str, HeadSettings | JointSettings]
    """The module's own: `head`, `joint`."""
    needs_reference: bool
    path: str
    """Folder or hub id of the model."""
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    prepared: PreparedData
    terminator: int
    """The token that ends the completions of these data."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """The weights of a run, and what identifies them."""

    parts: Parts
    policy_fingerprint: str
    """Of the trunk before the first update."""
    reference_fingerprint: str | None
    """None where the objective needs no reference."""

    @property
    def reference_is_policy(self) -> bool:
        """Whether policy and reference start as the same function."""
        return self.reference_fingerprint == self.policy_fingerprint


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Everything that a run needs, built."""

    module: AlignmentModule
    models: Models
    data: PreferenceDataModule
    inputs: Inputs
    formula: str
    """The objective in use, as one line."""


def assemble(settings: RunSettings) -> Job:
    """Build the parts, cheapest first, so that a mistake costs as little as it can.

    Raises:
        UserError: when the data, the model or their combination cannot work.
    """
    loss = build_loss(settings.loss, settings.allow_code)
    assert isinstance(loss, Loss)
    inputs = read_inputs(settings)
    say(data_line(inputs.prepared))
    checkpointing = wants_checkpointing(settings, inputs, inputs.path, plan_packing)
    if checkpointing:
        say("activations: computed again in the backward pass (model.checkpointing)")
    models = build_models(settings, inputs, checkpointing=checkpointing)
    backbone = models.parts.backbone
    packing = plan_packing(settings.batch, backbone)
    say(layout_line(settings.batch, packing, backbone))
    recipe = Recipe(optimizer=settings.optimizer, schedule=settings.schedule, steps=settings.steps, log_every=settings.logger.every)
    data = PreferenceDataModule(
        train=inputs.prepared.train,
        validation=inputs.prepared.validation,
        pairs=settings.batch.pairs,
        packing=packing,
        steps=settings.steps,
        seed=settings.seed,
    )
    return Job(
        module=inputs.module_class(parts=models.parts, recipe=recipe, loss=loss, **inputs.options),  # type: ignore[call-arg, arg-type]
        models=models,
        data=data,
        inputs=inputs,
        formula=formula(settings, loss, inputs.options.get("joint")),
    )


def read_inputs(settings: RunSettings) -> Inputs:
    """Everything that a run reads but the weights.

    Raises:
        UserError: when the data, the model or their combination cannot work.
    """
    module_class = resolve(MODULES, settings.loss.module, settings.allow_code)
    assert issubclass(module_class, AlignmentModule)
    options = option_records(settings.loss.options)
    needs_reference = check_combination(settings, module_class, options.get("joint"))
    source = build_source(settings.dataset, settings.allow_code)
    path = locate("model.path", settings.model.path)
    config, tokenizer = load_config("model.path", path), load_tokenizer("model.path", path)
    check_fit("model.path", config, tokenizer, settings.dataset.max_length)
    prepared = prepare(settings.dataset, source, tokenizer, completions=module_class.completions)  # type: ignore[arg-type]
    return Inputs(
        module_class=module_class,
        options=options,
        needs_reference=needs_reference,
        path=path,
        config=config,
        tokenizer=tokenizer,
        prepared=prepared,
        terminator=prepared.encoder.render(prepared.validation_texts[0])[2],
    )


def build_models(settings: RunSettings, inputs: Inputs, *, checkpointing: bool) -> Models:
    """Load the weights: the policy, its heads, and the reference where there is one.

    With `checkpointing` the policy computes its layers again in the backward pass.

    Raises:
        UserError: when weights are missing or cannot be read.
    """
    dtype = torch.bfloat16 if settings.precision.lightning == "bf16-true" else torch.float32
    device, attention = device_kind(settings.hardware.accelerator), settings.model.attention
    backbone = Backbone(load_lm("model.path", inputs.path, dtype)).use_attention(attention, device)
    policy_fingerprint = fingerprint(backbone)
    reference: Reference | None = None
    reference_fingerprint = None
    if inputs.needs_reference:
        other = None
        if settings.reference.path is not None:
            path = locate("reference.path", settings.reference.path)
            other = freeze(Backbone(load_lm("reference.path", path, dtype)).use_attention(attention, device))
        # Fingerprinted as loaded, whatever its files look like: a cache that is keyed by anything less could hold another model's values.
        reference_fingerprint = policy_fingerprint if other is None else fingerprint(other)
        if settings.reference.source == "cache":
            reference = CachedReference(other or backbone)
        else:
            reference = LiveReference(other or frozen_copy(backbone))
    frozen_trunk = settings.model.train == "heads"
    if frozen_trunk:
        freeze(backbone)
    if checkpointing:
        backbone.checkpoint_activations()
    if settings.model.compile:
        backbone.compile_layers()
    head = inputs.options.get("head")
    heads = Heads(backbone.hidden_width, {head.name: head} if isinstance(head, HeadSettings) else {})
    return Models(
        parts=Parts(backbone=backbone, heads=heads, reference=reference, states=CachedStates() if frozen_trunk else None),
        policy_fingerprint=policy_fingerprint,
        reference_fingerprint=reference_fingerprint,
    )


def plan_packing(batch: BatchSettings, backbone: Backbone) -> Packing:
    """How a model's examples are cut into micro-batches: as its attention likes them."""
    layout = backbone.layout(batch.layout)
    if layout == "rows" or backbone.attention == "dense":
        return Packing(layout=layout, tokens=batch.tokens, row_tokens=DENSE_ROW)
    if backbone.attention == "tiles":
        return Packing(layout=layout, tokens=batch.tokens)
    # FlexAttention is compiled for each length: at most eight, of whole blocks.
    return Packing(layout=layout, tokens=batch.tokens, multiple=-(-batch.tokens // (8 * BLOCK)) * BLOCK)


def layout_line(batch: BatchSettings, packing: Packing, backbone: Backbone) -> str:
    """Which layout and attention were chosen, and why."""
    if packing.layout != batch.layout:
        return f"layout: rows, because {backbone.why_not_packed()} (batch.layout=packed is not possible)"
    if packing.layout == "rows":
        return "layout: rows, one prompt with one completion each"
    return f"layout: packed, prompts shared, attention by {ATTENTION_WORDS[backbone.attention]}"


def check_combination(settings: RunSettings, module_class: type[AlignmentModule], joint: object) -> bool:
    """Whether a reference is needed, after refusing settings that would silently do nothing.

    Raises:
        UserError: for a frozen trunk under an objective that trains it.
    """
    joined = isinstance(joint, JointSettings) and joint.dpo_weight > 0
    if settings.model.train == "heads" and not module_class.uses_head:
        raise UserError(f"model.train = 'heads' with loss={settings.loss.name}: this objective trains no head. Type model.train=all.")
    if settings.model.train == "heads" and joined:
        raise UserError(
            "model.train = 'heads' with loss.dpo_weight > 0: the cDPO term trains the trunk, which is frozen. "
            "Type loss.dpo_weight=0, or model.train=all."
        )
    needs_reference = module_class.uses_reference or joined
    if settings.reference.path is not None and not needs_reference:
        raise UserError(f"reference.path = {settings.reference.path!r} has no effect: loss={settings.loss.name} needs no reference.")
    return needs_reference


def formula(settings: RunSettings, loss: Loss, joint: object) -> str:
    """The objective in use, as one line for the user and `results.json`."""
    values = ", ".join(f"{key} {value:g}" for key, value in settings.loss.options.items() if isinstance(value, int | float))
    joined = isinstance(joint, JointSettings) and joint.dpo_weight > 0
    return f"{settings.loss.name}: {loss.formula}{' + dpo_weight * cDPO(beta, dpo_epsilon)' if joined else ''}; {values}"


def data_line(prepared: PreparedData) -> str:
    """What was loaded and what was left out, in one line."""
    counts = {name: count for name, count in prepared.counts.items() if count}
    return "data: " + ", ".join(f"{name} {count}" for name, count in counts.items())


def say(line: str) -> None:
    """One line for the user, now."""
    print(line, flush=True)
