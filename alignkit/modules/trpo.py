"""The step of TRPO: the natural gradient, as far as a KL allows, and then the value head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from alignkit.batches import PackedBatch
from alignkit.data.prompts import PromptBatch
from alignkit.data.steps import share_of
from alignkit.logps import token_divergences
from alignkit.losses.forward_kl import ForwardKL
from alignkit.losses.rollout_outputs import PolicyTokens
from alignkit.losses.trpo import TRPO
from alignkit.metrics import STEP_FRACTION, SURROGATE_GAIN, TRUST_KL, VALUE_LOSS
from alignkit.modules.fisher import FisherProducts
from alignkit.modules.flat_parameters import FlatParameters
from alignkit.modules.ppo import RATIO_TOLERANCE, ratio_error
from alignkit.modules.rollout_module import VALUE, RolloutModule
from alignkit.modules.stored import Stored, store
from alignkit.modules.tally import Tally
from alignkit.ranks import reader, readers, sum_over_ranks
from alignkit.rollout import Rollout
from alignkit.trust_region import backtrack, trust_region_step

FIRST_LENGTH = 1e-3
"""Of a displacement, over the length of all weights: what Fisher products try first and correct at once."""
KL_OF_OLD = ForwardKL()
"""KL(old | new): the old policy stands in the place of the reference."""


@final
class TRPOModule(RolloutModule[TRPO]):
    """Maximises scores of its own samples with one step an update whose KL is bounded, see `losses/trpo.py`.

    For small models. Each of `loss.cg_iterations` Fisher products takes two forward and backward passes over all samples of the update,
    each fraction of the step that is tried one forward pass; about eight vectors as long as the trained parameters are alive. Of the
    policy as it was, what KL(old | new) reads is kept and no second model: the states that predict the sampled tokens, and the output
    embedding. All passes are cut into micro-batches, and means are over all tokens of the update, so that the cut changes nothing.
    """

    learns = TRPO

    def improve(self, rollout: Rollout, prompts: PromptBatch, optimizer: LightningOptimizer) -> bool:
        stored = store(rollout, self.loss, self.rollouts.settings, kl_coefficient=self.kl_coefficient, tally=self.tally)
        own = share_of(rollout.examples, self.rollouts.packing, reader(), readers())
        batches = [move_data_to_device(batch, self.device) for batch in own]
        return self.move_policy(stored, batches) is not None and self.fit_values(stored, batches, optimizer)

    def move_policy(self, stored: Stored, batches: Sequence[PackedBatch]) -> float | None:
        """Take the largest fraction of the step that gains within `loss.max_kl`; the fraction, 0 where none does and nothing changed, None
        where the gradient is not finite and the update is left out.

        Schulman et al. 2015, appendix C: the natural gradient by conjugate gradients, scaled to the bound, then a line search on the
        exact surrogate and KL.
        """
        loss, parameters = self.loss, FlatParameters(self.backbone.parameters())
        old, states, embedding = parameters.read(), self._states(batches), self._embedding()
        gradient = sum_over_ranks(parameters.gradient(self._surrogates(stored, batches)))
        if not self.may_step([], float(gradient.norm()), batches, lambda: self.known(stored)):
            return None
        surrogate, _ = self._surrogate_and_kl(stored, batches, states, embedding)

        def kl_gradient(displacement: Tensor) -> Tensor:
            parameters.write(old + displacement)
            own = parameters.gradient(
                self._divergences(self.backbone.hidden_states(batch), batch, before, embedding).sum() / len(stored.weights)
                for batch, before in zip(batches, states, strict=True)
            )
            return sum_over_ranks(own)

        products = FisherProducts(kl_gradient, length=FIRST_LENGTH * float(old.norm()))
        step = trust_region_step(gradient, products, max_kl=loss.max_kl, damping=loss.damping, iterations=loss.cg_iterations)
        found = {0.0: (0.0, 0.0)}

        def evaluate(fraction: float) -> tuple[float, float]:
            parameters.write(old + fraction * step)
            value, kl = self._surrogate_and_kl(stored, batches, states, embedding)
            found[fraction] = value - surrogate, kl
            return found[fraction]

        fraction = backtrack(evaluate, max_kl=loss.max_kl, backtracks=loss.backtracks, ratio=loss.backtrack_ratio)
        if fraction == 0:
            parameters.write(old)
        gain, kl = found[fraction]
        for name, number in ((SURROGATE_GAIN, gain), (TRUST_KL, kl), (STEP_FRACTION, fraction)):
            self.tally.add(name, number)
        return fraction

    def fit_values(self, stored: Stored, batches: Sequence[PackedBatch], optimizer: LightningOptimizer) -> bool:
        """Steps of the value head towards the returns, read from the policy as it is now, which they do not train. Whether all were
        taken."""
        returns = [tokens.returns for tokens in map(stored.tokens, batches)]
        states = self._states(batches)
        for _ in range(self.loss.value_epochs):
            own, shares = Tally(), []
            for number, (read, wanted) in enumerate(zip(states, returns, strict=True), 1):
                assert wanted is not None
                losses = self.loss.value_losses(self.heads.scores(VALUE, read), wanted)
                share = losses.sum() / len(stored.weights)
                self.learn_from(share, is_last=number == len(states))
                shares.append(share.detach())
                own.add(VALUE_LOSS, losses.detach())
            if not self.step(optimizer, shares, batches, stored):
                return False
            self.tally.add_all(own.of_all_ranks().state())
        return True

    def _surrogates(self, stored: Stored, batches: Sequence[PackedBatch]) -> Iterator[Tensor]:
        """What each batch adds to the mean of A rho a token, with gradient, while nothing has moved."""
        for batch in batches:
            output = self.loss(self._policy(self.backbone.hidden_states(batch), batch), stored.tokens(batch))
            error = ratio_error(output, RATIO_TOLERANCE[self.products], update=self.steps_done + 1) if batch.examples else 0.0
            if self.steps_done == 0:
                self.certificate["first_ratio_error"] = max(error, self.certificate.get("first_ratio_error", 0.0))
            yield -output.losses.sum() / len(stored.weights)

    @torch.no_grad()
    def _surrogate_and_kl(
        self, stored: Stored, batches: Sequence[PackedBatch], states: Sequence[Tensor], embedding: tuple[Tensor, Tensor | None]
    ) -> tuple[float, float]:
        """The mean of A rho and of KL(old | new) a token, with the weights as they are."""
        surrogate, kl, count = 0.0, 0.0, len(stored.weights)
        for batch, before in zip(batches, states, strict=True):
            hidden = self.backbone.hidden_states(batch)
            surrogate -= float(self.loss(self._policy(hidden, batch), stored.tokens(batch)).losses.sum()) / count
            kl += float(self._divergences(hidden, batch, before, embedding).sum()) / count
        surrogate, kl = sum_over_ranks(torch.tensor([surrogate, kl], dtype=torch.float64)).tolist()
        return surrogate, kl

    def _policy(self, hidden: Tensor, batch: PackedBatch) -> PolicyTokens:
        return PolicyTokens(logps=self.backbone.token_scores(hidden, batch, temperature=self.temperature).logps)

    def _divergences(self, hidden: Tensor, batch: PackedBatch, before: Tensor, embedding: tuple[Tensor, Tensor | None]) -> Tensor:
        """KL(old | new) [N] nats over the vocabulary at each sampled token."""
        new = hidden.index_select(0, batch.predictor_index)
        weight, bias = self._vocabulary()
        old_weight, old_bias = embedding
        return token_divergences(
            new / self.temperature, weight, self._cooled(bias), before / self.temperature, old_weight, self._cooled(old_bias), KL_OF_OLD
        )

    def _cooled(self, bias: Tensor | None) -> Tensor | None:
        return None if bias is None else bias / self.temperature

    @torch.no_grad()
    def _states(self, batches: Sequence[PackedBatch]) -> list[Tensor]:
        """[N, D] of each batch: the policy's states that predict its sampled tokens, without gradient."""
        return [self.backbone.hidden_states(batch).index_select(0, batch.predictor_index) for batch in batches]

    def _vocabulary(self) -> tuple[Tensor, Tensor | None]:
        """The output embedding [V, D] and its bias [V]."""
        head = self.backbone.lm.get_output_embeddings()
        assert isinstance(head.weight, Tensor)
        return head.weight, getattr(head, "bias", None)

    def _embedding(self) -> tuple[Tensor, Tensor | None]:
        """A copy of `_vocabulary`, which the step would overwrite."""
        weight, bias = self._vocabulary()
        return weight.detach().clone(), None if bias is None else bias.detach().clone()
