"""DPO without a reference model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.errors import check_range
from alignkit.losses.families import ReferenceFreeLoss, smoothed_logistic
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class DPOReferenceFree(ReferenceFreeLoss):
    """DPO against a reference that finds every completion equally likely.

        reward(y) = beta log pi(y | x)                                                     nats, summed over tokens
        L = -log sigmoid(reward(chosen) - reward(rejected))                                per pair, nats

    A variant in the code of Rafailov et al. 2023 (arXiv:2305.18290), where the reference's log-ratio is set to 0. Sums over tokens
    fall with length, so the shorter completion starts ahead; `simpo` compares averages instead. Falls with the margin without end.
    """

    formula: ClassVar[str] = "L = -log sigmoid(beta * (log pi(chosen) - log pi(rejected))), summed over tokens"
    optimum: ClassVar[str] = "none: log pi(chosen) - log pi(rejected) grows without bound"

    beta: float
    """Scale of the log-probs, > 0. The authors' code uses 0.1."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint="It scales log-probs before the sigmoid. Try 0.1.")

    def __call__(self, policy: PairLogps) -> PairwiseOutput:
        return PairwiseOutput(
            losses=smoothed_logistic(self.beta * (policy.chosen - policy.rejected), epsilon=0.0),
            chosen_rewards=self.beta * policy.chosen.detach(),
            rejected_rewards=self.beta * policy.rejected.detach(),
        )
