"""Terms on single completion tokens: supervised fine-tuning, and divergences from the reference."""

from __future__ import annotations

from typing import ClassVar, final

import torch

from alignkit.batches import Unit
from alignkit.data.forms import Form
from alignkit.logps import completion_sums
from alignkit.losses.families import DivergenceLoss, TokenLoss
from alignkit.losses.outputs import TokenLogps
from alignkit.metrics import TOKEN_ACCURACY
from alignkit.modules.forward import Forward
from alignkit.modules.term import Term, TermOutput


@final
class TokenTerm(Term[TokenLoss]):
    """The chosen completions, token by token; the mean is over the chosen tokens of the global batch."""

    unit: ClassVar[Unit] = "chosen_tokens"
    form: ClassVar[Form] = Form.single()

    @property
    def metric_names(self) -> tuple[str, ...]:
        return (TOKEN_ACCURACY,)

    def __call__(self, forward: Forward) -> TermOutput:
        scores = forward.token_scores
        selection = forward.select(self.place.source)
        if len(selection.first) < forward.batch.completions:
            # [N] whether the token is one of a selected example's first completion.
            chosen = torch.zeros_like(forward.tokens, dtype=torch.bool).index_fill(0, selection.first, True)
            tokens = chosen[forward.batch.completion_index]
            output = self.loss(TokenLogps(token_logps=scores.logps[tokens]))
            return TermOutput(losses=output.losses, metrics={TOKEN_ACCURACY: scores.top1[tokens]})
        output = self.loss(TokenLogps(token_logps=scores.logps))
        return TermOutput(losses=output.losses, metrics={TOKEN_ACCURACY: scores.top1})


@final
class DivergenceTerm(Term[DivergenceLoss]):
    """A divergence summed over each completion's tokens; the mean is over completions, so that chosen and rejected weigh the same."""

    unit: ClassVar[Unit] = "completions"
    form: ClassVar[Form] = Form.single()
    needs_reference: ClassVar[bool] = True
    needs_live_reference: ClassVar[bool] = True

    @property
    def metric_names(self) -> tuple[str, ...]:
        return ()

    def __call__(self, forward: Forward) -> TermOutput:
        batch = forward.batch
        sums = completion_sums(forward.divergences(self.loss), batch.completion_index, batch.completions)
        return TermOutput(losses=sums[forward.select(self.place.source).completions])

    def value_at_reference(self) -> float | None:
        return 0.0
