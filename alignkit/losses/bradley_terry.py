"""The reward model's loss on pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.errors import UserError, check_range
from alignkit.losses.families import PairRewardsLoss, smoothed_logistic
from alignkit.losses.outputs import PairRewards, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class BradleyTerry(PairRewardsLoss):
    """Negative log-likelihood of the annotator's choice under the Bradley-Terry model.

        L = -log sigmoid(r_chosen - r_rejected - m) + centering (r_chosen + r_rejected)^2         per pair, nats

    m is the annotator's rating gap with `use_margin` (Llama 2, arXiv:2307.09288, eq. 2) and 0 without. The likelihood knows
    rewards up to a shift per prompt only; the second term picks the shift that centres them around zero (Eisenstein et al.
    2023, arXiv:2312.09244). The reported margins are r_chosen - r_rejected, without m, so that accuracy means the same either way.
    """

    formula: ClassVar[str] = "L = -log sigmoid(r_chosen - r_rejected - margin) + centering * (r_chosen + r_rejected)^2"
    optimum: ClassVar[str] = "none: r_chosen - r_rejected grows without bound; r_chosen + r_rejected = 0 if centering > 0"

    use_margin: bool
    """Ask a clearly better completion for a larger gap: subtract `scores.margins` inside the sigmoid. Llama 2 used 0 to 1."""
    centering: float
    """Weight of the squared sum of the two rewards, >= 0; 0.01 is usual."""

    def __post_init__(self) -> None:
        is_bool = isinstance(self.use_margin, bool)
        if not is_bool:
            raise UserError(
                f"loss.use_margin = {self.use_margin!r}; must be true or false: whether the data's rating gap is subtracted. Try false."
            )
        check_range("loss.centering", self.centering, low=0.0, hint="It pulls rewards towards zero. Try 0.01.")

    def __call__(self, scores: PairRewards) -> PairwiseOutput:
        """Raises ValueError with `use_margin` where the scores come without margins."""
        margins = scores.chosen - scores.rejected  # [B]
        if self.use_margin:
            if scores.margins is None:
                raise ValueError(
                    "loss.use_margin = True, but the pairs have no rating gap. Use data with ratings or loss.use_margin=false."
                )
            margins = margins - scores.margins
        return PairwiseOutput(
            losses=smoothed_logistic(margins, epsilon=0.0) + self.centering * (scores.chosen + scores.rejected).square(),
            chosen_rewards=scores.chosen.detach(),
            rejected_rewards=scores.rejected.detach(),
        )
