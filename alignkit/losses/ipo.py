"""Identity preference optimisation on summed log-probs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.errors import check_range
from alignkit.losses.families import PairLogpsLoss, log_ratios
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class IPO(PairLogpsLoss):
    """Identity preference optimisation: a squared distance that pulls the gap of log-ratios to 1 / (2 beta).

        h = log(pi/ref)(chosen) - log(pi/ref)(rejected)                                    nats, summed over tokens
        L = (h - 1 / (2 beta))^2                                                           per pair, nats^2

    The optimum is finite even where all annotators agree; 1 / (4 beta^2) at policy = reference. Azar et al. 2023
    (arXiv:2310.12036), eq. 17, whose tau is our beta; `ipo_avg` reads averages per token. The rewards are beta * log-ratio as in
    DPO: the paper defines none, and these make the loss ((margin - 1/2) / beta)^2.
    """

    formula: ClassVar[str] = "L = (h - 1 / (2 beta))^2, h = log(pi/ref)(chosen) - log(pi/ref)(rejected), summed over tokens"
    optimum: ClassVar[str] = "h = 1 / (2 beta)"

    beta: float
    """The paper's tau, > 0: strength of the KL constraint. 0.1 asks for a gap of 5 nats."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint="The gap of log-ratios is pulled to 1 / (2 beta) nats. Try 0.1.")

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        return PairwiseOutput(
            losses=(chosen - rejected - 1 / (2 * self.beta)).square(),
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )

    def value_at_reference(self) -> float:
        target = 1 / (2 * self.beta)
        return target * target
