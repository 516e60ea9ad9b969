"""Reward models: a head on the trunk, trained on pairs."""

from __future__ import annotations

from typing import ClassVar, final

from alignkit.batches import PackedBatch
from alignkit.losses.families import PairRewardsLoss
from alignkit.modules.alignment import AlignmentModule, Objective, Parts, Recipe
from alignkit.modules.pairs import REWARD_NAMES, pair_rewards, reward_metrics
from alignkit.settings import HeadSettings


@final
class RewardModule(AlignmentModule):
    """Trains a head, and the trunk below it, to score the chosen completion above the rejected one."""

    uses_head: ClassVar[bool] = True

    def __init__(self, *, parts: Parts, recipe: Recipe, loss: PairRewardsLoss, head: HeadSettings) -> None:
        super().__init__(parts=parts, recipe=recipe, metric_names=REWARD_NAMES)
        self.loss = loss
        self.head_name = head.name

    def objective(self, batch: PackedBatch) -> Objective:
        scores = self.heads.scores(self.head_name, self.states(batch))
        output = self.loss(pair_rewards(scores, batch))
        return Objective(losses=output.losses, metrics=reward_metrics(output))
