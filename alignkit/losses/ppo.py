"""Proximal policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from alignkit.advantages import clipped_surrogate, generalized_advantages, token_rewards, whiten
from alignkit.errors import check_choice, check_range
from alignkit.losses.rollout_families import RewardKLLoss, RolloutLoss
from alignkit.losses.rollout_outputs import Advantages, PolicyTokens, RolloutOutput, RolloutTokens, ScoredRollout


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PPO(RewardKLLoss, RolloutLoss):
    """Proximal policy optimisation of a score less its price in KL, with a value head that says what each token is worth.

        rho = pi/pi_old
        L = w max(-A rho, -A clip(rho, 1 - clip_range, 1 + clip_range))
          + value_coefficient / 2 max((V - G)^2, (clip(V, V_old - c, V_old + c) - G)^2)
          - entropy_coefficient H                                                                      per token

    Schulman et al. 2017 (arXiv:1707.06347), eq. 7 and 9; as Ziegler et al. 2019 (arXiv:1909.08593) bring it to language. c is
    `value_clip_range`, w an importance weight, 1 on-policy. What decides whether it works, by Huang et al.'s "The N implementation details
    of RLHF with PPO" (2023, Z) and "The N+ implementation details" (arXiv:2403.17031, N), and where we differ:

    1. Rewards are per token: -kl_coefficient k1 at each, the score at the last (Z). k2 and k3 may stand for k1; then the optimum moves.
    2. The score stands at the last token that was sampled, the terminator where there is one (N puts it one position later).
    3. Advantages are GAE with discount 1 and lambda 0.95, the value after the last token is 0; returns come before whitening (Z, N).
    4. Advantages are whitened with the population variance. Once an update, over its samples (N); Z does so in each minibatch.
    5. Rewards are whitened only if asked, their mean stays (Z; off for summaries; N never). What is logged as reward is not whitened.
    6. Two clips: of the ratio, and of the value around the value at sampling (Z, N); value loss halved, weight 0.1.
    7. One trunk with a value head that starts at zero (Z). N has a value model of its own, from the reward model; `value_trunk` can be
       separate, from the policy.
    8. The KL coefficient may adapt to a target by the KL of the same samples (Z); it is fixed in N.
    9. Old log-probs, reference log-probs, values and rewards are stored once an update; only V in the value loss is new (Z, N).
    10. At the first minibatch of an update rho is 1, nothing is clipped and `approx_kl` is 0 (Z, N); that holds with dropout off.
    11. Tokens are ragged. Masked means over padding, with their fill values for log-probs and values (N), have nothing to do here.
    12. Each pass shuffles anew and may be cut in minibatches (Z); the update ends early at `stop_kl`, which neither of them has.
    13. Log-probs are those of the logits over the temperature, of both policy and reference (Z, N): the caller sees to it.

    Raises:
        ValueError: when called without values, or without entropies where they earn something, or on other tokens than are stored.
    """

    formula: ClassVar[str] = (
        "L = max(-A rho, -A clip(rho, 1 - clip_range, 1 + clip_range)) + value_coefficient / 2 * clipped (V - G)^2 "
        "- entropy_coefficient * H, rho = pi/pi_old, A = GAE of score - kl_coefficient * log(pi/ref)"
    )
    optimum: ClassVar[str] = "pi proportional to ref exp(score / kl_coefficient), with k1 and no bonus for entropy"
    per: ClassVar[Literal["token", "completion"]] = "token"
    needs_values: ClassVar[bool] = True

    discount: float
    """Of rewards per token, in [0, 1]. 1 is usual: then the rewards of a completion add up to the objective."""
    gae_lambda: float
    """How far advantages trust later rewards over the values, in [0, 1]. 0.95 is usual."""
    whiten_rewards: bool
    """Whether rewards are divided by their standard deviation over the update, keeping their mean."""
    whiten_advantages: bool
    """Whether advantages have mean 0 and variance 1 over the update."""
    value_clip_range: float | None
    """How far a value may move from the one at sampling and still pay, score units, > 0; null does not clip. 0.2 is usual."""
    value_coefficient: float
    """Weight of the value loss, >= 0. 0.1 is usual."""
    value_trunk: str
    """What the value head reads: `shared` the policy's trunk, which the value loss then trains too; `separate` a trunk of its own, which
    starts as a copy of the policy and costs as much memory and time again."""

    def __post_init__(self) -> None:
        RewardKLLoss.__post_init__(self)
        check_range("loss.discount", self.discount, low=0.0, high=1.0, hint="It is the discount of rewards per token. Try 1.")
        check_range("loss.gae_lambda", self.gae_lambda, low=0.0, high=1.0, hint="At 1 advantages trust rewards alone. Try 0.95.")
        check_range("loss.value_coefficient", self.value_coefficient, low=0.0, hint="It is the weight of the value loss. Try 0.1.")
        check_choice("loss.value_trunk", self.value_trunk, ("shared", "separate"))
        if self.value_clip_range is not None:
            check_range("loss.value_clip_range", self.value_clip_range, above=0.0, hint="Null does not clip values. Try 0.2.")

    def advantages(self, rollout: ScoredRollout, kl_coefficient: float) -> Advantages:
        """See the class, 1 to 5. Whitening is over the samples that are given, so they should be those of the whole update.

        Raises:
            ValueError: for a rollout without values.
        """
        if rollout.values is None:
            raise ValueError("PPO's advantages need the values of the rollout's tokens")
        log_ratios = rollout.logps - rollout.reference_logps
        rewards = token_rewards(
            rollout.scores, log_ratios, rollout.completion_index, kl_coefficient=kl_coefficient, estimator=self.kl_estimator
        )
        advantages, returns = generalized_advantages(
            whiten(rewards, shift_mean=False) if self.whiten_rewards else rewards,
            rollout.values,
            rollout.completion_index,
            discount=self.discount,
            gae_lambda=self.gae_lambda,
        )
        return Advantages(advantages=whiten(advantages) if self.whiten_advantages else advantages, returns=returns, rewards=rewards)

    def __call__(self, policy: PolicyTokens, rollout: RolloutTokens) -> RolloutOutput:
        log_ratios = rollout.log_ratios(policy)
        surrogate = clipped_surrogate(log_ratios, rollout.advantages, self.clip_range)
        policy_losses = rollout.weights * surrogate.losses
        value_losses, value_clipped = self.value_losses(policy, rollout)
        return RolloutOutput(
            losses=policy_losses + self.value_coefficient * value_losses - self.entropy_bonus(policy),
            policy_losses=policy_losses.detach(),
            value_losses=value_losses.detach(),
            entropies=None if policy.entropies is None else policy.entropies.detach(),
            ratios=surrogate.ratios,
            clipped=surrogate.clipped,
            value_clipped=value_clipped,
            approx_kl=log_ratios.detach().square() / 2,
        )

    def value_losses(self, policy: PolicyTokens, rollout: RolloutTokens) -> tuple[Tensor, Tensor]:
        """Half the squared error of each value [N], not yet weighted, and 1 where clipping raises it [N], else 0.

        Raises:
            ValueError: where a value or a return is missing.
        """
        if policy.values is None or rollout.values is None or rollout.returns is None:
            raise ValueError("PPO needs values of the policy, and values and returns of the rollout")
        errors = (policy.values - rollout.returns).square()
        if self.value_clip_range is None:
            return errors / 2, torch.zeros_like(errors, requires_grad=False)
        change = (policy.values - rollout.values).clamp(-self.value_clip_range, self.value_clip_range)
        bounded = (rollout.values + change - rollout.returns).square()
        return torch.maximum(errors, bounded) / 2, (bounded > errors).to(errors.dtype)
