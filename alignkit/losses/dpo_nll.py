"""DPO with the likelihood of the chosen completion, summed over its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, PairLogpsLoss, log_ratios, smoothed_logistic
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class DPONLL(PairLogpsLoss):
    """Regularised preference optimisation: DPO that also raises the likelihood of what was chosen.

        h = log(pi/ref)(chosen) - log(pi/ref)(rejected)
        L = -log sigmoid(beta h) - nll_weight log pi(chosen)                               per pair, nats, summed over tokens

    DPO alone may lower both likelihoods as long as the gap grows; the second term, the loss of supervised fine-tuning, is what keeps
    the policy on text that the data cover. Liu et al. 2024 (arXiv:2405.16436), one of the methods called RPO; `nll_weight` is eta.
    A sum weighs long completions more: `dpo_nll_mean` takes the mean over each one. For the mean over all tokens of a batch combine
    `dpo` and `sft` in a composite. At policy = reference the loss is ln 2 and what the reference says of the chosen completion.
    """

    formula: ClassVar[str] = (
        "L = -log sigmoid(beta * h) - nll_weight * log pi(chosen), h = log(pi/ref)(chosen) - log(pi/ref)(rejected), summed over tokens"
    )
    optimum: ClassVar[str] = "none: h grows without bound, log pi(chosen) rises to 0"

    beta: float
    """Strength of the KL constraint, > 0. The authors use 0.01."""
    nll_weight: float
    """The paper's eta, >= 0: weight of the likelihood per nat of the whole completion. The authors use 0.005; 0 is DPO."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)
        check_range("loss.nll_weight", self.nll_weight, low=0.0, hint="It is the weight of -log pi(chosen), a sum. Try 0.005.")

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        return PairwiseOutput(
            losses=smoothed_logistic(self.beta * (chosen - rejected), epsilon=0.0) - self.nll_weight * policy.chosen,
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )
