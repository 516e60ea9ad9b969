"""The loop of PPO, RLOO and GRPO: several passes over a rollout, in minibatches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from alignkit.data.prompts import PromptBatch
from alignkit.data.steps import share_of
from alignkit.errors import UserError
from alignkit.losses.rollout_families import RolloutLoss
from alignkit.losses.rollout_outputs import RolloutOutput
from alignkit.metrics import (
    APPROX_KL,
    CLIP_FRACTION,
    EPOCHS,
    POLICY_LOSS,
    PTX_LOSS,
    RATIO,
    VALUE_CLIP_FRACTION,
    VALUE_LOSS,
)
from alignkit.modules.draws import Stream
from alignkit.modules.rollout_module import RolloutModule
from alignkit.modules.stored import Minibatch, Stored, as_data, store
from alignkit.modules.tally import Tally
from alignkit.ranks import reader, readers
from alignkit.rollout import Rollout

RATIO_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8, torch.bfloat16: 0.3}
"""How far a token's first ratio may be from 1, by the type of products: it is computed twice, in differently cut batches."""


@final
class PPOModule(RolloutModule[RolloutLoss]):
    """Maximises scores of its own samples: PPO (`losses/ppo.py` numbers what matters), RLOO and GRPO.

    One trunk samples, is trained and carries the value head; means are over the count of the whole minibatch, so that its cut into
    micro-batches changes nothing. In the first update of a run the invariants of PPO are asserted: the first ratio is 1, nothing is
    clipped, nothing that was stored changes, and KL(pi | ref) is 0 where the policy starts as its reference.
    """

    learns = RolloutLoss

    def improve(self, rollout: Rollout, prompts: PromptBatch, optimizer: LightningOptimizer) -> bool:
        stored = self.store(rollout)
        before = [tensor.clone() for tensor in stored.everything()] if self.steps_done == 0 else []
        order = torch.Generator().manual_seed(Stream.ORDER.seed(self.rollouts.seed, prompts.step))
        stop = False
        passes = 0
        while passes < self.loss.epochs and not stop:
            for number, minibatch in enumerate(self.minibatches(rollout, prompts, order)):
                seen = self._learn(stored, minibatch, optimizer, is_first=passes == number == 0)
                if seen is None:
                    return False
                if self.loss.stop_kl is not None and seen.take()[APPROX_KL] > self.loss.stop_kl:
                    stop = True
                    break
            passes += 1
        self.tally.add(EPOCHS, passes)
        if before:
            self._check_stored(before, stored)
        return True

    def store(self, rollout: Rollout) -> Stored:
        """Advantages and weights of an update's samples."""
        return store(rollout, self.loss, self.rollouts.settings, kl_coefficient=self.kl_coefficient, tally=self.tally)

    def minibatches(self, rollout: Rollout, prompts: PromptBatch, generator: torch.Generator) -> Iterator[Minibatch]:
        """The rollout in `loss.minibatches` parts of about as many prompts, in an order that is drawn for this pass."""
        count = len(rollout.examples)
        order = torch.randperm(count, generator=generator).tolist()
        own = list(prompts.examples) if self.loss.ptx_coefficient > 0 else []
        parts = min(self.loss.minibatches, count)
        for part in range(parts):
            examples = [rollout.examples[place] for place in sorted(order[part::parts])]
            data = own[part::parts]
            completions = [ids for example in examples for ids in example.completion_ids]
            yield Minibatch(
                batches=share_of(examples, self.rollouts.packing, reader(), readers()),
                data=share_of(data, self.rollouts.packing, reader(), readers()) if data else [],
                units=len(completions) if self.loss.per == "completion" else sum(map(len, completions)),
                data_tokens=sum(len(example.completion_ids[0]) for example in data),
            )

    def _learn(self, stored: Stored, minibatch: Minibatch, optimizer: LightningOptimizer, *, is_first: bool) -> Tally | None:
        """One optimiser step; what was measured in it, which is in the module's own tally too. None where the step was left out."""
        own, left = Tally(), len(minibatch.batches) + len(minibatch.data)
        shares: list[Tensor] = []
        with self.frugal_gradients():
            for batch in minibatch.batches:
                batch, left = move_data_to_device(batch, self.device), left - 1
                policy = self.policy_tokens(batch, entropies=self.loss.entropy_coefficient > 0)
                output = self.loss(policy, stored.tokens(batch))
                if is_first and batch.examples:
                    self._check_first(output)
                share = output.losses.sum() / minibatch.units
                self.learn_from(share, is_last=left == 0)
                shares.append(share.detach())
                tally_output(own, output)
            for batch in minibatch.data:
                batch, left = move_data_to_device(batch, self.device), left - 1
                losses = -self.backbone.token_scores(self.backbone.hidden_states(batch), batch).logps
                share = self.loss.ptx_coefficient * losses.sum() / minibatch.data_tokens
                self.learn_from(share, is_last=left == 0)
                shares.append(share.detach())
                own.add(PTX_LOSS, losses.detach())
        if not self.step(optimizer, shares, [*minibatch.batches, *map(as_data, minibatch.data)], stored):
            return None
        seen = own.of_all_ranks()
        self.tally.add_all(seen.state())
        return seen

    def _check_first(self, output: RolloutOutput) -> None:
        """At the first minibatch of an update nothing has moved yet: every ratio is 1."""
        error = ratio_error(output, RATIO_TOLERANCE[self.products], update=self.steps_done + 1)
        if self.steps_done == 0:
            self._certify("first_ratio_error", error)
            self._certify("first_approx_kl", float(output.approx_kl.max()))
            self._certify("first_clip_fraction", float(output.clipped.max()))

    def _certify(self, name: str, value: float) -> None:
        self.certificate[name] = max(value, self.certificate.get(name, 0.0))

    def _check_stored(self, before: list[Tensor], stored: Stored) -> None:
        after = stored.everything()
        if not all(map(torch.equal, before, after)):
            raise AssertionError("what a rollout stored was changed while it was learnt from")
        self._certify("stored_tensors_unchanged", len(after))
        if self.rollouts.reference_is_policy:
            drift = float((stored.rollout.logps - stored.rollout.reference_logps).abs().max())
            self._certify("first_kl_error", drift)
            if not drift <= RATIO_TOLERANCE[self.products]:
                raise UserError(
                    f"rollout: policy and reference start as the same weights, but their log-probs differ by up to {drift:.3g} nats: they "
                    "are not one function."
                )


def ratio_error(output: RolloutOutput, tolerance: float, *, update: int) -> float:
    """Largest |log ratio| of a token under a policy that has not moved yet, nats; ratios of whole completions add up their rounding.

    Raises:
        UserError: when it is more than rounding.
    """
    error = float((2 * output.approx_kl).sqrt().max())
    if error > tolerance:  # one that is not finite is no matter of rounding, and is found in the loss
        raise UserError(
            f"rollout: before the first optimiser step of update {update} a ratio of policy to policy differs from 1 by {error:.3g} "
            f"(at most {tolerance:g} is rounding): something in the model is random (dropout?)."
        )
    return error


def tally_output(tally: Tally, output: RolloutOutput) -> None:
    """Take in what a loss says of a micro-batch."""
    for name, values in {
        POLICY_LOSS: output.policy_losses,
        VALUE_LOSS: output.value_losses,
        RATIO: output.ratios,
        CLIP_FRACTION: output.clipped,
        VALUE_CLIP_FRACTION: output.value_clipped,
        APPROX_KL: output.approx_kl,
    }.items():
        if values is not None:
            tally.add(name, values)
