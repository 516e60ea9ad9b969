"""DPO with the likelihood of the chosen completion, per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, PairLogpsLoss, log_ratios, smoothed_logistic
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class DPONLLMean(PairLogpsLoss):
    """Iterative reasoning preference optimisation: DPO with the likelihood per token of what was chosen.

        h = log(pi/ref)(chosen) - log(pi/ref)(rejected)                                    nats, summed over tokens
        L = -log sigmoid(beta h) - nll_weight log pi(chosen) / tokens(chosen)              per pair, nats

    Pang et al. 2024 (arXiv:2404.19733), who train on reasoning chains; `nll_weight` is alpha, earlier TRL's `rpo_alpha`. Each
    completion has the same weight, whatever its length; `dpo_nll` sums over tokens. At policy = reference the loss is ln 2 and what
    the reference says of the chosen completion.
    """

    formula: ClassVar[str] = (
        "L = -log sigmoid(beta * h) - nll_weight * log pi(chosen) / tokens, h = log(pi/ref)(chosen) - log(pi/ref)(rejected)"
    )
    optimum: ClassVar[str] = "none: h grows without bound, log pi(chosen) rises to 0"

    beta: float
    """Strength of the KL constraint, > 0. 0.1 is usual."""
    nll_weight: float
    """The paper's alpha, >= 0: weight of the likelihood per token. The authors use 1; 0 is DPO."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)
        check_range("loss.nll_weight", self.nll_weight, low=0.0, hint="It is the weight of -log pi(chosen) per token. Try 1.")

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        return PairwiseOutput(
            losses=smoothed_logistic(self.beta * (chosen - rejected), epsilon=0.0) - self.nll_weight * policy.chosen_means,
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )
