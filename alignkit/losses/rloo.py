"""REINFORCE leave-one-out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from alignkit.advantages import bounded_exp, clipped_surrogate, leave_one_out, token_rewards
from alignkit.logps import completion_sums
from alignkit.losses.rollout_families import RewardKLLoss, RolloutLoss
from alignkit.losses.rollout_outputs import Advantages, PolicyTokens, RolloutOutput, RolloutTokens, ScoredRollout


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RLOO(RewardKLLoss, RolloutLoss):
    """REINFORCE with the other samples of the prompt as the baseline; a completion is one action, and there is no value head.

        r = score - kl_coefficient log(pi/ref)          A_i = r_i - mean of r_j, j != i, of the same prompt
        rho = pi/pi_old of the completion
        L = w max(-A rho, -A clip(rho, 1 - clip_range, 1 + clip_range)) - entropy_coefficient sum of H          per completion

    Ahmadian et al. 2024 (arXiv:2402.14740). They take one step on each sample, where rho is 1 and L has REINFORCE's gradient; the clip
    for more is TRL's, on the ratio of whole completions too. w is the product of the tokens' importance weights, 1 on-policy; weights
    of at most 1 keep it there. Ratios and clips of a completion are reported at each of its tokens.

    Raises:
        ValueError: when called without entropies where they earn something, or on other tokens than are stored.
    """

    formula: ClassVar[str] = (
        "L = max(-A rho, -A clip(rho, 1 - clip_range, 1 + clip_range)) - entropy_coefficient * sum of H, "
        "rho = pi/pi_old of the completion, A = r - mean r of the prompt's others, r = score - kl_coefficient * log(pi/ref)"
    )
    optimum: ClassVar[str] = "pi proportional to ref exp(score / kl_coefficient), with k1 and no bonus for entropy"
    per: ClassVar[Literal["token", "completion"]] = "completion"
    needs_groups: ClassVar[bool] = True

    def advantages(self, rollout: ScoredRollout, kl_coefficient: float) -> Advantages:
        """See the class; each token has the advantage of its completion."""
        log_ratios, index = rollout.logps - rollout.reference_logps, rollout.completion_index
        rewards = token_rewards(rollout.scores, log_ratios, index, kl_coefficient=kl_coefficient, estimator=self.kl_estimator)
        totals = completion_sums(rewards, index, len(rollout.scores))
        return Advantages(advantages=leave_one_out(totals, rollout.example_index)[index], returns=None, rewards=rewards)

    def __call__(self, policy: PolicyTokens, rollout: RolloutTokens) -> RolloutOutput:
        log_ratios, index = rollout.log_ratios(policy), rollout.completion_index
        advantages = rollout.advantages.new_zeros(rollout.completions).scatter(
            0, index, rollout.advantages
        )  # all of a completion are equal
        surrogate = clipped_surrogate(completion_sums(log_ratios, index, rollout.completions), advantages, self.clip_range)
        weights = bounded_exp(completion_sums(rollout.weights.log(), index, rollout.completions))
        policy_losses = weights * surrogate.losses
        return RolloutOutput(
            losses=policy_losses - completion_sums(self.entropy_bonus(policy), index, rollout.completions),
            policy_losses=policy_losses.detach(),
            value_losses=None,
            entropies=None if policy.entropies is None else policy.entropies.detach(),
            ratios=surrogate.ratios[index],
            clipped=surrogate.clipped[index],
            value_clipped=None,
            approx_kl=log_ratios.detach().square() / 2,
        )
