"""What a world is: texts, prompts and answers by index, and a reward that is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal, Protocol, TypeAlias

from alignkit.data.examples import OVERALL, PreferenceExample
from alignkit.errors import check_range

Split: TypeAlias = Literal["train", "validation"]

MINIMUM_GAP = 0.1
"""Gold scores of answers to one prompt differ by more than this: below it VADER's order is hardly a preference."""
REDRAWS = 32
"""Draws of each answer but the first, at most."""
MOST_ANSWERS = 8
"""More of them do not fit into VADER's [-1, 1] with a clear gap between each two."""


class Opening(Protocol):
    """The beginning of a text."""

    @property
    def text(self) -> str:
        """Ends without a space: the completion brings its own."""


class World(Protocol):
    """An experiment's data and its truth. All is a function of the world's seed, the split and an index, drawn in any order or alone.

    Prompts of one split are never prompts of the other.
    """

    def prompt(self, index: int, *, split: Split = "train") -> Opening:
        """The prompt of example `index`."""

    def text(self, index: int, *, split: Split = "train") -> str:
        """A whole text to learn the language from: a prompt with its first completion."""

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """The true reward of each completion."""

    def example(self, index: int, *, answers: int = 2, split: Split = "train") -> PreferenceExample:
        """Answers to a prompt in the order of the true reward, the best first.

        The rewards are the ratings `overall`, and the margin is the gap of the best and the worst. More answers are those of fewer, and
        some more. One answer is a text to imitate.
        """


def ranked(prompt: str, draws: Iterator[tuple[float, str]], answers: int) -> PreferenceExample:
    """The first draw and others that differ from all before by more than `MINIMUM_GAP`, the best first.

    Of `REDRAWS` draws that do not, the one that comes nearest to it is taken.

    Args:
        prompt: what they answer.
        draws: gold score and completion of each draw, without end.
        answers: completions of the example, >= 1.
    """
    taken = [next(draws)]
    while len(taken) < answers:
        taken.append(_apart(taken, islice(draws, REDRAWS)))
    taken.sort(reverse=True)
    scores, completions = zip(*taken, strict=True)
    return PreferenceExample(prompt=prompt, completions=completions, margin=scores[0] - scores[-1], ratings={OVERALL: scores})


def _apart(taken: Sequence[tuple[float, str]], draws: Iterator[tuple[float, str]]) -> tuple[float, str]:
    """The first draw that is far enough from those taken, or else the farthest."""
    farthest, widest = taken[0], -1.0
    for draw in draws:
        gap = min(abs(draw[0] - score) for score, _ in taken)
        if gap > widest:
            farthest, widest = draw, gap
        if gap > MINIMUM_GAP:
            break
    return farthest


def check_answers(answers: int) -> None:
    """Refuse a number of answers that the worlds cannot tell apart.

    Raises:
        UserError: naming `dataset.answers`.
    """
    hint = "2 makes pairs, more make rankings, 1 makes texts for loss=sft."
    check_range("dataset.answers", answers, low=1, high=MOST_ANSWERS, hint=hint)
