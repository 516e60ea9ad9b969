"""From checked settings to a trained model: the one place where the parts meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from alignkit import ranks
from alignkit.checkpointing import wants_checkpointing
from alignkit.data.indexing import Indexing
from alignkit.data.measured import too_many_to_look_up
from alignkit.data.packing import Packing
from alignkit.data.preparation import PreparedData, prepare
from alignkit.data.steps import Steps
from alignkit.errors import UserError
from alignkit.hardware import device_kind
from alignkit.models.adapters import add_adapters
from alignkit.models.backbone import Backbone, check_layers
from alignkit.models.export import check_adapter_export
from alignkit.models.flex_attention import BLOCK
from alignkit.models.freezing import freeze, leave_trained
from alignkit.models.heads import Heads
from alignkit.models.loading import check_fit, check_quantization, load_config, load_lm, load_quantized_lm, load_tokenizer
from alignkit.models.location import locate
from alignkit.models.reference import (
    AdapterOffReference,
    CachedReference,
    LiveReference,
    MovingReference,
    Reference,
    fingerprint,
    frozen_copy,
)
from alignkit.models.terminal_states import CachedStates
from alignkit.modules.alignment import AlignmentModule
from alignkit.modules.datamodule import PreferenceDataModule, PromptDataModule
from alignkit.modules.forward import Parts
from alignkit.modules.objective import Objective
from alignkit.modules.recipe import Recipe
from alignkit.modules.rollout_module import RolloutModule
from alignkit.modules.rollout_objective import RolloutObjective
from alignkit.modules.stepping import SteppingModule
from alignkit.objectives import AnyObjective, build_objective, check_combination, check_reference, check_sources, formula
from alignkit.resolution import MODULES, build_source, resolve
from alignkit.rollout_assembly import check_room, plan_rollouts, reference_of_samples
from alignkit.run_parts import Inputs, Models
from alignkit.settings import BatchSettings, RunSettings

DENSE_ROW = 128
"""Rows under a dense mask are filled up to the longest example, and to so many tokens at least."""
ATTENTION_WORDS = {"tiles": "tiles of visible tokens", "flex": "FlexAttention blocks", "dense": "a dense mask"}


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Everything that a run needs, built."""

    module: SteppingModule
    models: Models
    data: PreferenceDataModule | PromptDataModule
    inputs: Inputs
    formula: str
    """The objective in use, as one line."""


def assemble(settings: RunSettings) -> Job:
    """Build the parts, cheapest first, so that a mistake costs as little as it can.

    Raises:
        UserError: when the data, the model or their combination cannot work.
    """
    inputs = read_inputs(settings)
    say(data_line(inputs.prepared))
    if (examples := len(inputs.prepared.train)) < settings.batch.pairs:
        say(f"batch: every step takes all {examples} examples, fewer than batch.pairs = {settings.batch.pairs}")
    checkpointing = wants_checkpointing(settings, inputs, inputs.path, plan_packing)
    if checkpointing:
        say("activations: computed again in the backward pass (model.checkpointing)")
    models = build_models(settings, inputs, checkpointing=checkpointing)
    backbone = models.parts.backbone
    packing = plan_packing(settings.batch, backbone)
    say(layout_line(settings.batch, packing, backbone))
    recipe = Recipe.of(settings)
    build = build_rollouts if isinstance(inputs.objective, RolloutObjective) else build_alignment
    module, data = build(settings, inputs, models, packing, recipe)
    return Job(module=module, models=models, data=data, inputs=inputs, formula=formula(settings.loss.name, inputs.objective))


def build_alignment(
    settings: RunSettings, inputs: Inputs, models: Models, packing: Packing, recipe: Recipe
) -> tuple[SteppingModule, PreferenceDataModule]:
    """The module of an objective on given completions, and its data."""
    assert isinstance(inputs.objective, Objective)
    assert issubclass(inputs.module_class, AlignmentModule)
    data = PreferenceDataModule(
        train=inputs.prepared.train,
        validation=inputs.prepared.validation,
        pairs=settings.batch.pairs,
        packing=packing,
        steps=settings.steps,
        seed=settings.seed,
        mismatched=inputs.objective.needs_mismatched,
        rank=ranks.reader(),
        ranks=ranks.readers(),
    )
    data.steps.spare = settings.divergence.spare_batches(settings.validation.every)
    module = inputs.module_class(
        parts=models.parts, recipe=recipe, objective=inputs.objective, reference_fingerprint=models.reference_fingerprint
    )
    return module, data


def build_rollouts(
    settings: RunSettings, inputs: Inputs, models: Models, packing: Packing, recipe: Recipe
) -> tuple[SteppingModule, PromptDataModule]:
    """The module of an objective on its own samples, and its prompts.

    Raises:
        UserError: when the module or the scorer cannot be had.
    """
    assert isinstance(inputs.objective, RolloutObjective)
    if not issubclass(inputs.module_class, RolloutModule):
        raise UserError(f"loss.module = {settings.loss.module!r}: {settings.loss.name} learns from its own samples. Type loss.module=ppo.")
    steps = Steps(
        inputs.prepared.train,
        pairs=settings.batch.pairs,
        steps=settings.steps,
        seed=settings.seed,
        packing=packing,
        rank=ranks.reader(),
        ranks=ranks.readers(),
    )
    rollouts = plan_rollouts(settings, inputs, models, packing, plan_packing)
    module = inputs.module_class(
        parts=models.parts,
        recipe=recipe,
        loss=inputs.objective.loss,
        rollouts=rollouts,
        reference_fingerprint=models.reference_fingerprint,
    )
    return module, PromptDataModule(steps, validation=inputs.prepared.validation)


def read_inputs(settings: RunSettings) -> Inputs:
    """Everything that a run reads but the weights.

    Raises:
        UserError: when the data, the model or their combination cannot work.
    """
    module_class = resolve(MODULES, settings.loss.module, settings.allow_code)
    assert issubclass(module_class, SteppingModule)
    objective, heads = build_objective(settings.loss, settings.allow_code)
    check_combination(settings, objective)
    source = build_source(settings.dataset, settings.allow_code)
    path = locate("model.path", settings.model.path)
    config, tokenizer = load_config("model.path", path), load_tokenizer("model.path", path)
    check_fit("model.path", config, tokenizer, settings.dataset.max_length)
    check_reference(settings, objective, config, tokenizer)
    if settings.model.quantize is not None:
        check_quantization(device_kind(settings.hardware.accelerator))
    if settings.model.adapter is not None and settings.model.lora.export == "adapter":
        check_adapter_export(path)
    for head in heads.values():
        check_layers(head.layers, config)
    by_source = {name: objective.form(name) for name in objective.sources}
    indexing = Indexing.under(settings.cache_dir, say)
    prepared = prepare(settings.dataset, source, tokenizer, form=objective.form(), by_source=by_source, indexing=indexing)  # type: ignore[arg-type]
    check_sources(objective, prepared)
    if isinstance(objective, RolloutObjective):
        check_room(settings, config, prepared)
    return Inputs(
        module_class=module_class,
        objective=objective,
        heads=heads,
        path=path,
        config=config,
        tokenizer=tokenizer,
        prepared=prepared,
        terminator=prepared.encoder.render(prepared.validation_texts[0])[2],
    )


def build_models(settings: RunSettings, inputs: Inputs, *, checkpointing: bool) -> Models:
    """Load the weights: the policy, its adapters and heads, and the reference where there is one.

    With `checkpointing` the policy computes its layers again in the backward pass.

    Raises:
        UserError: when weights are missing or cannot be read.
    """
    model = settings.model
    backbone = load_backbone(settings, "model.path", inputs.path)
    # Before adapters: what they are added to, and what the reference is.
    policy_fingerprint = fingerprint(backbone)
    reference, reference_fingerprint = build_reference(settings, inputs.objective, backbone, policy_fingerprint)
    measured_against = reference_of_samples(settings, backbone, reference) if settings.validation.kl else None
    if isinstance(measured_against, LiveReference) and measured_against is not reference:
        say("validation.kl: a reference stays in memory, to be asked about samples")
    frozen_trunk = model.train == "heads"
    leave_trained(backbone, model)
    if model.adapter is not None:
        add_adapters(backbone, model.lora)
    if checkpointing:
        backbone.checkpoint_activations()
    if model.compile:
        backbone.compile_layers()
    heads = Heads(backbone.hidden_width, inputs.heads)
    cacheable = frozen_trunk and all(head.reads_terminal_states for head in inputs.heads.values())
    if cacheable and too_many_to_look_up(settings):
        cacheable = False
        say("trunk: runs in every step, because the states of so many examples do not fit into memory")
    elif frozen_trunk and not cacheable:
        say("trunk: runs in every step, because a head reads more of it than the states where completions end")
    return Models(
        parts=Parts(backbone=backbone, heads=heads, reference=reference, states=CachedStates() if cacheable else None),
        policy_fingerprint=policy_fingerprint,
        reference_fingerprint=reference_fingerprint,
        measured_against=measured_against,
    )


def load_backbone(settings: RunSettings, where: str, path: str) -> Backbone:
    """A language model in the number format of the run."""
    dtype = torch.bfloat16 if settings.precision.lightning == "bf16-true" else torch.float32
    device = device_kind(settings.hardware.accelerator)
    if settings.model.quantize is not None and where == "model.path":
        products = torch.float32 if settings.precision.lightning == "32-true" else torch.bfloat16
        lm = load_quantized_lm(where, path, dtype, products)
    else:
        lm = load_lm(where, path, dtype)
    return Backbone(lm).use_attention(settings.model.attention, device)


def build_reference(settings: RunSettings, objective: AnyObjective, backbone: Backbone, policy: str) -> tuple[Reference | None, str | None]:
    """The reference of a policy that is as training starts, before it has adapters, and the fingerprint of its weights."""
    if not objective.needs_reference:
        return None, None
    choice = settings.reference
    other = None
    if choice.path is not None:
        other = freeze(load_backbone(settings, "reference.path", locate("reference.path", choice.path)))
    # Fingerprinted as loaded, whatever its files look like: a cache that is keyed by anything less could hold another model's values.
    weights = policy if other is None else fingerprint(other)
    if choice.mix is not None and choice.every is not None:
        say(f"reference: moves every {choice.every} steps by {choice.mix:g}, so that nothing is cached")
        return MovingReference(frozen_copy(backbone), mix=choice.mix, every=choice.every), weights
    if choice.source == "cache" and not objective.needs_live_reference and not too_many_to_look_up(settings):
        return CachedReference(other or backbone), weights
    if choice.source == "cache" and not objective.needs_live_reference:
        say("reference: runs in every step, because the log-probs of so many examples do not fit into memory")
    elif choice.source == "cache":
        why = "samples are new" if isinstance(objective, RolloutObjective) else "a divergence reads the whole vocabulary, not single tokens"
        say(f"reference: runs in every step, because {why}")
    if other is None and settings.model.adapter is not None:
        return AdapterOffReference(backbone), weights
    return LiveReference.under(other or frozen_copy(backbone), settings.precision.lightning), weights


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


def data_line(prepared: PreparedData) -> str:
    """What was loaded and what was left out, in one line."""
    counts = {name: count for name, count in prepared.counts.items() if count}
    return "data: " + ", ".join(f"{name} {count}" for name, count in counts.items())


def say(line: str) -> None:
    """One line for the user, now, from the first process."""
    if ranks.is_first():
        print(line, flush=True)
