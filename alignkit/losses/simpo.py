"""Simple preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.errors import check_range
from alignkit.losses.families import ReferenceFreeLoss, smoothed_logistic
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SimPO(ReferenceFreeLoss):
    """Simple preference optimisation: a logistic loss on log-probs per token that asks for a gap, without a reference model.

        reward(y) = beta log pi(y | x) / tokens(y)                                         nats per token
        L = -log sigmoid(reward(chosen) - reward(rejected) - gamma),  gamma = beta * gamma_beta_ratio      per pair, nats

    Meng, Xia & Chen 2024 (arXiv:2405.14734). The field is the ratio gamma / beta, which the authors tune and their code reads: the gap
    in nats per token at which a pair costs ln 2. TRL's `simpo_gamma` is gamma itself: divide it by beta. The rewards leave gamma out,
    so that accuracy says which completion the policy prefers.
    """

    formula: ClassVar[str] = "L = -log sigmoid(beta * (a(chosen) - a(rejected) - gamma_beta_ratio)), a = log pi per token"
    optimum: ClassVar[str] = "none: a(chosen) - a(rejected) grows without bound, past gamma_beta_ratio"

    beta: float
    """Scale of the log-probs per token, > 0. The authors use 2 to 10, far more than for sums."""
    gamma_beta_ratio: float
    """gamma / beta, >= 0: the gap in nats per token that is asked for. The authors use 0.1 to 0.8."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint="It scales log-probs per token before the sigmoid. Try 2.")
        check_range(
            "loss.gamma_beta_ratio",
            self.gamma_beta_ratio,
            low=0.0,
            hint="It is gamma / beta, the gap in nats per token that is asked for. Try 0.5.",
        )

    def __call__(self, policy: PairLogps) -> PairwiseOutput:
        chosen, rejected = policy.chosen_means, policy.rejected_means  # [B] nats per token
        return PairwiseOutput(
            losses=smoothed_logistic(self.beta * (chosen - rejected - self.gamma_beta_ratio), epsilon=0.0),
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )
