"""From checked settings to a trained model: the one place where the parts meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from transformers import PreTrainedTokenizerBase

from alignkit.data.preparation import PreparedData, prepare
from alignkit.errors import UserError
from alignkit.losses.families import Loss
from alignkit.models.backbone import Backbone
from alignkit.models.heads import Heads
from alignkit.models.loading import check_fit, load_config, load_lm, load_tokenizer
from alignkit.models.location import locate
from alignkit.models.reference import fingerprint, freeze, frozen_copy
from alignkit.modules.alignment import AlignmentModule, Parts, Recipe
from alignkit.modules.datamodule import PreferenceDataModule
from alignkit.resolution import MODULES, build_loss, build_source, option_records, resolve
from alignkit.settings import HeadSettings, JointSettings, RunSettings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Everything that a run needs, built."""

    module: AlignmentModule
    data: PreferenceDataModule
    prepared: PreparedData
    tokenizer: PreTrainedTokenizerBase
    formula: str
    terminator: int
    policy_fingerprint: str
    """Of the trunk before the first update."""
    reference_fingerprint: str | None
    reference_is_policy: bool


def assemble(settings: RunSettings) -> Job:
    """Build the parts, cheapest first, so that a mistake costs as little as it can.

    Raises:
        UserError: see `train`.
    """
    loss = build_loss(settings.loss, settings.allow_code)
    assert isinstance(loss, Loss)
    module_class = resolve(MODULES, settings.loss.module, settings.allow_code)
    assert issubclass(module_class, AlignmentModule)
    options = option_records(settings.loss.options)
    needs_reference = check_combination(settings, module_class, options.get("joint"))
    source = build_source(settings.dataset, settings.allow_code)

    path = locate("model.path", settings.model.path)
    reference_path = None if settings.reference.path is None else locate("reference.path", settings.reference.path)
    config, tokenizer = load_config("model.path", path), load_tokenizer("model.path", path)
    check_fit("model.path", config, tokenizer, settings.dataset.max_length)
    prepared = prepare(settings.dataset, source, tokenizer, completions=module_class.completions)  # type: ignore[arg-type]
    say(data_line(prepared))

    dtype = torch.bfloat16 if settings.precision.lightning == "bf16-true" else torch.float32
    backbone = Backbone(load_lm("model.path", path, dtype))
    policy_fingerprint = fingerprint(backbone)
    reference, reference_fingerprint = None, None
    if needs_reference:
        reference = frozen_copy(backbone) if reference_path is None else freeze(Backbone(load_lm("reference.path", reference_path, dtype)))
        reference_fingerprint = policy_fingerprint if reference_path is None else fingerprint(reference)
    if settings.model.train == "heads":
        freeze(backbone)
    head = options.get("head")
    heads = Heads(backbone.hidden_width, {head.name: head} if isinstance(head, HeadSettings) and module_class.uses_head else {})
    parts = Parts(backbone=backbone, heads=heads, reference=reference)
    recipe = Recipe(optimizer=settings.optimizer, schedule=settings.schedule, steps=settings.steps, log_every=settings.logger.every)
    layout = backbone.layout(settings.batch.layout)
    if layout != settings.batch.layout:
        say(f"layout: rows, because {backbone.why_not_packed()} (batch.layout=packed is not possible)")
    data = PreferenceDataModule(
        train=prepared.train,
        validation=prepared.validation,
        batch=settings.batch,
        layout=layout,
        steps=settings.steps,
        seed=settings.seed,
    )
    return Job(
        module=module_class(parts=parts, recipe=recipe, loss=loss, **options),  # type: ignore[call-arg, arg-type]
        data=data,
        prepared=prepared,
        tokenizer=tokenizer,
        formula=formula(settings, loss, options.get("joint")),
        terminator=terminator(prepared),
        policy_fingerprint=policy_fingerprint,
        reference_fingerprint=reference_fingerprint,
        reference_is_policy=reference_fingerprint == policy_fingerprint,
    )


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


def terminator(prepared: PreparedData) -> int:
    """The token that ends the completions of these data."""
    return prepared.encoder.render(prepared.validation_texts[0])[2]


def data_line(prepared: PreparedData) -> str:
    """What was loaded and what was left out, in one line."""
    counts = {name: count for name, count in prepared.counts.items() if count}
    return "data: " + ", ".join(f"{name} {count}" for name, count in counts.items())


def say(line: str) -> None:
    """One line for the user, now."""
    print(line, flush=True)
