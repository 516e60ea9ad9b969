"""Terms on heads: reward models, direct preference heads, ratings, and what keeps heads in shape."""

from __future__ import annotations

import math
from typing import Any, ClassVar, final

import torch

from alignkit.batches import Unit
from alignkit.data.forms import Form
from alignkit.losses.families import Loss, PairRewardsLoss, RankedRewardsLoss, RatedRewardsLoss, StatesLoss, WeightsLoss
from alignkit.metrics import ACCURACIES, MARGINS, RATING_ERROR
from alignkit.modules.forward import Forward
from alignkit.modules.rewards import REWARD_NAMES, ends_of, ranking_metrics, rating_metrics, reward_metrics
from alignkit.modules.term import Place, Term, TermOutput


class HeadTerm(Term[Any]):
    """Reads a head."""

    needs_trunk: ClassVar[bool] = False

    def __init__(self, loss: Loss, place: Place) -> None:
        super().__init__(loss, place)
        assert place.head is not None
        self.head = place.head

    @property
    def metric_names(self) -> tuple[str, ...]:
        return REWARD_NAMES


@final
class PairRewardsTerm(HeadTerm):
    """Losses on the scores of pairs."""

    loss: PairRewardsLoss

    def __call__(self, forward: Forward) -> TermOutput:
        selection = forward.select(self.place.source)
        output = self.loss(forward.pair_rewards(self.head, selection))
        lengths = (forward.tokens[selection.first], forward.tokens[selection.last])
        return TermOutput(losses=output.losses, metrics=reward_metrics(output, REWARD_NAMES), lengths=lengths)


@final
class RankedRewardsTerm(HeadTerm):
    """Losses on the scores of rankings."""

    loss: RankedRewardsLoss
    form: ClassVar[Form] = Form.rankings()

    def __call__(self, forward: Forward) -> TermOutput:
        selection = forward.select(self.place.source)
        output = self.loss(forward.scores(self.head)[selection.completions], selection.ranking)
        metrics = ranking_metrics(output.rewards, selection.ranking, REWARD_NAMES)
        return TermOutput(losses=output.losses, metrics=metrics, lengths=ends_of(forward.tokens[selection.completions], selection.ranking))


@final
class RatedRewardsTerm(HeadTerm):
    """Losses on how close scores are to ratings. Completions without one have no loss, and count in the mean."""

    loss: RatedRewardsLoss
    unit: ClassVar[Unit] = "completions"

    def __init__(self, loss: Loss, place: Place) -> None:
        super().__init__(loss, place)
        self.form = Form.ratings(place.attribute)  # type: ignore[misc]  # what is wanted depends on the attribute

    @property
    def metric_names(self) -> tuple[str, ...]:
        return (RATING_ERROR, MARGINS, ACCURACIES)

    def __call__(self, forward: Forward) -> TermOutput:
        scores = forward.scores(self.head)
        ratings = forward.batch.ratings_of(self.place.attribute)
        chosen = [place for place in forward.select(self.place.source).places if not math.isnan(ratings[place])]
        wanted = torch.tensor([ratings[place] for place in chosen], dtype=scores.dtype, device=scores.device)
        places = torch.tensor(chosen, dtype=torch.int64, device=scores.device)
        output = self.loss(scores[places], wanted)
        return TermOutput(losses=output.losses, metrics=rating_metrics(output.rewards, wanted, forward.batch.example_index[places]))


@final
class StatesTerm(Term[StatesLoss]):
    """Losses on hidden states where prompts and completions end."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        return ()

    def __call__(self, forward: Forward) -> TermOutput:
        selection = forward.select(self.place.source)
        prompts = forward.prompt_states[torch.tensor(selection.examples, dtype=torch.int64, device=forward.hidden.device)]
        return TermOutput(losses=self.loss(prompts, forward.terminal_states[selection.completions], selection.ranking))


@final
class WeightsTerm(HeadTerm):
    """Losses on a head's weight matrices, whatever the data are."""

    loss: WeightsLoss
    unit: ClassVar[Unit] = "micro_batches"
    form: ClassVar[Form] = Form.single()

    @property
    def metric_names(self) -> tuple[str, ...]:
        return ()

    def __call__(self, forward: Forward) -> TermOutput:
        return TermOutput(losses=self.loss(forward.parts.heads.matrices(self.head))[None])
