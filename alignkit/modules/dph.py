"""Direct preference heads: a head's loss, alone or beside cDPO on the same forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

from torch import Tensor

from alignkit.batches import PackedBatch
from alignkit.losses.cdpo import CDPO
from alignkit.losses.families import PairRewardsLoss
from alignkit.losses.outputs import PairwiseOutput
from alignkit.metrics import DPO_LOSS, HEAD_LOSS
from alignkit.models.terminal_states import terminal_states
from alignkit.modules.alignment import AlignmentModule, Objective, Parts, Recipe
from alignkit.modules.pairs import IMPLICIT_REWARD_NAMES, LOGP_NAMES, REWARD_NAMES, logp_metrics, pair_logps, pair_rewards, reward_metrics
from alignkit.settings import HeadSettings, JointSettings


@final
class DPHModule(AlignmentModule):
    """L = L_head + dpo_weight * L_cDPO(beta, dpo_epsilon), both from one forward pass of the trunk (arXiv:2405.20053).

    With `dpo_weight` 0 no log-probs are computed and no reference is held. `rewards/*` are the head's scores; the joint term's
    implicit rewards are `implicit_rewards/*`.
    """

    uses_head: ClassVar[bool] = True

    def __init__(self, *, parts: Parts, recipe: Recipe, loss: PairRewardsLoss, head: HeadSettings, joint: JointSettings) -> None:
        joint_names = (*IMPLICIT_REWARD_NAMES, *LOGP_NAMES, HEAD_LOSS, DPO_LOSS) if joint.beta is not None else ()
        super().__init__(parts=parts, recipe=recipe, metric_names=(*REWARD_NAMES, *joint_names))
        self.loss = loss
        self.head_name = head.name
        self.dpo_weight = joint.dpo_weight
        self.cdpo = None if joint.beta is None else CDPO(beta=joint.beta, epsilon=joint.dpo_epsilon)

    def values_at_reference(self) -> Mapping[str, float]:
        return {} if self.cdpo is None else {DPO_LOSS: self.cdpo.value_at_reference()}

    def objective(self, batch: PackedBatch) -> Objective:
        if self.cdpo is None:
            head = self._head_output(self.states(batch), batch)
            return Objective(losses=head.losses, metrics=reward_metrics(head))
        assert self.reference is not None
        reference = pair_logps(self.reference.token_logps(batch), batch)
        hidden = self.backbone.hidden_states(batch)
        head = self._head_output(terminal_states(hidden, batch), batch)
        policy = pair_logps(self.backbone.token_scores(hidden, batch).logps, batch)
        joint = self.cdpo(policy, reference)
        parts = {HEAD_LOSS: head.losses.detach(), DPO_LOSS: joint.losses.detach()}
        metrics = {**reward_metrics(head), **reward_metrics(joint, IMPLICIT_REWARD_NAMES), **logp_metrics(policy), **parts}
        return Objective(losses=head.losses + self.dpo_weight * joint.losses, metrics=metrics)

    def _head_output(self, states: Tensor, batch: PackedBatch) -> PairwiseOutput:
        return self.loss(pair_rewards(self.heads.scores(self.head_name, states), batch))
