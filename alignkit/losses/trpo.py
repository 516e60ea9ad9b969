"""Trust-region policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from alignkit.advantages import bounded_exp, generalized_advantages, token_rewards, whiten
from alignkit.errors import check_range
from alignkit.losses.rollout_families import RewardKLLoss
from alignkit.losses.rollout_outputs import Advantages, PolicyTokens, RolloutOutput, RolloutTokens, ScoredRollout


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TRPO(RewardKLLoss):
    """Trust-region policy optimisation of a score less its price in KL: one step an update, as far as the policy may be trusted.

        rho = pi/pi_old          maximise the mean of w A rho
        subject to the mean of KL(pi_old | pi) <= max_kl                                                per token

    Schulman et al. 2015 (arXiv:1502.05477), eq. 14; `modules/trpo.py` takes the step. The bound is on the distribution over the whole
    vocabulary at each token that was sampled, so that nothing is clipped. Rewards and advantages are PPO's (`losses/ppo.py`, 1 to 4): a
    price of KL to the reference in the rewards, GAE from a value head. Whitening moves the baseline and nothing else, because the step
    has one length whatever the scale of A. The value head is fitted to the returns by the run's optimizer, after the step, in
    `value_epochs` passes; the trunk is not trained by that. w is an importance weight, 1 on-policy.

    Raises:
        ValueError: when advantages are asked for without values, or when called on other tokens than are stored.
    """

    formula: ClassVar[str] = (
        "L = -A rho, subject to mean KL(pi_old | pi) <= max_kl, rho = pi/pi_old, A = GAE of score - kl_coefficient * log(pi/ref)"
    )
    optimum: ClassVar[str] = "pi proportional to ref exp(score / kl_coefficient), with k1"
    per: ClassVar[Literal["token", "completion"]] = "token"
    needs_values: ClassVar[bool] = True
    needs_float32: ClassVar[bool] = True

    discount: float
    """Of rewards per token, in [0, 1]. 1 is usual: then the rewards of a completion add up to the objective."""
    gae_lambda: float
    """How far advantages trust later rewards over the values, in [0, 1]. 0.95 is usual."""
    whiten_advantages: bool
    """Whether advantages have mean 0 and variance 1 over the update."""
    value_epochs: int
    """Steps of the value head towards the returns of an update, >= 1."""
    max_kl: float
    """How far an update may move the policy, mean nats a token, > 0. 0.01 is the paper's."""
    cg_iterations: int
    """Conjugate gradients that solve for the natural gradient, >= 1; each costs two passes over the samples. 10 is usual."""
    damping: float
    """Added to the eigenvalues of the Fisher information, which has many zeros, >= 0. 0.1 is usual."""
    backtracks: int
    """Fractions of the step that are tried before an update is given up, >= 1. 10 is usual."""
    backtrack_ratio: float
    """Of one fraction to the one before, in (0, 1). 0.8 is usual."""

    def __post_init__(self) -> None:
        RewardKLLoss.__post_init__(self)
        check_range("loss.discount", self.discount, low=0.0, high=1.0, hint="It is the discount of rewards per token. Try 1.")
        check_range("loss.gae_lambda", self.gae_lambda, low=0.0, high=1.0, hint="At 1 advantages trust rewards alone. Try 0.95.")
        check_range("loss.value_epochs", self.value_epochs, low=1, hint="It is how many steps the value head takes. Try 10.")
        check_range("loss.max_kl", self.max_kl, above=0.0, hint="It is how far an update may go, nats a token. Try 0.01.")
        check_range("loss.cg_iterations", self.cg_iterations, low=1, hint="It is how well the step is solved for. Try 10.")
        check_range("loss.damping", self.damping, low=0.0, hint="It bends the step towards the plain gradient. Try 0.1.")
        check_range("loss.backtracks", self.backtracks, low=1, hint="It is how many fractions of a step are tried. Try 10.")
        check_range("loss.backtrack_ratio", self.backtrack_ratio, above=0.0, below=1.0, hint="It shrinks a step that fails. Try 0.8.")

    def advantages(self, rollout: ScoredRollout, kl_coefficient: float) -> Advantages:
        """As PPO's without whitened rewards. Whitening is over the samples that are given, so they should be those of the whole update.

        Raises:
            ValueError: for a rollout without values.
        """
        if rollout.values is None:
            raise ValueError("TRPO's advantages need the values of the rollout's tokens")
        log_ratios = rollout.logps - rollout.reference_logps
        rewards = token_rewards(
            rollout.scores, log_ratios, rollout.completion_index, kl_coefficient=kl_coefficient, estimator=self.kl_estimator
        )
        advantages, returns = generalized_advantages(
            rewards, rollout.values, rollout.completion_index, discount=self.discount, gae_lambda=self.gae_lambda
        )
        return Advantages(advantages=whiten(advantages) if self.whiten_advantages else advantages, returns=returns, rewards=rewards)

    def __call__(self, policy: PolicyTokens, rollout: RolloutTokens) -> RolloutOutput:
        log_ratios = rollout.log_ratios(policy)
        ratios = bounded_exp(log_ratios)
        losses = -rollout.weights * rollout.advantages * ratios
        return RolloutOutput(
            losses=losses,
            policy_losses=losses.detach(),
            value_losses=None,
            entropies=None if policy.entropies is None else policy.entropies.detach(),
            ratios=ratios.detach(),
            clipped=torch.zeros_like(ratios, requires_grad=False),
            value_clipped=None,
            approx_kl=log_ratios.detach().square() / 2,
        )

    def value_losses(self, values: Tensor, returns: Tensor) -> Tensor:
        """Half the squared error of each value [N] from its return [N]: [N] squared score units."""
        return (values - returns).square() / 2
