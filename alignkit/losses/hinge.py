"""The hinge loss of statistical rejection sampling optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch.nn.functional as F

from alignkit.errors import check_range
from alignkit.losses.families import PairLogpsLoss, log_ratios
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Hinge(PairLogpsLoss):
    """Hinge loss on the gap of log-ratios: RSO's "hinge-norm".

        h = log(pi/ref)(chosen) - log(pi/ref)(rejected)
        L = max(0, 1 - beta h)                                                             per pair, no unit

    Linear until h reaches 1 / beta nats, then 0 without gradient; 1 at policy = reference. Liu et al. 2023 (arXiv:2309.06657), whose
    gamma is our beta; only the loss of that paper, not its sampling. SLiC-HF (arXiv:2305.10425) has a hinge on the policy's
    log-probs alone, without a reference.
    """

    formula: ClassVar[str] = "L = max(0, 1 - beta * h), h = log(pi/ref)(chosen) - log(pi/ref)(rejected)"
    optimum: ClassVar[str] = "h >= 1 / beta"

    beta: float
    """The paper's gamma, > 0: a pair counts until its gap is 1 / beta nats. The authors use 0.05."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint="A pair counts until its gap of log-ratios is 1 / beta nats. Try 0.1.")

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        return PairwiseOutput(
            losses=F.relu(1 - self.beta * (chosen - rejected)),
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )

    def value_at_reference(self) -> float:
        return 1.0
