"""Supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.losses.families import TokenLoss
from alignkit.losses.outputs import TokenLogps, TokenOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SFT(TokenLoss):
    """Negative log-likelihood of the completion's tokens; prompts are not trained on.

        L_n = -log pi(y_n | x, y_<n)                                    per completion token, nats

    The caller's mean over tokens weighs long completions more. The DPO authors' repository sums over each completion and takes
    the mean over completions instead, which makes the learning rate depend on their length.
    """

    formula: ClassVar[str] = "L = -log pi(token | prompt, tokens before it), per completion token"
    optimum: ClassVar[str] = "pi(token) = 1"

    def __call__(self, policy: TokenLogps) -> TokenOutput:
        return TokenOutput(losses=-policy.token_logps)
