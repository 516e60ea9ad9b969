"""How far the policy has gone where the reference would not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from alignkit.losses.families import DivergenceLoss


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ReverseKL(DivergenceLoss):
    """Kullback-Leibler divergence of the policy from the reference, under the policy.

        L = KL(pi || pi_ref) = sum_v pi(v) (log pi(v) - log pi_ref(v))                           per token, nats

    The divergence that RLHF's objective holds down, at each token exactly over the vocabulary, but at the tokens of the data:
    the KL of whole completions is the mean of its sum over completions that the policy itself samples. Large where the policy
    says what the reference finds unlikely. Its gradient in the logits is pi (log pi - log pi_ref - L).
    """

    formula: ClassVar[str] = "L = sum over the vocabulary of pi (log pi - log pi_ref)"
    optimum: ClassVar[str] = "pi = pi_ref"

    def __call__(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy.exp() * (policy - reference)).sum(-1)
