"""DPO and every other loss on log-ratios of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

from alignkit.batches import PackedBatch
from alignkit.losses.families import PairLogpsLoss
from alignkit.metrics import LOSS
from alignkit.models.reference import backbone_logps
from alignkit.modules.alignment import AlignmentModule, Objective, Parts, Recipe
from alignkit.modules.pairs import LOGP_NAMES, REWARD_NAMES, logp_metrics, pair_logps, reward_metrics


@final
class DPOModule(AlignmentModule):
    """Trains the trunk on pairs against a frozen reference whose log-probs come from the same code in the same precision."""

    uses_reference: ClassVar[bool] = True

    def __init__(self, *, parts: Parts, recipe: Recipe, loss: PairLogpsLoss) -> None:
        super().__init__(parts=parts, recipe=recipe, metric_names=(*REWARD_NAMES, *LOGP_NAMES))
        self.loss = loss

    def values_at_reference(self) -> Mapping[str, float]:
        return {LOSS: self.loss.value_at_reference()}

    def objective(self, batch: PackedBatch) -> Objective:
        assert self.reference is not None
        reference = pair_logps(self.reference.token_logps(batch), batch)
        policy = pair_logps(backbone_logps(self.backbone, batch), batch)
        output = self.loss(policy, reference)
        return Objective(losses=output.losses, metrics={**reward_metrics(output), **logp_metrics(policy)})
