"""From settings to how a run samples, and to who scores its samples."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from transformers import PretrainedConfig

from alignkit.configuration import packaged, scorer_settings
from alignkit.data import measured
from alignkit.data.packing import Packing
from alignkit.data.preparation import PreparedData
from alignkit.errors import UserError
from alignkit.hardware import device_kind
from alignkit.losses.ppo import PPO
from alignkit.models.backbone import Backbone
from alignkit.models.reference import AdapterOffReference, CachedReference, LiveReference, MovingReference, Reference, frozen_copy
from alignkit.models.shared_passes import Asked, SharedPasses
from alignkit.modules.collector import Collector, Writing
from alignkit.modules.rollout_module import Rollouts
from alignkit.modules.rollout_objective import RolloutObjective
from alignkit.resolution import build_scorer
from alignkit.rollout_settings import ScorerSettings
from alignkit.run_parts import Inputs, Models
from alignkit.sampling.sampler import Distribution, Sampler
from alignkit.sampling.trunk_sampler import TrunkSampler
from alignkit.sampling.vllm_sampler import VLLMSampler
from alignkit.scorers.scorer import Answers, Scorer, ScorerKind, Scores, Surroundings
from alignkit.settings import BatchSettings, RunSettings

Packer = Callable[[BatchSettings, Backbone], Packing]


def plan_rollouts(settings: RunSettings, inputs: Inputs, models: Models, packing: Packing, pack: Packer) -> Rollouts:
    """How the module of a run samples. `pack` says how a model's examples are cut into micro-batches.

    Raises:
        UserError: when a scorer cannot be opened.
    """
    assert isinstance(inputs.objective, RolloutObjective)
    backbone, loss = models.parts.backbone, inputs.objective.loss
    surroundings = surroundings_of(settings, inputs, models, pack)
    assert isinstance(models.parts.reference, Asked)
    reference = SharedPasses(models.parts.reference, temperature=settings.rollout.temperature)
    shared = replace(surroundings, trunk=reference) if surroundings.trunk is not None else surroundings
    collector = Collector(
        sampler=build_engine(settings, backbone, inputs)
        if settings.rollout.samples_elsewhere
        else build_sampler(settings, backbone, inputs.terminator),
        scorer=open_scorer(settings.scorer, settings, shared),
        reward=settings.reward,
        writing=Writing(tokenizer=inputs.tokenizer, terminator=inputs.terminator, packing=packing.for_looking()),
    )
    gold = None
    if settings.validation.gold is not None:
        gold = open_scorer(gold_settings(settings.validation.gold), settings, surroundings)
    return Rollouts(
        settings=settings.rollout,
        collector=collector,
        reference=reference,
        gold=gold,
        packing=packing,
        seed=settings.seed,
        value_trunk=copy.deepcopy(backbone) if isinstance(loss, PPO) and loss.value_trunk == "separate" else None,
        reference_is_policy=models.reference_is_policy,
    )


def build_sampler(
    settings: RunSettings, backbone: Backbone, terminator: int, on_token: Callable[[int], None] | None = None
) -> TrunkSampler:
    """Whoever answers prompts in this run; `on_token` is told each token as it is drawn."""
    rollout = settings.rollout
    return TrunkSampler(
        backbone,
        terminator=terminator,
        max_tokens=rollout.max_tokens,
        distribution=Distribution(temperature=rollout.temperature, top_k=rollout.top_k, top_p=rollout.top_p),
        tokens=rollout.tokens,
        on_token=on_token,
    )


def build_engine(settings: RunSettings, backbone: Backbone, inputs: Inputs) -> Sampler:
    """The engine of its own that answers prompts under `rollout.backend=vllm`."""
    rollout = settings.rollout
    return VLLMSampler(
        backbone,
        inputs.tokenizer,
        terminator=inputs.terminator,
        max_tokens=rollout.max_tokens,
        temperature=rollout.temperature,
        positions=longest_prompt(inputs.prepared) + rollout.max_tokens,
        dtype="float32" if settings.precision.lightning == "32-true" else "bfloat16",
    )


def surroundings_of(settings: RunSettings, inputs: Inputs, models: Models, pack: Packer) -> Surroundings:
    """What scorers may share with the run: its reference where that stands still."""
    reference = models.parts.reference
    still = reference if isinstance(reference, LiveReference | AdapterOffReference) else None
    return Surroundings(
        device=torch.device(device_kind(settings.hardware.accelerator)),
        dtype=torch.bfloat16 if settings.precision.lightning == "bf16-true" else torch.float32,
        attention=settings.model.attention,
        packing=lambda backbone: pack(settings.batch, backbone).for_looking(),
        tokenizer=inputs.tokenizer,
        trunk=still,
        trunk_fingerprint=models.reference_fingerprint if still is not None else None,
    )


def open_scorer(scorer: ScorerSettings, settings: RunSettings, surroundings: Surroundings) -> Scorer:
    """A scorer, loaded. Raises UserError when it cannot be."""
    kind = build_scorer(scorer, settings.allow_code)
    if not isinstance(kind, ScorerKind):
        raise UserError(f"scorer.name = {scorer.name!r}: {type(kind).__name__} is no scorer; derive it from TextScorer or ModelScorer.")
    return kind.open(surroundings)


def reference_of_samples(settings: RunSettings, backbone: Backbone, reference: Reference | None) -> Asked:
    """Whom `validation.kl` measures a policy against that is as training starts, before it has adapters: the objective's reference where it
    can be asked about samples; in the place of a cache the model that the cache is made of, and of none the policy as it is now."""
    if isinstance(reference, LiveReference | AdapterOffReference | MovingReference):
        return reference
    other = reference.backbone if isinstance(reference, CachedReference) and reference.backbone is not backbone else None
    if other is not None:
        return LiveReference(other)  # which the cache reads, too, before it lets it go
    if settings.model.adapter is not None:
        return AdapterOffReference(backbone)
    return LiveReference.under(frozen_copy(backbone), settings.precision.lightning)


def nobody(answers: Answers) -> Scores:
    """The scorer where nobody scores."""
    return Scores(total=torch.zeros(len(answers.completions)))


def gold_settings(name: str) -> ScorerSettings:
    """The scorer that `validation.gold` names, with the values of its file.

    Raises:
        UserError: for a name that is no option of `scorer=`.
    """
    known = {option: values for option, values in packaged("scorer").items() if option != "none"}
    if name not in known:
        raise UserError(f"validation.gold = {name!r}; must be one of {', '.join(sorted(known))}.")
    return scorer_settings(known[name], ())


def check_room(settings: RunSettings, config: PretrainedConfig, prepared: PreparedData) -> None:
    """Refuse prompts whose answers the model has no positions for.

    Raises:
        UserError: naming the longest prompt.
    """
    context = getattr(config, "max_position_embeddings", None)
    longest = longest_prompt(prepared)
    if context is not None and longest + settings.rollout.max_tokens > context:
        raise UserError(
            f"rollout.max_tokens = {settings.rollout.max_tokens}: with the longest prompt, {longest} tokens, a sample may outgrow the "
            f"{context} positions of the model. Type a smaller rollout.max_tokens or dataset.max_length."
        )


def longest_prompt(prepared: PreparedData) -> int:
    """Tokens of the longest prompt."""
    return max(map(measured.longest_prompt, (prepared.train, prepared.validation)))
