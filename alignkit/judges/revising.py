"""Critique and revision: a language model that improves answers by principles (Bai et al. 2022, arXiv:2212.08073, section 3).

P prompts
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from alignkit.data.examples import Message
from alignkit.judges.asking import conversation
from alignkit.judges.principles import Principle, Principles
from alignkit.judges.revision_reading import Fault, read_critique, read_revision, same
from alignkit.judges.writer import Reply, Writer

Prompt = str | tuple[Message, ...]
REVIEWER = 'You review answers. You say in one or two sentences what is wrong with an answer. Begin with "The answer".'
"""The system's turn of a request for a critique."""
CRITIQUE_FORM = 'Say in one or two sentences what is wrong with the answer. Begin with "The answer".'
"""The end of the user's turn. Small models follow what they have read last."""
REWRITER = "You are an AI assistant for text rewriting."
"""How the system's turn of a request for a revision begins. Tuned on a model of 135M parameters: asked for a revision as the next turn of
the dialogue, it repeats the critique or the request; a text that is a turn by itself it rewrites."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """A critique and a revision."""

    principle: str
    """Its name."""
    critique: str | Fault
    revision: str | Fault | None
    """None where none was asked for, as there is no critique."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Revision:
    """What became of one answer."""

    first: str
    """As it was."""
    final: str | None
    """The last revision that could be read; None where none could. It differs from the first answer."""
    rounds: tuple[Round, ...]

    @property
    def principles(self) -> tuple[str, ...]:
        """Names of those that were drawn, one a round."""
        return tuple(one.principle for one in self.rounds)

    @property
    def critiques(self) -> tuple[str | None, ...]:
        """One a round; None where it could not be read."""
        return tuple(one.critique if isinstance(one.critique, str) else None for one in self.rounds)

    @property
    def asked(self) -> Mapping[str, int]:
        """How many texts were asked for, by kind: `critiques`, `revisions`."""
        return {"critiques": len(self.rounds), "revisions": sum(one.revision is not None for one in self.rounds)}

    @property
    def read(self) -> Mapping[str, int]:
        """How many of these could be read."""
        return {
            "critiques": sum(isinstance(one.critique, str) for one in self.rounds),
            "revisions": sum(isinstance(one.revision, str) for one in self.rounds),
        }

    @property
    def unread(self) -> Mapping[str, int]:
        """How many could not be read, by kind and why: `critique_cut`, `revision_unchanged`."""
        faults = [f"critique_{one.critique.value}" for one in self.rounds if isinstance(one.critique, Fault)]
        faults += [f"revision_{one.revision.value}" for one in self.rounds if isinstance(one.revision, Fault)]
        return dict(Counter(faults))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Reviser:
    """Asks for a critique of an answer by a principle, then for a revision, `rounds` times, each beginning with what the last one gave.

    A critique is asked for of question and answer; a revision as the rewriting of the answer, after question, critique and principle. Of an
    earlier round the model sees the revision alone. A round whose critique or revision cannot be read leaves the answer as it is, and is
    counted.
    """

    writer: Writer
    constitution: Principles
    rounds: int
    seed: int
    """Of the principles: see `Principles.drawn`."""

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Revision]:
        """[P] revisions. The model is asked about all prompts of a round together.

        Raises:
            UserError: when it cannot be asked.
        """
        current = [answer.strip() for answer in answers]
        drawn = [self.constitution.drawn(prompt, self.seed, "revision") for prompt in prompts]
        rounds: list[list[Round]] = [[] for _ in prompts]
        for number in range(self.rounds):
            principles = [order[number % len(order)] for order in drawn]
            for own, done in zip(rounds, self._round(prompts, current, principles), strict=True):
                own.append(done)
            current = [
                own[-1].revision if isinstance(own[-1].revision, str) else before for own, before in zip(rounds, current, strict=True)
            ]
        return [
            Revision(first=answer, final=None if same(last, answer) else last, rounds=tuple(own))
            for answer, last, own in zip(answers, current, rounds, strict=True)
        ]

    def _round(self, prompts: Sequence[Prompt], answers: Sequence[str], principles: Sequence[Principle]) -> list[Round]:
        reviewed = [reviewing(*each) for each in zip(prompts, answers, principles, strict=True)]
        critiques = [read_critique(reply, answer) for reply, answer in zip(self._said(reviewed), answers, strict=True)]
        asked = {
            place: rewriting(prompts[place], answers[place], critique, principles[place])
            for place, critique in enumerate(critiques)
            if isinstance(critique, str)
        }
        replies = dict(zip(asked, self._said(list(asked.values())), strict=True))
        rounds = []
        for place, (critique, principle) in enumerate(zip(critiques, principles, strict=True)):
            revision = None
            if isinstance(critique, str):
                revision = read_revision(replies[place], answer=answers[place], critique=critique, request=principle.revision)
            rounds.append(Round(principle=principle.name, critique=critique, revision=revision))
        return rounds

    def _said(self, questions: Sequence[tuple[Message, ...]]) -> list[Reply]:
        return self.writer(questions) if questions else []


def reviewing(prompt: Prompt, answer: str, principle: Principle) -> tuple[Message, ...]:
    """What is wrong with an answer?"""
    asked = f"Question: {conversation(prompt)}\n\nAnswer: {answer}\n\n{principle.critique} {CRITIQUE_FORM}"
    return Message(role="system", content=REVIEWER), Message(role="user", content=asked)


def rewriting(prompt: Prompt, answer: str, critique: str, principle: Principle) -> tuple[Message, ...]:
    """A better answer; the user's turn is the answer alone."""
    told = f"{REWRITER} The text answers the question: {conversation(prompt)}\nA reviewer said: {critique}\n{principle.revision}"
    return Message(role="system", content=told), Message(role="user", content=answer)
