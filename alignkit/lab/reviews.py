"""The reviews world: an endless supply of short film reviews whose true reward is known.

A review is a prompt that leaves the verdict open and a completion that gives one. Everything is a function of the world's seed, the split
and an index: example 17 is the same whether it is drawn first, last, or alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, final

from alignkit.data.examples import PreferenceExample
from alignkit.lab import lexicon
from alignkit.lab.gold import GoldReward
from alignkit.lab.grammar import Draft, Joint, with_articles, write
from alignkit.lab.lexicon import Kind

Split: TypeAlias = Literal["train", "validation"]

PROMPTS = (
    ('Review of "{title}", {a} {kind}:', Joint.SENTENCE),
    ('My notes on "{title}", {a} {kind} about {subject}:', Joint.SENTENCE),
    ('"{title}" is {a} {kind} about {subject}.', Joint.SENTENCE),
    ('I saw "{title}" last {time}. It is {a} {kind} about {subject}.', Joint.SENTENCE),
    ('The {kind} "{title}" tells the story of {subject}.', Joint.SENTENCE),
    ('I watched "{title}", {a} {kind}, on {day}, and', Joint.CLAUSE),
    ('Having seen "{title}", {a} {kind} about {subject}, I can say that', Joint.CLAUSE),
    ('The first thing to notice about the {kind} "{title}" is that', Joint.CLAUSE),
    ('When the {kind} "{title}" was over, I felt that', Joint.CLAUSE),
    ('"{title}", {a} {kind} about {subject}, is', Joint.PREDICATE),
    ('In the end, the {kind} "{title}" is', Joint.PREDICATE),
)
TIMES = ("night", "week", "month", "Friday", "summer")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """The beginning of a review, without a verdict."""

    text: str
    """Ends without a space: the completion brings its own."""
    kind: Kind
    joint: Joint
    key: str
    """Names the prompt's own stream of random numbers."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewsWorld:
    """Prompts, completions and preference pairs by index.

    Titles join an adjective and a noun. The sum of their places in the word lists decides the split, so validation prompts are never
    training prompts, whatever the index, yet all of their words are known from training.
    """

    seed: int
    """Two worlds with different seeds are different draws from the same grammar."""

    MINIMUM_GAP: ClassVar[float] = 0.1
    """Gold scores of a pair differ by more than this: below it VADER's order is hardly a preference."""
    REDRAWS: ClassVar[int] = 32
    """Draws of the second completion of a pair, at most."""
    VALIDATION_SHARE: ClassVar[int] = 8
    """One title in so many is a validation title."""

    def prompt(self, index: int, *, split: Split = "train") -> Prompt:
        """The prompt of example `index`."""
        key = f"{self.seed}/{split}/{index}"
        rng = random.Random(key)
        kind = rng.choice(lexicon.KINDS)
        pattern, joint = rng.choice(PROMPTS)
        words = {"subject": rng.choice(lexicon.SUBJECTS), "day": rng.choice(DAYS), "time": rng.choice(TIMES)}
        text = pattern.format(title=self._title(rng, split), a="a(n)", kind=kind.label, **words)
        return Prompt(text=with_articles(text), kind=kind, joint=joint, key=key)

    def draft(self, prompt: Prompt, draw: int) -> Draft:
        """Completion number `draw` of a prompt, with the sentiment its writer intended."""
        return write(random.Random(f"{prompt.key}/{draw}"), prompt.kind, prompt.joint)

    def completion(self, prompt: Prompt, draw: int) -> str:
        """Completion number `draw` of a prompt; `prompt.text + completion` is proper text."""
        return self.draft(prompt, draw).text

    def text(self, index: int, *, split: Split = "train") -> str:
        """A whole review: a prompt with one completion."""
        prompt = self.prompt(index, split=split)
        return prompt.text + self.completion(prompt, 0)

    def pair(self, index: int, *, split: Split = "train") -> PreferenceExample:
        """Two completions of one prompt, the one with the higher gold reward first. The rewards are the ratings, the margin is their gap.

        The second completion is drawn again until the gap exceeds `MINIMUM_GAP`.
        """
        prompt = self.prompt(index, split=split)
        first = self._scored(prompt, 0)
        for draw in range(1, self.REDRAWS + 1):
            second = self._scored(prompt, draw)
            if abs(first[0] - second[0]) > self.MINIMUM_GAP:
                break
        (low, rejected), (high, chosen) = sorted((first, second))
        return PreferenceExample(prompt=prompt.text, completions=(chosen, rejected), margin=high - low, ratings={"overall": (high, low)})

    def _scored(self, prompt: Prompt, draw: int) -> tuple[float, str]:
        completion = self.completion(prompt, draw)
        return GoldReward().score([prompt.text], [completion])[0], completion

    def _title(self, rng: random.Random, split: Split) -> str:
        adjective = rng.randrange(len(lexicon.TITLE_ADJECTIVES))
        residues = range(1) if split == "validation" else range(1, self.VALIDATION_SHARE)
        nouns = [n for n in range(len(lexicon.TITLE_NOUNS)) if (adjective + n) % self.VALIDATION_SHARE in residues]
        words = {"adjective": lexicon.TITLE_ADJECTIVES[adjective], "noun": lexicon.TITLE_NOUNS[rng.choice(nouns)]}
        return with_articles(rng.choice(lexicon.TITLE_SHAPES).format(**words))
