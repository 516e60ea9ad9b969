"""The reviews world: an endless supply of short film reviews whose true reward is known.

A review is a prompt that leaves the verdict open and a completion that gives one. Everything is a function of the world's seed, the split
and an index: example 17 is the same whether it is drawn first, last, or alone.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import ClassVar, final

from alignkit.data.examples import PreferenceExample
from alignkit.lab import lexicon
from alignkit.lab.gold import GoldReward
from alignkit.lab.grammar import Draft, Joint, with_articles, write
from alignkit.lab.lexicon import Kind
from alignkit.lab.world import Split, ranked

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
SHIFTED_PROMPTS = (
    ('Q: How was "{title}", the new {kind} about {subject}? A:', Joint.SENTENCE),
    ('Now showing: "{title}", {a} {kind}. Our visitors say:', Joint.SENTENCE),
    ('Dear Anna, you asked me about "{title}", {a} {kind} about {subject}.', Joint.SENTENCE),
    ('Dear diary, tonight we went to see {a} {kind}, "{title}", and', Joint.CLAUSE),
    ('My sister called to ask about "{title}". I told her that', Joint.CLAUSE),
    ('Postcard from the festival: they have just shown "{title}", {a} {kind}, and', Joint.CLAUSE),
    ('When my class talked about the {kind} "{title}", we all agreed that it was', Joint.PREDICATE),
)
"""Other ways to ask, for what a policy does outside of its training prompts."""
TIMES = ("night", "week", "month", "Friday", "summer")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class _Style:
    """What prompts are made of."""

    key: str
    """Parts their random numbers from those of other styles."""
    patterns: tuple[tuple[str, Joint], ...]
    kinds: tuple[Kind, ...]
    subjects: tuple[str, ...]


STYLES: Mapping[str, _Style] = {
    "usual": _Style(key="", patterns=PROMPTS, kinds=lexicon.KINDS, subjects=lexicon.SUBJECTS),
    "shifted": _Style(key="shifted/", patterns=SHIFTED_PROMPTS, kinds=lexicon.SHIFTED_KINDS, subjects=lexicon.SHIFTED_SUBJECTS),
}


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
    """Prompts, completions, pairs and rankings by index; a `World`.

    Titles join an adjective and a noun. The sum of their places in the word lists decides the split, so validation prompts are never
    training prompts, whatever the index, yet all of their words are known from training.
    """

    seed: int
    """Two worlds with different seeds are different draws from the same grammar."""
    prompts: str = "usual"
    """A key of `STYLES`. `shifted`: patterns, kinds of films and subjects that `usual` prompts never have; titles and completions are made
    as ever."""

    VALIDATION_SHARE: ClassVar[int] = 8
    """One title in so many is a validation title."""

    def prompt(self, index: int, *, split: Split = "train") -> Prompt:
        """The prompt of example `index`."""
        style = STYLES[self.prompts]
        key = f"{self.seed}/{style.key}{split}/{index}"
        rng = random.Random(key)
        kind = rng.choice(style.kinds)
        pattern, joint = rng.choice(style.patterns)
        words = {"subject": rng.choice(style.subjects), "day": rng.choice(DAYS), "time": rng.choice(TIMES)}
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

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """The gold reward of each completion."""
        return GoldReward().score(prompts, completions)

    def example(self, index: int, *, answers: int = 2, split: Split = "train") -> PreferenceExample:
        """Completions of one prompt, the one with the highest gold reward first; see `World.example`."""
        prompt = self.prompt(index, split=split)
        draws = (self.completion(prompt, draw) for draw in count())
        return ranked(prompt.text, ((self.score([prompt.text], [draw])[0], draw) for draw in draws), answers)

    def pair(self, index: int, *, split: Split = "train") -> PreferenceExample:
        """Two completions of one prompt, the one with the higher gold reward first."""
        return self.example(index, answers=2, split=split)

    def _title(self, rng: random.Random, split: Split) -> str:
        adjective = rng.randrange(len(lexicon.TITLE_ADJECTIVES))
        residues = range(1) if split == "validation" else range(1, self.VALIDATION_SHARE)
        nouns = [n for n in range(len(lexicon.TITLE_NOUNS)) if (adjective + n) % self.VALIDATION_SHARE in residues]
        words = {"adjective": lexicon.TITLE_ADJECTIVES[adjective], "noun": lexicon.TITLE_NOUNS[rng.choice(nouns)]}
        return with_articles(rng.choice(lexicon.TITLE_SHAPES).format(**words))
