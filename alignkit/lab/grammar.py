"""How words become a review: slots, agreement, and the plan of one to three sentences."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import final

from alignkit.lab import lexicon, templates
from alignkit.lab.lexicon import Kind, Number, Part


@final
class Joint(Enum):
    """What a prompt leaves open, and so how its completion starts."""

    SENTENCE = "sentence"
    """`Review of "Silent Harbour", a western:` goes on with ` The cast is lively ...`."""
    CLAUSE = "clause"
    """`I watched "Silent Harbour" on Sunday, and` goes on with ` the cast is lively ...`."""
    PREDICATE = "predicate"
    """`In the end, "Silent Harbour" is` goes on with ` a lively western ...`."""


@final
@dataclass(frozen=True, slots=True)
class Draft:
    """A completion and what its writer meant by it."""

    text: str
    """Starts with the space that parts it from its prompt."""
    intent: float
    """Sum over sentences of +1 (praise) or -1 (blame), halved where the other side is conceded in the same sentence."""


MIXED_SHARE = 0.3
"""Share of reviews that weigh praise against blame; the others are equally often one or the other."""
MINIMUM_WORDS = 12
"""A completion goes on until it has as many."""
CLOSING_SHARE = 0.6
"""Chance that the sentence that may be the last is a closing such as `I recommend it`."""
PART_SHARE = 0.65
"""Share of clauses that speak of a part; the others speak of the whole film."""


def write(rng: random.Random, kind: Kind, joint: Joint) -> Draft:
    """A completion of one to three sentences (a fourth where they are very short) that praises, blames, or weighs both."""
    writer = _Writer(rng, kind, verdict=rng.choice((1, -1)), mixed=rng.random() < MIXED_SHARE)
    planned = rng.choices((1, 2, 3), weights=(15, 45, 40))[0]
    signs = _signs(writer, planned)
    text, intent = _first_sentence(writer, signs[0], joint)
    count, words = 1, len(text.split())
    while count < planned or words < MINIMUM_WORDS:
        sign = signs[count] if count < planned else writer.verdict
        may_close = count >= planned - 1 and count >= 1 + writer.mixed and words >= MINIMUM_WORDS - 2
        if may_close and rng.random() < CLOSING_SHARE:
            sentence, meant = _closing(writer)
        else:
            turns = sign != signs[min(count, planned) - 1]
            sentence, meant = _next_sentence(writer, sign, turns=turns, room=words < 16)
        text, intent, count = f"{text} {sentence}", intent + meant, count + 1
        words = len(text.split())
    return Draft(" " + text, intent)


def with_articles(text: str) -> str:
    """`a(n)` before a word becomes `a` or `an`, by the word's sound."""
    return _ARTICLE.sub(lambda match: f"{match[1]}{'n' if _starts_with_a_vowel(match[2]) else ''} {match[2]}", text)


_ARTICLE = re.compile(r"\b([aA])\(n\) (\w+)")


def _starts_with_a_vowel(word: str) -> bool:
    return word.startswith("honest") or word[0].lower() in "aeiou"


def _signs(writer: _Writer, planned: int) -> tuple[int, ...]:
    """The sign of each planned sentence; the last is the verdict's. A single mixed sentence has both sides in itself."""
    if not writer.mixed or planned == 1:
        signs: tuple[int, ...] = (1,) * planned
    elif planned == 2:
        signs = (-1, 1)
    else:
        signs = writer.rng.choice(((-1, 1, 1), (1, -1, 1)))
    return tuple(sign * writer.verdict for sign in signs)


def _first_sentence(writer: _Writer, sign: int, joint: Joint) -> tuple[str, float]:
    if joint is Joint.PREDICATE:
        turned = writer.mixed and sign == writer.verdict
        patterns = templates.TURNED_PREDICATES.of(sign) if turned else templates.PREDICATES
        return _finish(writer.fill(writer.choose(patterns), sign), capital=False), 0.5 * sign if turned else float(sign)
    body, intent = _contrast(writer, sign) if writer.mixed and sign == writer.verdict else _body(writer, sign, room=True)
    return _finish(body, capital=joint is Joint.SENTENCE), intent


def _next_sentence(writer: _Writer, sign: int, *, turns: bool, room: bool) -> tuple[str, float]:
    if turns:
        opener = writer.choose(templates.TURNING) if writer.rng.random() < 0.7 else ""
        return _finish(opener + writer.fill("{main}", sign), capital=True), float(sign)
    body, intent = _body(writer, sign, room=room)
    opener = "" if abs(intent) < 1 else writer.choose(templates.CONTINUING.of(sign))
    return _finish(opener + body, capital=True), intent


def _closing(writer: _Writer) -> tuple[str, float]:
    closings = (templates.MEASURED_CLOSINGS if writer.mixed else templates.CLOSINGS).of(writer.verdict)
    return _finish(writer.fill(writer.choose(closings), writer.verdict), capital=True), float(writer.verdict)


def _body(writer: _Writer, sign: int, *, room: bool) -> tuple[str, float]:
    luck = writer.rng.random()
    if luck < 0.45 or not room or sign != writer.verdict:
        return writer.fill("{main}", sign), float(sign)
    if luck < 0.75:
        return writer.fill("{main}, and {main}", sign), float(sign)
    return _contrast(writer, sign)


def _contrast(writer: _Writer, sign: int) -> tuple[str, float]:
    return writer.fill(writer.choose(templates.CONTRASTS.of(sign)), sign), 0.5 * sign


def _finish(body: str, *, capital: bool) -> str:
    body = with_articles(body)
    return f"{body[0].upper() if capital else body[0]}{body[1:]}."


@final
@dataclass(slots=True)
class _Writer:
    """Fills slots for one completion and remembers what it has said, so that it does not repeat itself."""

    rng: random.Random
    kind: Kind
    verdict: int
    """Sign of the review's last word; only clauses of this sign speak of the whole film."""
    mixed: bool
    """Whether the review gives weight to the other side."""
    polarity: int = 1
    """Sign of the clause that is being written."""
    part: Part | None = None
    """Part that the clause speaks of: verbs agree with it."""
    unsaid: list[Part] = field(default_factory=list)
    said: set[str] = field(default_factory=set)

    def __getitem__(self, slot: str) -> str:
        return _SLOTS[slot](self)

    def fill(self, template: str, polarity: int) -> str:
        outer, self.polarity = self.polarity, polarity
        text = template.format_map(self)
        self.polarity = outer
        return text

    def choose(self, options: tuple[str, ...]) -> str:
        """One of `options`, if possible one that has not been said yet."""
        for _ in range(8):
            choice = self.rng.choice(options)
            if choice not in self.said:
                break
        self.said.add(choice)
        return choice

    def turn_to_a_part(self) -> Part:
        if not self.unsaid:
            self.unsaid = list(dict.fromkeys(self.rng.sample(self.kind.parts, len(self.kind.parts))))
        self.part = self.unsaid.pop()
        return self.part

    def subject(self) -> str:
        return f"the {self.turn_to_a_part().name}"

    def agree(self, singular: str, plural: str) -> str:
        assert self.part is not None, "a template names {part} before its verb"
        return plural if self.part.number is Number.PLURAL else singular

    def own(self) -> str:
        assert self.part is not None, "a template names {part} before its adjective"
        return self.choose(self.part.own.of(self.polarity))

    def of_part(self, sign: int) -> tuple[str, ...]:
        assert self.part is not None, "a template names {part} before its adjective"
        return self.part.adjectives.of(sign * self.polarity)

    def of_film(self, sign: int) -> tuple[str, ...]:
        return self.kind.adjectives.of(sign * self.polarity)

    def graded(self, options: tuple[str, ...]) -> str:
        """An adjective, in two of five cases with an adverb of degree."""
        adjective = self.choose(options)
        if self.rng.random() >= 0.4:
            return adjective
        adverbs = lexicon.EXTREME_ADVERBS if adjective in lexicon.EXTREME else lexicon.GRADABLE_ADVERBS
        return f"{self.choose(adverbs.of(self.polarity))} {adjective}"

    def quality(self, sign: int) -> str:
        """A part with an adjective: `a clever script`, `clever dialogue`."""
        part = self.turn_to_a_part()
        article = "a(n) " if part.number is Number.COUNT else ""
        return f"{article}{self.choose(self.of_part(sign))} {part.name}"

    def clause(self) -> str:
        whole = self.polarity == self.verdict and self.rng.random() >= PART_SHARE
        clauses = templates.FILM_CLAUSES if whole else templates.PART_CLAUSES
        return self.fill(self.choose(clauses.of(self.polarity)), self.polarity)

    def concession(self) -> str:
        return self.fill(self.choose(templates.CONCESSIONS.of(-self.polarity)), -self.polarity)


@cache
def _gradable(adjectives: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(adjective for adjective in adjectives if adjective not in lexicon.EXTREME)


@cache
def _deniable(adjectives: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(adjective for adjective in _gradable(adjectives) if adjective not in lexicon.TOO_PLAIN)


@cache
def _extreme(adjectives: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(adjective for adjective in adjectives if adjective in lexicon.EXTREME)


_SLOTS: Mapping[str, Callable[[_Writer], str]] = {
    "a": lambda w: "a(n)",
    "A": lambda w: "A(n)",
    "part": lambda w: w.subject(),
    "is": lambda w: w.agree("is", "are"),
    "has": lambda w: w.agree("has", "have"),
    "s": lambda w: w.agree("s", ""),
    "adjective": lambda w: w.graded(w.of_part(+1)),
    "own": lambda w: w.own(),
    "plain": lambda w: w.choose(w.of_part(+1)),
    "gradable": lambda w: w.choose(_gradable(w.of_part(+1))),
    "opposite": lambda w: w.choose(_deniable(w.of_part(-1))),
    "quality": lambda w: w.quality(+1),
    "other_quality": lambda w: w.quality(-1),
    "film": lambda w: w.choose((*templates.FILMS, f"the {w.kind.noun}")),
    "noun": lambda w: w.kind.noun,
    "film_adjective": lambda w: w.graded(w.of_film(+1)),
    "film_gradable": lambda w: w.choose(_gradable(w.of_film(+1))),
    "film_extreme": lambda w: w.choose(_extreme(w.of_film(+1))),
    "film_opposite": lambda w: w.choose(_deniable(w.of_film(-1))),
    "other_film_gradable": lambda w: w.choose(_gradable(w.of_film(-1))),
    "mildly": lambda w: w.choose(lexicon.MILD_ADVERBS.of(w.polarity)),
    "scene_opposite": lambda w: w.choose(lexicon.SCENE.of(-w.polarity)),
    "choice_opposite": lambda w: w.choose(lexicon.CHOICE.of(-w.polarity)),
    "felt": lambda w: w.choose(lexicon.FELT.of(w.polarity)),
    "feel": lambda w: w.choose(lexicon.FEEL),
    "manner": lambda w: w.choose(lexicon.MANNER.of(w.polarity)),
    "thing": lambda w: w.choose(lexicon.THINGS.of(w.polarity)),
    "virtue": lambda w: w.choose(lexicon.VIRTUES),
    "part_virtue": lambda w: w.choose(lexicon.PART_VIRTUES),
    "main": lambda w: w.clause(),
    "other": lambda w: w.concession(),
}
