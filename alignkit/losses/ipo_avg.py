"""Identity preference optimisation on log-probs averaged per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.errors import check_range
from alignkit.losses.families import PairLogpsLoss, log_ratios
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class IPOAvg(PairLogpsLoss):
    """Identity preference optimisation on averages: pulls the gap of per-token log-ratios to 1 / (2 beta).

        a(y) = log(pi/ref)(y) / tokens(y)                                                  nats per token
        L = (a(chosen) - a(rejected) - 1 / (2 beta))^2                                     per pair, (nats per token)^2

    1 / (4 beta^2) at policy = reference. Azar et al. 2023 (arXiv:2310.12036), eq. 17, whose tau is our beta, with one difference:
    the paper's eq. 17 knows whole completions only (`ipo`); averaging per token is its authors' advice for text, as quoted in TRL.
    The same beta then asks for a far larger change of the whole completion. The rewards are beta * a(y), the averages that are
    optimised, so that accuracy agrees with the loss; they do not compare with the rewards of the other losses.

    All completion tokens count, also those on which policy and reference agree (leaving these out divides 0 by 0 at the first
    step). A completion without tokens has the average 0; testing for it would stop the device at every step.
    """

    formula: ClassVar[str] = "L = (h - 1 / (2 beta))^2, h = log(pi/ref)(chosen) - log(pi/ref)(rejected), averaged per token"
    optimum: ClassVar[str] = "h = 1 / (2 beta), per token"

    beta: float
    """The paper's tau, > 0: strength of the KL constraint. 0.1 asks for a gap of 5 nats per token."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint="The gap per token is pulled to 1 / (2 beta) nats. Try 0.1.")

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        chosen = chosen / policy.chosen_tokens.clamp(min=1)  # [B] nats per token
        rejected = rejected / policy.rejected_tokens.clamp(min=1)
        return PairwiseOutput(
            losses=(chosen - rejected - 1 / (2 * self.beta)).square(),
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )

    def value_at_reference(self) -> float:
        target = 1 / (2 * self.beta)
        return target * target
