"""The models that a failed step is run under again, and its loss. The data of the run are not needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from alignkit.assembly import build_reference, load_backbone
from alignkit.batches import PackedBatch
from alignkit.checkpoint_weights import is_checkpoint, read_weights, steps_of
from alignkit.consolidation import HEADS, TRUNK, VALUE_TRUNK, fill
from alignkit.errors import UserError
from alignkit.losses.rollout_families import RolloutLoss, SampledLoss
from alignkit.losses.rollout_outputs import PolicyTokens
from alignkit.models.adapters import add_adapters
from alignkit.models.freezing import leave_trained
from alignkit.models.heads import Heads
from alignkit.models.loading import load_tokenizer
from alignkit.models.location import locate
from alignkit.models.reference import MovingReference, frozen_copy
from alignkit.modules.failures import Failure
from alignkit.modules.forward import Forward, Parts
from alignkit.modules.objective import Objective
from alignkit.modules.rollout_module import VALUE
from alignkit.modules.stored import Stored, store
from alignkit.modules.tally import Tally
from alignkit.objectives import build_objective
from alignkit.rollout import Rollout
from alignkit.run_dir import RunDir
from alignkit.settings import RunSettings

CHECKPOINT, MODEL = "checkpoint", "model"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayModels:
    """Models with the weights of a run, and what their loss is."""

    parts: Parts
    modules: nn.Module
    """What is trained, by the names of the run."""
    loss: Callable[[PackedBatch], Tensor]
    """[] of a micro-batch of the step: its share."""
    before_step: Callable[[Sequence[PackedBatch]], None]
    """Lets the objective look at the whole step."""
    decode: Callable[[Sequence[int]], str]
    weights: str
    note: str | None


def build_replay_models(settings: RunSettings, run: RunDir, failure: Failure, device: torch.device) -> ReplayModels:
    """The models as they were before the step, or as near to it as the run has kept them.

    Raises:
        UserError: when no weights are left, or they do not fit.
    """
    place, said = find_weights(run, failure)
    path = settings.model.path
    if place == MODEL:
        model = replace(settings.model, path=str(run.model), adapter=None, quantize=None, compile=False)
        settings = replace(settings, model=model, reference=replace(settings.reference, path=settings.reference.path or path))
    objective, head_settings = build_objective(settings.loss, settings.allow_code)
    if settings.reference.source == "cache":
        settings = replace(settings, reference=replace(settings.reference, source="memory"))
    backbone = load_backbone(settings, "model.path", locate("model.path", settings.model.path))
    reference, _ = build_reference(settings, objective, backbone, "")
    leave_trained(backbone, settings.model)
    if settings.model.adapter is not None:
        add_adapters(backbone, settings.model.lora)
    modules = nn.ModuleDict({"backbone": backbone, "heads": Heads(backbone.hidden_width, head_settings)})
    if getattr(getattr(objective, "loss", None), "value_trunk", None) == "separate":
        modules["value_trunk"] = frozen_copy(backbone).requires_grad_(True)
    load_weights(run, place, modules, reference)
    modules.to(device)
    held: object = reference
    if isinstance(held, nn.Module):
        held.to(device)
    parts = Parts(backbone=backbone, heads=modules["heads"], reference=reference)  # type: ignore[arg-type]
    tokenizer = load_tokenizer("model.path", locate("model.path", path))
    common: dict[str, Any] = {
        "parts": parts,
        "modules": modules,
        "decode": lambda ids: str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)),
        "weights": said,
    }
    if isinstance(objective, Objective):
        return of_completions(common, objective, failure)
    return of_samples(common, settings, objective.loss, failure)


def find_weights(run: RunDir, failure: Failure) -> tuple[str, str]:
    """What to load, and which weights that are, in words: those of the step before, or else the newest checkpoint's.

    Raises:
        UserError: when there are none.
    """
    wanted, newest = failure.step - 1, run.last_checkpoint
    there = steps_of(newest) if is_checkpoint(newest) else None
    if there == wanted:
        return CHECKPOINT, f"those before the step, of {newest.relative_to(run.path)}"
    exported = json.loads(run.results.read_text(encoding="utf-8")).get("steps") if run.results.is_file() else None
    if run.model.is_dir() and exported == wanted:
        return MODEL, "those before the step, of model/ (adapters merged)"
    if there is not None:
        return CHECKPOINT, f"of step {there}, of {newest.relative_to(run.path)}; those before the step, of step {wanted}, are not kept"
    if run.model.is_dir():
        return MODEL, f"of step {exported}, of model/; those before the step, of step {wanted}, are not kept"
    raise UserError(f"failure: {run.path} has neither a checkpoint nor model/, so there are no weights to run the step under.")


def load_weights(run: RunDir, place: str, modules: nn.ModuleDict, reference: object) -> None:
    """Give the models what the run has kept.

    Raises:
        UserError: when it does not fit.
    """
    if place == MODEL:
        if "value_trunk" in modules:
            raise UserError("failure: model/ has no value trunk. Only a checkpoint has (callbacks.checkpoints=true).")
        if len(list(modules["heads"].parameters())) > 0:
            try:
                fill(modules["heads"], load_file(run.heads), "the heads")
            except (OSError, SafetensorError) as error:
                raise UserError(f"{run.heads}: cannot be read ({error}).") from None
        return
    saved = read_weights(run.last_checkpoint)
    for name, prefix in (("backbone", TRUNK), ("heads", HEADS), ("value_trunk", VALUE_TRUNK)):
        if name in modules:
            fill(modules[name], saved.part(prefix), f"the {name}")
    modules["backbone"].lm.tie_weights()  # type: ignore[union-attr, operator]
    if isinstance(reference, MovingReference):
        fill(reference, saved.part("reference."), "the reference")


def of_completions(common: dict[str, Any], objective: Objective, failure: Failure) -> ReplayModels:
    """The loss of an objective on given completions."""
    parts: Parts = common["parts"]
    objective.load_state(failure.terms)
    step = failure.step_batch()

    def loss(batch: PackedBatch) -> Tensor:
        return objective.loss(objective(Forward(parts, batch)), step)

    def before(batches: Sequence[PackedBatch]) -> None:
        objective.before_step(replace(step, micro_batches=list(batches)), lambda batch: Forward(parts, batch))

    return ReplayModels(**common, loss=loss, before_step=before, note=None)


def of_samples(common: dict[str, Any], settings: RunSettings, loss: SampledLoss, failure: Failure) -> ReplayModels:
    """The loss of an objective on its own samples, with the advantages that they had."""
    parts: Parts = common["parts"]
    modules: nn.ModuleDict = common["modules"]
    temperature = settings.rollout.temperature
    stored: Stored | None = None
    if failure.rollout is not None:
        rollout = Rollout.from_state(failure.rollout)
        stored = store(rollout, loss, settings.rollout, kl_coefficient=failure.sampled["kl_coefficient"], tally=Tally())
    samples = [batch for share in failure.shares for batch in share.batches if not is_data(batch)]
    by_completion = isinstance(loss, RolloutLoss) and loss.per == "completion"
    data_tokens = sum(batch.completion_tokens for share in failure.shares for batch in share.batches if is_data(batch))
    units = max(1, sum(batch.completions if by_completion else batch.completion_tokens for batch in samples))

    def policy_tokens(batch: PackedBatch) -> PolicyTokens:
        hidden, values = parts.backbone.hidden_states(batch), None
        if loss.needs_values:
            states = modules["value_trunk"].hidden_states(batch) if "value_trunk" in modules else hidden  # type: ignore[operator]
            values = parts.heads.scores(VALUE, states.index_select(0, batch.predictor_index))
        entropies = parts.backbone.token_entropies(hidden, batch, temperature=temperature)
        logps = parts.backbone.token_scores(hidden, batch, temperature=temperature).logps
        return PolicyTokens(logps=logps, values=values, entropies=entropies)

    def of_batch(batch: PackedBatch) -> Tensor:
        if is_data(batch):
            assert isinstance(loss, RolloutLoss)
            logps = parts.backbone.token_scores(parts.backbone.hidden_states(batch), batch).logps
            return -loss.ptx_coefficient * logps.sum() / data_tokens
        if stored is None:
            tokens = policy_tokens(batch)
            value = 0.0 if tokens.values is None else tokens.values.sum() * 0
            return -tokens.logps.sum() / units + value
        output: Any = loss(policy_tokens(batch), stored.tokens(batch))
        total: Tensor = output.losses.sum() / units
        return total

    note = "the update had no loss yet: what is shown is -log-prob of the samples" if stored is None else None
    return ReplayModels(**common, loss=of_batch, before_step=lambda batches: None, note=note)


def is_data(batch: PackedBatch) -> bool:
    """Whether its completions are the data's own."""
    return any(key < 0 for key in batch.example_keys)
