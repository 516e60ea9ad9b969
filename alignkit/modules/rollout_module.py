"""What every objective that learns from its own samples shares: an update is a rollout and an improvement on it."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar, cast, final

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from alignkit.advantages import next_kl_coefficient
from alignkit.batches import PackedBatch
from alignkit.data.collate import micro_batches
from alignkit.data.packing import Packing
from alignkit.data.prompts import PromptBatch
from alignkit.errors import UserError
from alignkit.losses.rollout_families import RewardKLLoss, SampledLoss
from alignkit.losses.rollout_outputs import PolicyTokens
from alignkit.metrics import (
    GOLD,
    GOLD_STD,
    GRADIENT_NORM,
    KL,
    KL_COEFFICIENT,
    LEARNING_RATE,
    RLHF_REWARD,
    SAMPLER_ERROR,
    SAMPLING_SECONDS,
    SCORES,
    SCORES_STD,
    SCORING_SECONDS,
    TOKENS_PER_SECOND,
    TRAIN,
    UPDATE_SECONDS,
    VALIDATION,
)
from alignkit.models.backbone import Backbone
from alignkit.models.shared_passes import SharedPasses
from alignkit.modules.collector import Collected, Collector, read_tokens
from alignkit.modules.draws import Stream
from alignkit.modules.failures import Share, named
from alignkit.modules.forward import Parts
from alignkit.modules.held_out import distinctness, divergence
from alignkit.modules.recipe import Recipe
from alignkit.modules.sample_faults import SampleError, check_tokens
from alignkit.modules.sampler_check import sampler_error
from alignkit.modules.samples_tally import tally_samples
from alignkit.modules.stepping import SteppingModule
from alignkit.modules.stored import Stored
from alignkit.modules.tally import Tally
from alignkit.rollout import Rollout, joined
from alignkit.rollout_settings import RolloutSettings
from alignkit.scorers.scorer import Scorer

VALUE = "value"
"""The head that predicts returns."""
STATE = "alignkit/rollouts"
"""Key of a checkpoint: the KL coefficient, earlier rollouts, training rows half way."""
SHOWN = (SCORES, RLHF_REWARD, KL)
"""What the progress bar shows."""
LossT = TypeVar("LossT", bound=SampledLoss)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Rollouts:
    """How a module samples."""

    settings: RolloutSettings
    collector: Collector
    reference: SharedPasses
    """The reference, which the collector's scorer may read too."""
    gold: Scorer | None
    """Scores held-out samples beside the run's own scorer."""
    packing: Packing
    """How examples that are trained on are cut into micro-batches."""
    seed: int
    value_trunk: Backbone | None = None
    """A trunk of the value head's own; None reads the policy's."""
    reference_is_policy: bool = False
    """Whether policy and reference start as the same function."""


class RolloutModule(SteppingModule, Generic[LossT]):
    """Subclasses say how a policy improves on a rollout.

    Everything that is drawn in update k is a function of the run's seed and k: prompts, samples, the order of minibatches. A run that was
    killed draws the rollout in flight again, the same to the bit, so that no checkpoint has to hold it.
    """

    learns: ClassVar[type[SampledLoss]]
    """The losses that the module is for; every subclass says."""

    def __init__(self, *, parts: Parts, recipe: Recipe, loss: LossT, rollouts: Rollouts, reference_fingerprint: str | None = None) -> None:
        """Raises UserError for a loss of another module."""
        if not isinstance(loss, self.learns):
            raise UserError(f"loss.module: {type(self).__name__} does not learn from {type(loss).__name__}. Leave loss.module out.")
        super().__init__(parts=parts, recipe=recipe, reference_fingerprint=reference_fingerprint)
        self.loss = loss
        self.rollouts = rollouts
        self.value_trunk = rollouts.value_trunk
        self.kl_coefficient = loss.kl_coefficient
        """Moves where `loss.kl_target` is set."""
        self.tally = Tally()
        self.certificate: dict[str, float] = {}
        """What the first update was checked for, and how well it held."""
        self._earlier: list[Rollout] = []
        self._prompts: tuple[int, ...] = ()
        """Keys of the examples whose prompts are answered in this update."""

    @abstractmethod
    def improve(self, rollout: Rollout, prompts: PromptBatch, optimizer: LightningOptimizer) -> bool:
        """Change the weights for the better of a rollout, and tally what is worth logging. False where a step was left out: then the
        rest of the update was too, for the same samples would come again."""

    def training_step(self, prompts: PromptBatch, index: int) -> None:
        begun = time.perf_counter()
        optimizer, schedule = cast(LightningOptimizer, self.optimizers()), cast(LRScheduler, self.lr_schedulers())
        rate = optimizer.param_groups[0]["lr"]
        self._prompts = tuple(prompt.key for prompt in prompts.examples)
        collected: Collected | None = None
        try:
            collected = self.collect(prompts)
        except SampleError as error:
            self._leave_out(error)
        sampled = time.perf_counter()
        if collected is not None:
            if self.improve(self.with_earlier(collected.rollout), prompts, optimizer):
                self._keep(collected.rollout)
            self._tally(collected)
            self._adapt(collected.rollout)
        self.move_on(schedule)
        seconds = time.perf_counter() - begun
        self.training_seconds += seconds
        self.tally.add(LEARNING_RATE, rate)
        if collected is not None:
            tokens = len(collected.rollout.logps)
            self.examples_done += len(collected.rollout.scores)
            self.completions_done += len(collected.rollout.scores)
            self.tokens_done += tokens
            for name, value in (
                (TOKENS_PER_SECOND, tokens / seconds),
                (SAMPLING_SECONDS, collected.seconds["sampling"]),
                (SCORING_SECONDS, collected.seconds["scoring"]),
                (UPDATE_SECONDS, seconds - (sampled - begun)),
            ):
                self.tally.add(name, value)
        if self.steps_done % self.recipe.log_every == 0 or self.steps_done == self.recipe.steps:
            values = self.tally.take() | self.guard.metrics()
            self.emit({TRAIN + name: value for name, value in values.items()})
            self.log_dict({name: values[name] for name in SHOWN if name in values}, prog_bar=True, logger=False)

    def collect(self, prompts: PromptBatch) -> Collected:
        """The rollout of an update.

        Raises:
            SampleError: when a number of the samples is not finite.
            UserError: when samples were not drawn from what training computes.
        """
        with self.whole_models():
            collected = self.rollouts.collector(
                prompts.examples,
                samples=self.rollouts.settings.samples,
                seed=Stream.SAMPLES.seed(self.rollouts.seed, prompts.step),
                read=self.read,
                device=self.device,
            )
        check_tokens(collected.rollout)
        elsewhere = self.rollouts.settings.samples_elsewhere
        self.tally.add(SAMPLER_ERROR, sampler_error(collected.rollout, self.products, elsewhere=elsewhere))
        return collected

    def with_earlier(self, rollout: Rollout) -> Rollout:
        """The rollout together with earlier ones, of whose tokens it is known anew what policy, value head and reference say."""
        if not self._earlier:
            return rollout
        settings, parts = self.rollouts.collector.writing, [rollout]
        for earlier in self._earlier:
            tokens, reference_logps = read_tokens(earlier.examples, settings.packing, self.read, self.device)
            parts.append(replace(earlier, logps=tokens.logps, values=tokens.values, reference_logps=reference_logps))
        return joined(parts)

    @torch.no_grad()
    def read(self, batch: PackedBatch) -> tuple[PolicyTokens, Tensor]:
        """What policy and value head say of a batch's tokens, and the reference's log-probs [N]."""
        return self.policy_tokens(batch), self.rollouts.reference.token_logps(batch)

    def policy_tokens(self, batch: PackedBatch, *, entropies: bool = False) -> PolicyTokens:
        """What policy and value head say of a batch's tokens: each value is read from the state that predicts its token."""
        hidden = self.backbone.hidden_states(batch)
        values = None
        if self.loss.needs_values:
            states = hidden if self.value_trunk is None else self.value_trunk.hidden_states(batch)
            values = self.heads.scores(VALUE, states.index_select(0, batch.predictor_index))
        return PolicyTokens(
            logps=self.backbone.token_scores(hidden, batch, temperature=self.temperature).logps,
            values=values,
            entropies=self.backbone.token_entropies(hidden, batch, temperature=self.temperature) if entropies else None,
        )

    @property
    def temperature(self) -> float:
        """Of the policy wherever it is sampled or scored, and of the reference."""
        return self.rollouts.settings.temperature

    def validation_step(self, prompts: PromptBatch, index: int) -> None:
        seed, gold = Stream.HELD_OUT.seed(self.rollouts.seed, 0), None
        with self.whole_models():
            collected = self.rollouts.collector(prompts.examples, samples=1, seed=seed, read=self.read, device=self.device)
            if self.rollouts.gold is not None:
                gold = self.rollouts.gold(collected.answers).total
        rollout, tally = collected.rollout, Tally()
        tally_samples(tally, collected, kl_coefficient=self.kl_coefficient)
        values = tally.take() | divergence(rollout) | distinctness(collected.answers.completions)
        values |= {} if gold is None else {GOLD: float(gold.mean()), GOLD_STD: float(gold.std(correction=0))}
        values[SCORES_STD] = float(rollout.scores.std(correction=0))
        values = {VALIDATION + name: value for name, value in values.items()}
        self.last_validated = self.steps_done
        self.log_dict(values, logger=False, batch_size=1)
        self.emit(values)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[STATE] = {
            "kl_coefficient": self.kl_coefficient,
            "tally": self.tally.state(),
            "certificate": self.certificate,
            "earlier": [rollout.state() for rollout in self._earlier],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        state = checkpoint[STATE]
        self.kl_coefficient = state["kl_coefficient"]
        self.tally.load_state(state["tally"])
        self.certificate = state["certificate"]
        self._earlier = [Rollout.from_state(rollout) for rollout in state["earlier"]]

    def other_trunks(self) -> Iterator[Backbone]:
        yield from super().other_trunks()
        if self.value_trunk is not None:
            yield self.value_trunk

    def trunk_parameters(self) -> dict[str, torch.nn.Parameter]:
        values = {} if self.value_trunk is None else self.value_trunk.named_parameters(prefix=VALUE)
        return {**super().trunk_parameters(), **dict(values)}

    def _keep(self, rollout: Rollout) -> None:
        if self.rollouts.settings.reuse > 0:
            self._earlier = [rollout, *self._earlier][: self.rollouts.settings.reuse]

    def _adapt(self, rollout: Rollout) -> None:
        """Measured on the rollout that the update was made on, as Ziegler et al. do."""
        self.tally.add(KL_COEFFICIENT, self.kl_coefficient)
        if isinstance(self.loss, RewardKLLoss) and self.loss.kl_target is not None:
            self.kl_coefficient = next_kl_coefficient(
                self.kl_coefficient,
                float(rollout.kl.mean()),
                target=self.loss.kl_target,
                horizon=self.loss.kl_horizon,
                samples=len(rollout.scores),
            )

    def _tally(self, collected: Collected) -> None:
        tally_samples(self.tally, collected, kl_coefficient=self.kl_coefficient)
        self.tally.add(SCORES_STD, float(collected.rollout.scores.std(correction=0)))

    def step(self, optimizer: LightningOptimizer, losses: Sequence[Tensor], batches: Sequence[PackedBatch], stored: Stored) -> bool:
        """Take one optimiser step, unless its numbers forbid it; `losses` are the shares of `batches`. Whether it was taken."""
        norm = self.clip_gradients_by_norm()
        if not self.may_step(losses, norm, batches, lambda: self.known(stored)):
            return False
        self.tally.add(GRADIENT_NORM, norm)
        optimizer.step()
        optimizer.zero_grad()
        return True

    def suspected(self, batch: PackedBatch) -> tuple[int, ...]:
        """The examples whose prompts were answered; those of earlier samples are not known any more."""
        return tuple(-1 - key if key < 0 else self._prompts[key] for key in batch.example_keys if key < len(self._prompts))

    def known(self, stored: Stored) -> dict[str, Any]:
        """What a `Failure` holds of an update."""
        sampled = {"kl_coefficient": self.kl_coefficient}
        return {"rollout": stored.rollout.state(), "sampled": sampled, "prompts": self._prompts}

    def _leave_out(self, error: SampleError) -> None:
        """Do without an update whose samples cannot be learnt from."""
        verdict, why = self.guard.judge_samples(error.why)
        keys = tuple(self._prompts[place] for place in error.places)
        batches = micro_batches(error.examples, self.rollouts.packing)
        share = Share(batches=batches, losses=[], random=self._random)
        why = f"{why} ({named(keys)})"
        self.refuse(verdict, why, self.failure(verdict, why, keys, [share], loss=math.nan, norm=math.nan, prompts=self._prompts))
