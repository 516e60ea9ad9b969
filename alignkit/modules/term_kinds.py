"""Which term reads which family of losses."""

from __future__ import annotations

from typing import Any

from alignkit.errors import UserError
from alignkit.losses.families import (
    AdaptivePairLoss,
    DivergenceLoss,
    Loss,
    MismatchLevelLoss,
    PairLogpsLoss,
    PairRewardsLoss,
    RankedLogpsLoss,
    RankedRewardsLoss,
    RatedRewardsLoss,
    ReferenceFreeLoss,
    RunningLevelLoss,
    SortedPairLoss,
    StatesLoss,
    TokenLoss,
    WeightsLoss,
)
from alignkit.losses.rollout_families import SampledLoss
from alignkit.modules.completion_terms import MismatchTerm, RankedLogpsTerm, RunningTerm
from alignkit.modules.head_terms import HeadTerm, PairRewardsTerm, RankedRewardsTerm, RatedRewardsTerm, StatesTerm, WeightsTerm
from alignkit.modules.pair_terms import AdaptivePairTerm, PairLogpsTerm, ReferenceFreeTerm, SortedPairTerm
from alignkit.modules.term import Place, Term
from alignkit.modules.token_terms import DivergenceTerm, TokenTerm

TERMS: dict[type[Loss], type[Term[Any]]] = {
    TokenLoss: TokenTerm,
    DivergenceLoss: DivergenceTerm,
    PairLogpsLoss: PairLogpsTerm,
    ReferenceFreeLoss: ReferenceFreeTerm,
    AdaptivePairLoss: AdaptivePairTerm,
    SortedPairLoss: SortedPairTerm,
    MismatchLevelLoss: MismatchTerm,
    RunningLevelLoss: RunningTerm,
    RankedLogpsLoss: RankedLogpsTerm,
    PairRewardsLoss: PairRewardsTerm,
    RankedRewardsLoss: RankedRewardsTerm,
    RatedRewardsLoss: RatedRewardsTerm,
    StatesLoss: StatesTerm,
    WeightsLoss: WeightsTerm,
}


def kind_of(loss: type[Loss]) -> type[Term[Any]]:
    """The term that reads a loss, by its family.

    Raises:
        UserError: for a loss of no known family, and for one that no term reads.
    """
    if issubclass(loss, SampledLoss):
        raise UserError(
            f"loss: {loss.__name__} learns from samples of the policy, which the module 'ppo' draws; it is no part of another objective. "
            "Give it a run of its own, e.g. loss=ppo."
        )
    for family in loss.__mro__:
        if family in TERMS:
            return TERMS[family]
    raise UserError(f"loss: {loss.__name__} belongs to no family of alignkit.losses.families; derive it from one of them.")


def reads_head(loss: type[Loss]) -> bool:
    """Whether a loss needs a head."""
    return loss.needs_values if issubclass(loss, SampledLoss) else issubclass(kind_of(loss), HeadTerm)


def reads_rating(loss: type[Loss]) -> bool:
    """Whether a loss needs the name of a rating."""
    return not issubclass(loss, SampledLoss) and issubclass(kind_of(loss), RatedRewardsTerm)


def build_term(loss: Loss, place: Place) -> Term[Any]:
    """A loss in its place."""
    return kind_of(type(loss))(loss, place)
