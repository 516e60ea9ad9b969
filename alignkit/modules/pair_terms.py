"""Terms on the log-probs of pairs: the DPO family."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar, final

import torch
from torch import Tensor

from alignkit.batches import PackedBatch, StepBatch
from alignkit.losses.aot import rank_partners
from alignkit.losses.families import AdaptivePairLoss, Loss, PairLogpsLoss, ReferenceFreeLoss, SortedPairLoss, log_ratios
from alignkit.losses.outputs import PairLogps, PairwiseOutput
from alignkit.modules.forward import Forward, Selection
from alignkit.modules.level import Level, columns_of_all_ranks
from alignkit.modules.rewards import IMPLICIT_REWARD_NAMES, LOGP_NAMES, reward_metrics
from alignkit.modules.term import Place, Term, TermOutput

PairLossT = TypeVar("PairLossT", bound=Loss)


class LogpsTerm(Term[PairLossT]):
    """Reads the policy's log-probs of both sides of each pair, and logs implicit rewards."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        return (*IMPLICIT_REWARD_NAMES, *LOGP_NAMES)

    def __call__(self, forward: Forward) -> TermOutput:
        selection = forward.select(self.place.source)
        policy = forward.pairs(forward.policy, selection)
        output = self.compare(forward, policy, selection)
        logps = (policy.chosen.detach(), policy.rejected.detach())
        metrics = {**reward_metrics(output, IMPLICIT_REWARD_NAMES), **dict(zip(LOGP_NAMES, logps, strict=True))}
        return TermOutput(losses=output.losses, metrics=metrics, lengths=(policy.chosen_tokens, policy.rejected_tokens))

    @abstractmethod
    def compare(self, forward: Forward, policy: PairLogps, selection: Selection) -> PairwiseOutput:
        """The loss of the selected pairs."""


@final
class PairLogpsTerm(LogpsTerm[PairLogpsLoss]):
    """Losses on log-ratios to the reference."""

    needs_reference: ClassVar[bool] = True

    def compare(self, forward: Forward, policy: PairLogps, selection: Selection) -> PairwiseOutput:
        return self.loss(policy, forward.pairs(forward.reference, selection))

    def value_at_reference(self) -> float | None:
        return self.loss.value_at_reference()


@final
class ReferenceFreeTerm(LogpsTerm[ReferenceFreeLoss]):
    """Losses that know no reference."""

    def compare(self, forward: Forward, policy: PairLogps, selection: Selection) -> PairwiseOutput:
        return self.loss(policy)


@final
class AdaptivePairTerm(LogpsTerm[AdaptivePairLoss]):
    """Losses on log-ratios with a level that follows the data; validation takes the newest level."""

    needs_reference: ClassVar[bool] = True

    def __init__(self, loss: AdaptivePairLoss, place: Place) -> None:
        super().__init__(loss, place)
        self.level = Level(start=loss.start, decay=loss.decay)

    def compare(self, forward: Forward, policy: PairLogps, selection: Selection) -> PairwiseOutput:
        level = self.level.value(policy.chosen)
        output = self.loss(policy, forward.pairs(forward.reference, selection), level)
        if output.losses.requires_grad:
            self.level.observe(self.loss.observe(output, level))
        return output

    def value_at_reference(self) -> float | None:
        return self.loss.value_at_reference()

    def after_step(self) -> None:
        self.level.move()

    def forget_step(self) -> None:
        self.level.forget()

    def state(self) -> dict[str, Any]:
        return self.level.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.level.load_state(state)


@final
class SortedPairTerm(LogpsTerm[SortedPairLoss]):
    """Losses on sorted log-ratios: the whole step is looked at before it is trained on. Validation sorts its own micro-batches."""

    needs_reference: ClassVar[bool] = True

    def __init__(self, loss: SortedPairLoss, place: Place) -> None:
        super().__init__(loss, place)
        self._partners: dict[int, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def before_step(self, step: StepBatch, forward: Callable[[PackedBatch], Forward]) -> None:
        keys: list[int] = []
        ratios = []
        for batch in step.micro_batches:
            fresh = forward(batch)
            selection = fresh.select(self.place.source)
            keys += [batch.example_keys[example] for example in selection.examples]
            ratios.append(torch.stack(self._ratios(fresh, selection)))
        everywhere, mine = columns_of_all_ranks(torch.cat(ratios, dim=1))
        partners = (side[mine] for side in rank_partners(*everywhere))
        self._partners = {key: (chosen, rejected) for key, chosen, rejected in zip(keys, *partners, strict=True)}

    def after_step(self) -> None:
        self._partners = {}

    def forget_step(self) -> None:
        self._partners = {}

    def compare(self, forward: Forward, policy: PairLogps, selection: Selection) -> PairwiseOutput:
        reference = forward.pairs(forward.reference, selection)
        keys = [forward.batch.example_keys[example] for example in selection.examples]
        if self._partners and keys:
            chosen, rejected = (torch.stack(side) for side in zip(*(self._partners[key] for key in keys), strict=True))
        else:
            chosen, rejected = rank_partners(*(ratio.detach() for ratio in log_ratios(policy, reference)))
        return self.loss(policy, reference, (chosen, rejected))

    def value_at_reference(self) -> float | None:
        return self.loss.value_at_reference()

    @staticmethod
    def _ratios(forward: Forward, selection: Selection) -> tuple[Tensor, Tensor]:
        return log_ratios(forward.pairs(forward.policy, selection), forward.pairs(forward.reference, selection))
