"""Modules that learn from their own samples, at toy size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import pytest
import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignkit.configuration import conf_dir
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.data.steps import Steps
from alignkit.loss_settings import HeadSettings
from alignkit.losses.rollout_families import SampledLoss
from alignkit.models.backbone import Backbone
from alignkit.models.heads import Heads
from alignkit.models.reference import LiveReference, Reference, frozen_copy
from alignkit.optimizer_settings import OptimizerSettings, ScheduleSettings
from alignkit.resolution import build, resolve
from alignkit.rollout_settings import UNUSED_REWARD, UNUSED_ROLLOUT, RewardSettings, RolloutSettings
from alignkit.sampling.sampler import Distribution, Sampler
from alignkit.sampling.trunk_sampler import TrunkSampler
from alignkit.scorers.scorer import TextScorer

if TYPE_CHECKING:  # lightning takes seconds to import; most tests do without
    from lightning import Trainer

    from alignkit.modules.rollout_module import RolloutModule


@dataclass(frozen=True, kw_only=True, slots=True)
class Taste(TextScorer):
    """Likes some words and dislikes others, for no reason: the mean over the words of -1, -5/6, ... 1, plus a little for each word."""

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        liked = [[(int(word[1:]) * 7919 % 13) / 6 - 1 for word in text.split()] for text in completions]
        return [sum(words) / max(1, len(words)) + 0.05 * len(words) for words in liked]


def loss_named(name: str, **changes: Any) -> SampledLoss:
    """A loss with the values of its file but for `changes`."""
    values = yaml.safe_load((conf_dir() / "loss" / f"{name}.yaml").read_text(encoding="utf-8"))
    kind = resolve("alignkit.losses", name)
    own = {field.name: values[field.name] for field in dataclasses.fields(kind)}
    return cast(SampledLoss, build("alignkit.losses", name, {**own, **changes}, "loss", ()))


class SamplerFactory(Protocol):
    def __call__(self, backbone: Backbone, settings: RolloutSettings) -> Sampler: ...


def build_sampler(backbone: Backbone, settings: RolloutSettings) -> Sampler:
    distribution = Distribution(temperature=settings.temperature)
    return TrunkSampler(backbone, terminator=2, max_tokens=settings.max_tokens, distribution=distribution, tokens=settings.tokens)


def build_rollout_module(
    loss: SampledLoss,
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: OptimizerSettings,
    *,
    kind: type[RolloutModule[Any]] | None = None,
    reference: Callable[[Backbone], Reference] | None = None,
    prepare: Callable[[Backbone], object] | None = None,
    sampler: SamplerFactory = build_sampler,
    steps: int = 1,
    seed: int = 0,
    packing: Packing | None = None,
    scorer: TextScorer | None = None,
    gold: TextScorer | None = None,
    reward: RewardSettings = UNUSED_REWARD,
    value_trunk: bool = False,
    reference_is_policy: bool = False,
    head_std: float = 0.3,
    **rollout: Any,
) -> RolloutModule[Any]:
    """A module with a frozen copy of the policy as its reference unless another is given, made before `prepare` changes the policy."""
    from alignkit.models.shared_passes import SharedPasses
    from alignkit.modules.collector import Collector, Writing
    from alignkit.modules.forward import Parts
    from alignkit.modules.ppo import PPOModule
    from alignkit.modules.recipe import Recipe
    from alignkit.modules.rollout_module import VALUE, Rollouts

    settings = dataclasses.replace(UNUSED_ROLLOUT, **{"samples": 2, "max_tokens": 6, **rollout})
    backbone = Backbone(lm)
    frozen = LiveReference(frozen_copy(backbone)) if reference is None else reference(backbone)
    if prepare is not None:
        prepare(backbone)
    torch.manual_seed(0)
    head = HeadSettings(name=VALUE, pooler="identity", dropout=0.0, init_std=head_std)
    heads = Heads(backbone.hidden_width, {VALUE: head} if loss.needs_values else {}).to(lm.dtype)
    packing = packing or Packing(layout="packed", tokens=60, row_tokens=40)
    collector = Collector(
        sampler=sampler(backbone, settings),
        scorer=scorer or Taste(),
        reward=reward,
        writing=Writing(tokenizer=tokenizer, terminator=2, packing=packing.for_looking()),
    )
    rollouts = Rollouts(
        settings=settings,
        collector=collector,
        reference=SharedPasses(frozen, temperature=settings.temperature),
        gold=gold,
        packing=packing,
        seed=seed,
        value_trunk=frozen_copy(backbone).requires_grad_(True) if value_trunk else None,
        reference_is_policy=reference_is_policy,
    )
    schedule = ScheduleSettings(name="constant", warmup_steps=0, final_ratio=1.0)
    return (kind or PPOModule)(
        parts=Parts(backbone=backbone, heads=heads, reference=frozen),
        recipe=Recipe(optimizer=optimizer, schedule=schedule, steps=steps, log_every=1),
        loss=loss,
        rollouts=rollouts,
    )


def fit_rollouts(
    module: RolloutModule[Any],
    prompts: Sequence[EncodedExample],
    *,
    pairs: int = 4,
    logger: Any = False,
    validation: Sequence[EncodedExample] = (),
    precision: Any = "32-true",
) -> Trainer:
    """All updates of the module's recipe, on the CPU; nothing is written."""
    from lightning import Trainer

    from alignkit.modules.datamodule import PromptDataModule

    steps = Steps(prompts, pairs=pairs, steps=module.recipe.steps, seed=0, packing=module.rollouts.packing)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        precision=precision,
        max_epochs=1,
        max_steps=-1,
        limit_val_batches=None if validation else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        inference_mode=False,
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=PromptDataModule(steps, validation=list(validation) or list(prompts[:1])))
    return trainer


@pytest.fixture(scope="session")
def ending_lm(lm_factory) -> Callable[..., PreTrainedModel]:
    """A model that ends about every third completion of six tokens, so that samples are ragged."""

    def build(name: str = "gpt2", **options: Any) -> PreTrainedModel:
        lm: PreTrainedModel = lm_factory(name, **options)
        with torch.no_grad():
            lm.get_output_embeddings().weight[2] *= 3
        return lm

    return build


@pytest.fixture(scope="session")
def sampled_loss() -> Callable[..., SampledLoss]:
    return loss_named


@pytest.fixture(scope="session")
def rollout_module(tokenizer_factory, adamw) -> Callable[..., RolloutModule[Any]]:
    tokenizer = tokenizer_factory()

    def build(
        loss: SampledLoss, lm: PreTrainedModel, *, optimizer: OptimizerSettings = adamw, tokenizer: Any = tokenizer, **options: Any
    ) -> RolloutModule[Any]:
        return build_rollout_module(loss, lm, tokenizer, optimizer, **options)

    return build


@pytest.fixture(scope="session")
def fit_samples() -> Callable[..., Trainer]:
    return fit_rollouts
