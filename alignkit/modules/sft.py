"""Supervised fine-tuning on chosen completions."""

from __future__ import annotations

from typing import ClassVar, final

from alignkit.batches import PackedBatch, StepBatch
from alignkit.losses.families import TokenLoss
from alignkit.losses.outputs import TokenLogps
from alignkit.metrics import TOKEN_ACCURACY
from alignkit.modules.alignment import AlignmentModule, Objective, Parts, Recipe


@final
class SFTModule(AlignmentModule):
    """Trains the trunk on one completion an example; the mean is over the completion tokens of the global batch."""

    completions: ClassVar[int] = 1

    def __init__(self, *, parts: Parts, recipe: Recipe, loss: TokenLoss) -> None:
        super().__init__(parts=parts, recipe=recipe, metric_names=(TOKEN_ACCURACY,))
        self.loss = loss

    def count(self, step: StepBatch) -> int:
        return step.global_tokens

    def objective(self, batch: PackedBatch) -> Objective:
        scores = self.backbone.token_scores(self.backbone.hidden_states(batch), batch)
        output = self.loss(TokenLogps(token_logps=scores.logps))
        return Objective(losses=output.losses, metrics={TOKEN_ACCURACY: scores.top1})
