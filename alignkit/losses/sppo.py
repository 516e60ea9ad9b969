"""Self-play preference optimisation with hard preferences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.errors import check_range
from alignkit.losses.families import PairLogpsLoss, log_ratios
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SPPO(PairLogpsLoss):
    """SPPO-hard: squared distances that pull the two log-ratios apart, each to a place of its own.

        a = log(pi/ref)(chosen),  b = log(pi/ref)(rejected)                                nats, summed over tokens
        L = (a - 1 / (2 beta))^2 + (b + 1 / (2 beta))^2                                    per pair, nats^2

    The targets are eta (P(y beats pi_ref) - 1/2) with eta = 1 / beta and P taken as 1 for the chosen and 0 for the rejected side;
    1 / (2 beta^2) at policy = reference. Wu et al. 2024 (arXiv:2405.00675), algorithm 1, where a preference model estimates P. There
    each round samples new completions and makes the last policy the reference; this loss is one round on given pairs.
    """

    formula: ClassVar[str] = "L = (log(pi/ref)(chosen) - 1 / (2 beta))^2 + (log(pi/ref)(rejected) + 1 / (2 beta))^2, summed over tokens"
    optimum: ClassVar[str] = "log(pi/ref)(chosen) = -log(pi/ref)(rejected) = 1 / (2 beta)"

    beta: float
    """1 / eta, > 0: 0.1 asks for +5 and -5 nats. The authors use 0.001."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint="The log-ratios are pulled to +-1 / (2 beta) nats. Try 0.1.")

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        target = 1 / (2 * self.beta)
        return PairwiseOutput(
            losses=(chosen - target).square() + (rejected + target).square(),
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )

    def value_at_reference(self) -> float:
        return 1 / (2 * self.beta * self.beta)
