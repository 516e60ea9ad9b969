"""Direct preference optimisation on rankings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, RankedLogpsLoss
from alignkit.losses.outputs import CompletionLogps, Ranking, RankingOutput
from alignkit.losses.plackett_luce import order_losses


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PlackettLuceDPO(RankedLogpsLoss):
    """The Plackett-Luce likelihood of an order under the policy's implicit rewards.

        r = beta (log pi(y) - log pi_ref(y))
        L = sum_i [ logsumexp_{j: rank_j >= rank_i} r_j - r_i ]                                 per example, nats

    Two completions are DPO. While policy and reference are equal, K completions without ties cost ln K!. Rafailov et al. 2023
    (arXiv:2305.18290), appendix A.3; ties, which the paper leaves out, as in `plackett_luce`.
    """

    formula: ClassVar[str] = "L = sum over ranks of logsumexp(r of those not ranked above) - r, r = beta (log pi - log pi_ref)"
    optimum: ClassVar[str] = "none: gaps of r between ranks grow without bound, those of ties go to 0"

    beta: float
    """Strength of the KL constraint, > 0. The paper uses 0.1 to 0.5 for pairs."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)

    def __call__(self, policy: CompletionLogps, reference: CompletionLogps, ranking: Ranking) -> RankingOutput:
        """Raises ValueError if the records do not hold the same number of completions."""
        if policy.logps.shape != reference.logps.shape:
            raise ValueError(
                f"policy has {len(policy.logps)} completions, reference has {len(reference.logps)}; "
                "must be the same completions in the same order."
            )
        rewards = self.beta * (policy.logps - reference.logps)  # [C]
        return RankingOutput(losses=order_losses(rewards, ranking), rewards=rewards.detach())
