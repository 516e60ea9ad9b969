"""`dataset=imdb`: preferences between continuations of real film reviews, by a gold reward.

With `reviews` one of the two modules of this floor that import from `alignkit.lab`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, final

from alignkit.data.dropping import fault
from alignkit.data.examples import OVERALL, PreferenceExample
from alignkit.data.rows import DroppedRow, text
from alignkit.data.source import LoadedExamples, LoadingSource, RowSource, check_some_left, load_examples
from alignkit.errors import UserError, check_range
from alignkit.lab.annotator import Annotator
from alignkit.lab.imdb import ImdbWorld, Review, cut
from alignkit.settings import DatasetSettings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Imdb(LoadingSource):
    """Reviews in a column `text`, as in `stanfordnlp/imdb` (Maas et al. 2011) or any file of opinions; other columns are not read.

        {"text": "I loved this film. The cast is superb.<br /><br />See it.", "label": "positive"}

    The first words of a review are a prompt; its own continuation and those of other reviews are the completions. Reviews are held out
    by their prompts, and none of their words is trained on. The gold reward, VADER's, ranks; then length and chance overrule it for a
    share of the training examples.
    """

    pairs: int | None
    """Training examples, >= 1; null makes one of each review."""
    answers: int
    """Completions of each, 1 to 8: 2 are a pair, more are a ranking, 1 is the review itself, for `loss=sft`."""
    prompt_words: int
    """Words of a prompt, >= 1. The DPO paper takes 2 to 8 tokens."""
    completion_words: int
    """Most words of a completion, >= 1."""
    noise: float
    """Chance in [0, 0.5] that a training label is flipped; at 0.5 labels say nothing. Held-out labels are clean."""
    length_bias: float
    """Share in [0, 1] of training labels that prefer the longer completion whatever it says. Held-out labels never do."""
    world_seed: int
    """Of the order, the draws and the labels, >= 0. Which reviews are held out does not depend on it."""

    def __post_init__(self) -> None:
        if self.pairs is not None:
            check_range("dataset.pairs", self.pairs, low=1, hint="It is the number of training examples; null makes one of each review.")
        check_range("dataset.prompt_words", self.prompt_words, low=1, hint="The DPO paper begins with 2 to 8 tokens. Try 4.")
        check_range("dataset.completion_words", self.completion_words, low=1, hint="Try 64.")
        check_range("dataset.world_seed", self.world_seed, low=0)
        self._annotator()

    def load(self, settings: DatasetSettings) -> LoadedExamples:
        """The examples of a run: `pairs` to train on, and one of each held-out review."""
        if settings.validation_path is not None:
            raise UserError(
                f"dataset.validation_path = {settings.validation_path} has no effect: many reviews begin alike, so that dataset=imdb holds "
                "out all that do. Put both files into one, and leave dataset.validation_path out."
            )
        halves = _Halves(prompt_words=self.prompt_words, completion_words=self.completion_words)
        read = load_examples(replace(settings, train_examples=None), halves)
        place = f"dataset.hub = {settings.hub}" if settings.path is None else f"dataset.path = {settings.path}"
        for found, purpose in ((read.train, "train on"), (read.validation, "hold out")):
            if len(found) < self.answers:
                raise UserError(
                    f"{place}: {len(found)} reviews to {purpose}, and dataset.answers = {self.answers} asks for as many completions of "
                    "different ones. Take a larger file, or change dataset.validation_examples."
                )
        world = ImdbWorld(seed=self.world_seed, train=_reviews(read.train), validation=_reviews(read.validation))
        annotator = self._annotator()
        dropped = Counter({reason: count for reason, count in read.counts.items() if reason not in ("train", "validation")})
        made = (annotator.labelled(world, index) for index in range(self.pairs or len(read.train)))
        train = _usable(made, dropped)[: settings.train_examples]
        validation = _usable((annotator.held_out(world, index) for index in range(len(read.validation))), dropped)
        for examples in (train, validation):
            check_some_left(len(examples), dropped, place)
        return LoadedExamples(train=train, validation=validation, counts={**dropped, "train": len(train), "validation": len(validation)})

    def _annotator(self) -> Annotator:
        return Annotator(answers=self.answers, noise=self.noise, length_bias=self.length_bias, seed=self.world_seed)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class _Halves(RowSource):
    """Each review as a prompt with its own continuation."""

    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("text",),)

    prompt_words: int
    completion_words: int

    def to_examples(self, row: Mapping[str, object]) -> list[PreferenceExample]:
        review = cut(text(row, "text"), prompt_words=self.prompt_words, completion_words=self.completion_words)
        if not review.continuation:
            raise DroppedRow("empty")
        return [PreferenceExample(prompt=review.text, completions=(review.continuation,))]


def _reviews(halves: Iterable[PreferenceExample]) -> tuple[Review, ...]:
    return tuple(Review(text=str(half.prompt), continuation=half.completions[0]) for half in halves)


def _usable(examples: Iterable[PreferenceExample], dropped: Counter[str]) -> list[PreferenceExample]:
    """Examples whose completions differ, in what they say and in how good they are; the others are counted."""
    kept = []
    for example in examples:
        reason = fault(example) or ("tie" if len(set(example.ratings[OVERALL])) < len(example.completions) else None)
        if reason is None:
            kept.append(example)
        else:
            dropped[reason] += 1
    return kept
