"""Group-relative policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from alignkit.advantages import clipped_surrogate, group_normalized, kl_estimates, token_rewards
from alignkit.errors import check_choice
from alignkit.logps import completion_lengths, completion_sums
from alignkit.losses.rollout_families import RolloutLoss
from alignkit.losses.rollout_outputs import Advantages, PolicyTokens, RolloutOutput, RolloutTokens, ScoredRollout


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class GRPO(RolloutLoss):
    """Group-relative policy optimisation: a score counts against those of the same prompt, and the KL is a part of the loss.

        A = (score - mean) / std of the prompt's scores          rho = pi/pi_old, x = log(pi/ref)
        L = mean over tokens of [ w max(-A rho, -A clip(rho, 1 - clip_range, 1 + clip_range))
                                  + kl_coefficient k(x) - entropy_coefficient H ]                            per completion

    Shao et al. 2024 (arXiv:2402.03300), eq. 3, with outcome supervision: each token has the advantage of its completion. k is
    differentiated with the tokens held. k3 = e^-x - 1 + x is the paper's (eq. 4); on tokens of pi its expected gradient is that of the
    forward KL(ref | pi). k2 = x^2 / 2 has the gradient of KL(pi | ref), the constraint of every other objective here. k1 would have none
    in expectation and is refused. The std is unbiased; scores that are all equal teach nothing. `scale_by_std` false leaves the division
    out, as Dr. GRPO does (Liu et al. 2025, arXiv:2503.20783), whose constant in the place of a completion's length we do not take.
    w is an importance weight, 1 on-policy; the KL has none.

    Raises:
        ValueError: when called without entropies where they earn something, or on other tokens than are stored.
    """

    formula: ClassVar[str] = (
        "L = mean over tokens of max(-A rho, -A clip(rho, 1 - clip_range, 1 + clip_range)) + kl_coefficient * k(log(pi/ref)) "
        "- entropy_coefficient * H, rho = pi/pi_old, A = (score - mean) / std of the prompt's scores"
    )
    optimum: ClassVar[str] = "pi = kl_coefficient ref / (c - mean A) under k3, pi proportional to ref exp(mean A / kl_coefficient) under k2"
    per: ClassVar[Literal["token", "completion"]] = "completion"
    needs_groups: ClassVar[bool] = True
    kl_in_reward: ClassVar[bool] = False

    kl_estimator: str
    """How the loss estimates a token's KL: `k3` is the paper's and pulls as KL(ref | pi); `k2` pulls as KL(pi | ref)."""
    scale_by_std: bool
    """Whether scores are divided by their standard deviation within the prompt; false is Dr. GRPO."""

    def __post_init__(self) -> None:
        RolloutLoss.__post_init__(self)
        check_choice("loss.kl_estimator", self.kl_estimator, ("k2", "k3"))

    def advantages(self, rollout: ScoredRollout, kl_coefficient: float) -> Advantages:
        """See the class; rewards are the scores, at the last tokens, and `kl_coefficient` has no part in them."""
        index, log_ratios = rollout.completion_index, rollout.logps - rollout.reference_logps
        advantages = group_normalized(rollout.scores, rollout.example_index, scale=self.scale_by_std)[index]
        rewards = token_rewards(rollout.scores, log_ratios, index, kl_coefficient=0.0, estimator="k1")
        return Advantages(advantages=advantages.to(rewards.dtype), returns=None, rewards=rewards)

    def __call__(self, policy: PolicyTokens, rollout: RolloutTokens) -> RolloutOutput:
        log_ratios, index, count = rollout.log_ratios(policy), rollout.completion_index, rollout.completions
        surrogate = clipped_surrogate(log_ratios, rollout.advantages, self.clip_range)
        policy_losses = rollout.weights * surrogate.losses  # [N]
        penalties = self.kl_coefficient * kl_estimates(policy.logps - rollout.reference_logps, self.kl_estimator)
        lengths = completion_lengths(index, count).clamp(min=1)
        return RolloutOutput(
            losses=completion_sums(policy_losses + penalties - self.entropy_bonus(policy), index, count) / lengths,
            policy_losses=completion_sums(policy_losses.detach(), index, count) / lengths,
            value_losses=None,
            entropies=None if policy.entropies is None else policy.entropies.detach(),
            ratios=surrogate.ratios,
            clipped=surrogate.clipped,
            value_clipped=None,
            approx_kl=log_ratios.detach().square() / 2,
        )
