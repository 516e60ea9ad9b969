"""What objectives read of an example: one text, a pair, a ranking, labels, ratings; and how each is made out of the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, Self, final

from alignkit.data.examples import OVERALL, Message, PreferenceExample
from alignkit.data.rows import DroppedRow

NO_RATINGS: Mapping[str, tuple[float, ...]] = MappingProxyType({})


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """The part of an example's feedback that an objective reads.

    | an example holds            | `single()`     | `pairs()`              | `labels()`                            | `rankings()`  |
    |-----------------------------|----------------|------------------------|---------------------------------------|---------------|
    | one text                    | it             | dropped, `no_rejected` | dropped, `no_label`                   | `no_rejected` |
    | one text with a label       | if desirable   | dropped, `no_rejected` | it                                    | `no_rejected` |
    | a pair                      | the chosen one | it                     | chosen desirable, rejected not        | it            |
    | a ranking of several        | the best       | the best and the worst | best desirable, worst not, rest left  | it            |
    | completions that are a tie  | the first      | dropped, `tie`         | dropped, `tie`, unless labelled       | `tie`         |
    """

    completions: Literal[1, 2] | None
    """1: the best one; 2: the best and the worst; None: all, as far as the rest asks for them."""
    labelled: bool = False
    """Every completion has a label `desirable`."""
    ranked: bool = False
    """There are two completions or more, and not all are equally good."""
    rated: tuple[str, ...] = ()
    """Attributes whose ratings are read. An example needs one rating of one of them; the others may be missing (NaN)."""

    @classmethod
    def single(cls) -> Self:
        """Texts to imitate."""
        return cls(completions=1)

    @classmethod
    def pairs(cls) -> Self:
        """Chosen and rejected."""
        return cls(completions=2)

    @classmethod
    def labels(cls) -> Self:
        """Completions that are desirable or not, each for itself."""
        return cls(completions=None, labelled=True)

    @classmethod
    def rankings(cls) -> Self:
        """All completions, ranked."""
        return cls(completions=None, ranked=True)

    @classmethod
    def ratings(cls, *attributes: str) -> Self:
        """All completions, rated."""
        return cls(completions=None, rated=attributes)

    def joined(self, other: Self) -> Self:
        """What two objectives read together: the pair of a ranking stands first and last in it, the best completion first."""
        completions = self.completions if self.completions == other.completions else None
        if {self.completions, other.completions} == {1, 2}:
            completions = 2
        ranked = self.ranked or other.ranked or (completions is None and 2 in (self.completions, other.completions))
        rated = dict.fromkeys((*self.rated, *other.rated))
        return replace(self, completions=completions, labelled=self.labelled or other.labelled, ranked=ranked, rated=tuple(rated))

    def of(self, example: PreferenceExample) -> PreferenceExample:
        """The example in this form, best completion first.

        Raises:
            DroppedRow: when it does not hold what the form asks for.
        """
        ranks = example.ranks or tuple(range(len(example.completions)))
        order = sorted(range(len(ranks)), key=ranks.__getitem__)
        best, worst = ranks[order[0]], ranks[order[-1]]
        if (self.completions == 2 or self.ranked) and len(order) < 2:
            raise DroppedRow("no_rejected")
        if (self.completions == 2 or self.ranked) and best == worst:
            raise DroppedRow("tie")
        if self.completions == 1:
            if example.desirable and not example.desirable[order[0]]:
                raise DroppedRow("undesirable")
            order = order[:1]
        elif self.completions == 2:
            order = [order[0], order[-1]]
        if self.labelled and not example.desirable:
            if len(order) < 2:
                raise DroppedRow("no_label")
            if best == worst:
                raise DroppedRow("tie")
            order = [place for place in order if ranks[place] in (best, worst)]
            example = replace(example, desirable=tuple(rank == best for rank in ranks))
        return self._rated(_selected(example, order))

    def _rated(self, example: PreferenceExample) -> PreferenceExample:
        """The ratings that are read, and no others."""
        if not self.rated and not example.ratings:
            return example
        unrated = (math.nan,) * len(example.completions)
        ratings = {attribute: example.ratings.get(attribute, unrated) for attribute in self.rated}
        if self.rated and all(math.isnan(rating) for of_attribute in ratings.values() for rating in of_attribute):
            raise DroppedRow("no_rating")
        return replace(example, ratings=ratings)


def _selected(example: PreferenceExample, order: Sequence[int]) -> PreferenceExample:
    """Some completions of an example, in another order, with all that is known of them. Ranks are numbered anew, without gaps."""
    if not example.ranks and list(order) == list(range(len(example.completions))):
        return example
    levels = sorted({example.ranks[place] for place in order}) if example.ranks else []
    return replace(
        example,
        completions=tuple(example.completions[place] for place in order),
        ranks=tuple(levels.index(example.ranks[place]) for place in order) if example.ranks else (),
        desirable=tuple(example.desirable[place] for place in order) if example.desirable else (),
        ratings={attribute: tuple(ratings[place] for place in order) for attribute, ratings in example.ratings.items()},
    )


def ranks_of(scores: Sequence[float]) -> tuple[int, ...]:
    """Ranks out of scores, the highest first; equal scores are a tie: (7, 9, 7) has the ranks (1, 0, 1)."""
    levels = sorted(set(scores), reverse=True)
    return tuple(levels.index(score) for score in scores)


def scored(
    prompt: str | tuple[Message, ...],
    completions: Sequence[str],
    scores: Sequence[float],
    ratings: Mapping[str, tuple[float, ...]] = NO_RATINGS,
) -> PreferenceExample:
    """Completions that are ranked by scores of how good they are on the whole; the margin is the gap of best and worst."""
    return PreferenceExample(
        prompt=prompt,
        completions=tuple(completions),
        margin=max(scores) - min(scores),
        ranks=ranks_of(scores),
        ratings={OVERALL: tuple(scores), **ratings},
    )
