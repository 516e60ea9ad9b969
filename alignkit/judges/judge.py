"""A judge says which answers to a prompt are better: a scorer, a language model that is asked, several of them that vote.

E prompts   M completions of one prompt

`judge=llm` is the one public class of `alignkit/judges/llm.py`, a frozen dataclass of its settings that checks itself and is opened when a
command needs it. What a judge has not understood, or was not understood by, is None and counted: nothing is guessed.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, final

from alignkit.data.examples import EncodedExample, Message
from alignkit.judges.bouts import Verdict
from alignkit.scorers.scorer import Answers, Surroundings

REPLIES = "replies"
"""The folder of the cache that holds replies that were paid for."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """Answers to one prompt that are to be told apart."""

    prompt: str | tuple[Message, ...]
    completions: tuple[str, ...]
    """M texts, as `dataset=local` joins them to the prompt; M >= 1."""
    example: EncodedExample
    """The same in the tokens of the model that wrote them, or would have; its key is of no meaning."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What was said of two answers to one prompt, asked in both orders."""

    first: int
    """Place of an answer, 0..M-1."""
    second: int
    """Place of the other one, above `first`."""
    straight: Verdict | None
    """On `first`, as it was shown before `second`; None where the judge's words could not be read."""
    swapped: Verdict | None
    """On `first`, as it was shown after `second`."""

    @property
    def verdict(self) -> Verdict | None:
        """On `first`: a tie where the order decided; None where a reply could not be read."""
        if self.straight is None or self.swapped is None:
            return None
        return self.straight if self.straight is self.swapped else Verdict.TIE


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What a judge says of the answers to one prompt."""

    scores: tuple[float | None, ...]
    """M, higher is better, comparable within the prompt; None for an answer of which nothing is known. Of a judge that compares: the
    share of its comparisons that an answer has won, a tie counting one half."""
    comparisons: tuple[Comparison, ...] = ()
    """Of a judge that compares."""
    replies: int = 0
    """Texts that were asked for and came; 0 of a judge that is no language model."""
    unread: int = 0
    """Of these, those that could not be read."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """How many of the unread ones by each reason: see `alignkit.judges.reading.Unread`."""
    said: tuple[str, ...] = ()
    """The replies, or why there is none: of each comparison that to the straight order and that to the swapped one, or of each answer
    its rating's. Answers that are the same are not asked about. Empty for a judge that is no language model."""
    by_judge: Mapping[str, Judgement] = field(default_factory=dict)
    """Of several judges that vote: what each of them said."""


class Judge(Protocol):
    """Whoever judges."""

    def __call__(self, asked: Sequence[Candidates]) -> list[Judgement]:
        """One judgement for each prompt, in their order.

        Raises:
            UserError: when the judge cannot be asked, or its budget is spent.
        """
        ...


def to_stderr(line: str) -> None:
    """A line for the user where nobody draws a progress bar."""
    print(line, file=sys.stderr, flush=True)


@final
@dataclass(frozen=True, kw_only=True)
class JudgeSurroundings:
    """What a judge is opened in."""

    scoring: Surroundings
    """What a scorer or a model of the judge's own is opened in."""
    answers: Callable[[tuple[EncodedExample, ...]], Answers]
    """Examples as a scorer takes them: see `Collector.answers`."""
    model_path: str
    """Folder of the model whose answers are judged: what judges for a language model that names none of its own."""
    cache: Path
    """Folder for replies that were paid for."""
    batch: int
    """Prompts that are judged together."""
    say: Callable[[str], None] = to_stderr
    """Tells the user a line, such as that a cache is damaged."""


class JudgeKind(ABC):
    """The settings of a judge."""

    __slots__ = ()

    @abstractmethod
    def open(self, surroundings: JudgeSurroundings) -> Judge:
        """The judge, ready: whatever it needs is loaded.

        Raises:
            UserError: when it cannot be.
        """
