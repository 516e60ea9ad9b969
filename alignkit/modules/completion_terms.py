"""Terms on the log-probs of single completions and of whole rankings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar, final

import torch
from torch import Tensor

from alignkit.batches import PackedBatch, StepBatch, Unit
from alignkit.data.forms import Form
from alignkit.losses.families import LabelledLoss, MismatchLevelLoss, RankedLogpsLoss, RunningLevelLoss
from alignkit.losses.outputs import CompletionLogps, CompletionOutput
from alignkit.modules.forward import Forward, Selection
from alignkit.modules.level import Level
from alignkit.modules.rewards import IMPLICIT_REWARD_NAMES, LOGP_NAMES, ends_of, label_metrics, ranking_metrics
from alignkit.modules.term import Place, Term, TermOutput
from alignkit.ranks import sum_over_ranks

LabelledT = TypeVar("LabelledT", bound=LabelledLoss)


class LabelledTerm(Term[LabelledT]):
    """Losses on completions that are desirable or not."""

    unit: ClassVar[Unit] = "completions"
    form: ClassVar[Form] = Form.labels()
    needs_reference: ClassVar[bool] = True

    @property
    def metric_names(self) -> tuple[str, ...]:
        return (*IMPLICIT_REWARD_NAMES, *LOGP_NAMES)

    def __call__(self, forward: Forward) -> TermOutput:
        selection = forward.select(self.place.source)
        chosen = selection.completions
        policy, reference = (
            CompletionLogps(logps=logps.logps[chosen], tokens=logps.tokens[chosen]) for logps in (forward.policy, forward.reference)
        )
        desirable = torch.tensor(forward.batch.desirable, dtype=torch.bool, device=chosen.device)[chosen]
        output = self.loss(policy, reference, desirable, self.level(policy.logps))
        self.observe(output, desirable)
        metrics = label_metrics(output.rewards, policy.logps.detach(), desirable, selection.ranking)
        return TermOutput(losses=output.losses, metrics=metrics, lengths=(policy.tokens[desirable], policy.tokens[~desirable]))

    @abstractmethod
    def level(self, like: Tensor) -> Tensor:
        """[] what rewards are compared with."""

    def observe(self, output: CompletionOutput, desirable: Tensor) -> None:
        """Take in what a micro-batch has shown."""


@final
class MismatchTerm(LabelledTerm[MismatchLevelLoss]):
    """The level is estimated anew in each step, from prompts with completions of other prompts; validation takes the newest one."""

    needs_mismatched: ClassVar[bool] = True

    def __init__(self, loss: MismatchLevelLoss, place: Place) -> None:
        super().__init__(loss, place)
        self._level = self._before = torch.zeros((), dtype=torch.float64)

    def level(self, like: Tensor) -> Tensor:
        return self._level.to(like)

    @torch.no_grad()
    def before_step(self, step: StepBatch, forward: Callable[[PackedBatch], Forward]) -> None:
        sums = []
        for batch in step.mismatched:
            fresh = forward(batch)
            wanted = fresh.select(self.place.source).completions
            ratios = (fresh.policy.logps - fresh.reference.logps)[wanted]
            sums.append(torch.stack([ratios.sum(), ratios.new_tensor(ratios.numel())]))
        if not sums:
            return
        total, count = sum_over_ranks(torch.stack(sums).sum(0)).unbind()
        self._before = self._level
        self._level = self.loss.level((total / count.clamp(min=1))[None])

    def forget_step(self) -> None:
        self._level = self._before

    def state(self) -> dict[str, Any]:
        return {"level": float(self._level)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._level = torch.tensor(state["level"], dtype=torch.float64)


@final
class RunningTerm(LabelledTerm[RunningLevelLoss]):
    """The level follows the rewards from step to step; validation takes the newest one."""

    def __init__(self, loss: RunningLevelLoss, place: Place) -> None:
        super().__init__(loss, place)
        self._levels = {label: Level(start=0.0, decay=loss.decay) for label in (True, False)}

    def level(self, like: Tensor) -> Tensor:
        return (self._levels[True].value(like) + self._levels[False].value(like)) / 2

    def observe(self, output: CompletionOutput, desirable: Tensor) -> None:
        if output.losses.requires_grad:
            for label, level in self._levels.items():
                level.observe(output.rewards[desirable == label])

    def after_step(self) -> None:
        for level in self._levels.values():
            level.move()

    def forget_step(self) -> None:
        for level in self._levels.values():
            level.forget()

    def state(self) -> dict[str, Any]:
        return {str(label): level.state() for label, level in self._levels.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for label, level in self._levels.items():
            level.load_state(state[str(label)])


@final
class RankedLogpsTerm(Term[RankedLogpsLoss]):
    """Losses on the order of all completions of a prompt by their log-ratios."""

    form: ClassVar[Form] = Form.rankings()
    needs_reference: ClassVar[bool] = True

    @property
    def metric_names(self) -> tuple[str, ...]:
        return (*IMPLICIT_REWARD_NAMES, *LOGP_NAMES)

    def __call__(self, forward: Forward) -> TermOutput:
        selection = forward.select(self.place.source)
        policy, reference = (self._of(logps, selection) for logps in (forward.policy, forward.reference))
        output = self.loss(policy, reference, selection.ranking)
        metrics = ranking_metrics(output.rewards, selection.ranking, IMPLICIT_REWARD_NAMES)
        pairs = forward.pairs(forward.policy, selection)
        logps = dict(zip(LOGP_NAMES, (pairs.chosen.detach(), pairs.rejected.detach()), strict=True))
        return TermOutput(losses=output.losses, metrics={**metrics, **logps}, lengths=ends_of(policy.tokens, selection.ranking))

    @staticmethod
    def _of(logps: CompletionLogps, selection: Selection) -> CompletionLogps:
        return CompletionLogps(logps=logps.logps[selection.completions], tokens=logps.tokens[selection.completions])
