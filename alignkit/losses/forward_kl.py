"""How much of the reference the policy has lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from alignkit.losses.families import DivergenceLoss


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardKL(DivergenceLoss):
    """Kullback-Leibler divergence of the policy from the reference, under the reference.

        L = KL(pi_ref || pi) = sum_v pi_ref(v) (log pi_ref(v) - log pi(v))                       per token, nats

    Exact over the vocabulary, not an estimate from the sampled token. Large where the policy has dropped a token that the
    reference finds likely, so that it keeps the reference's breadth; its gradient in the logits is pi - pi_ref, which is that of
    distillation (Hinton et al. 2015, arXiv:1503.02531).
    """

    formula: ClassVar[str] = "L = sum over the vocabulary of pi_ref (log pi_ref - log pi)"
    optimum: ClassVar[str] = "pi = pi_ref"

    def __call__(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (reference.exp() * (reference - policy)).sum(-1)
