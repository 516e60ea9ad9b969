"""Judges that are asked in words: what they are shown, in which orders, and what their replies come to.   M answers to one prompt"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final

from alignkit.data.examples import Message, Role
from alignkit.errors import UserError, check_choice, check_range
from alignkit.judges.bouts import Verdict
from alignkit.judges.judge import Candidates, Comparison, Judgement
from alignkit.judges.reading import Unread, read_rating, read_verdict, without_markers
from alignkit.judges.standings import shares_won
from alignkit.judges.writer import Reply, Writer

COMPARE, RATE = "compare", "rate"
PLACEHOLDERS: Mapping[str, tuple[str, ...]] = {COMPARE: ("prompt", "first", "second"), RATE: ("prompt", "answer")}
"""What a template must hold, by what it asks."""
SPEAKERS: Mapping[Role, str] = {"system": "System", "user": "User", "assistant": "Assistant"}
QUOTED = "> "
"""Before a line of a shown text that could pass for a line of the template, or for another speaker's turn."""
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
_TURN = re.compile(rf"^(?=(?:{'|'.join(SPEAKERS.values())}):)", re.MULTILINE)

Question = tuple[Message, ...]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class JudgePrompts:
    """What a judge is asked.

    Shown texts are put into the template as they stand, braces included, but for two things. Verdicts in double brackets, such as `[[A]]`,
    keep single ones. A line that equals one of the template's own, such as the one that ends an answer, is quoted by `> `.
    """

    asks: str
    """`compare`: which of two answers is better, shown in both orders; `rate`: how good one answer is."""
    system: str | None
    """The system's turn; null for none."""
    template: str
    """The user's turn, with {prompt} {first} {second} to compare or {prompt} {answer} to rate, each at least once."""
    lowest: float | None
    """Of ratings; null for a judge that compares."""
    highest: float | None
    """Of ratings, above `lowest`; null for a judge that compares."""
    comparisons: int | None
    """At most so many pairs of the answers to one prompt, >= 1, every answer about as often; null for all M(M-1)/2, and to rate."""

    def __post_init__(self) -> None:
        check_choice("judge.asks", self.asks, PLACEHOLDERS)
        found, needed = set(_PLACEHOLDER.findall(self.template)), PLACEHOLDERS[self.asks]
        allowed = " ".join(f"{{{name}}}" for name in needed)
        if unknown := sorted(found - set(needed)):
            raise UserError(
                f"judge.template: {{{unknown[0]}}} is nothing that a judge is shown; with judge.asks={self.asks} it is {allowed}."
            )
        if missing := [name for name in needed if name not in found]:
            raise UserError(f"judge.template: has no {{{missing[0]}}}; with judge.asks={self.asks} it must hold {allowed}.")
        if self.asks == COMPARE:
            for name, value in (("lowest", self.lowest), ("highest", self.highest)):
                if value is not None:
                    raise UserError(
                        f"judge.{name} = {value!r} has no effect with judge.asks=compare. Leave it out or type judge.asks=rate."
                    )
            if self.comparisons is not None:
                check_range("judge.comparisons", self.comparisons, low=1)
            return
        if self.comparisons is not None:
            raise UserError(f"judge.comparisons = {self.comparisons!r} has no effect with judge.asks=rate. Leave it out.")
        if self.lowest is None or self.highest is None:
            raise UserError("judge.lowest and judge.highest: must be numbers with judge.asks=rate. Try judge.lowest=1 judge.highest=10.")
        check_range("judge.lowest", self.lowest)
        check_range("judge.highest", self.highest, above=self.lowest)

    def of(self, prompt: str | tuple[Message, ...]) -> JudgePrompts:
        """The same for every prompt: see `PromptsByPrompt`."""
        return self

    def compared(self, prompt: str | tuple[Message, ...], first: str, second: str) -> Question:
        """Which of two answers is better, in this order?"""
        return self._question({"prompt": conversation(prompt), "first": first.strip(), "second": second.strip()})

    def rated(self, prompt: str | tuple[Message, ...], answer: str) -> Question:
        """How good is an answer?"""
        return self._question({"prompt": conversation(prompt), "answer": answer.strip()})

    def _question(self, texts: Mapping[str, str]) -> Question:
        own = {_plain(line) for line in self.template.splitlines()} - {""}
        shown = {name: _shown(text, own) for name, text in texts.items()}
        asked = Message(role="user", content=_PLACEHOLDER.sub(lambda found: shown[found[1]], self.template))
        return (asked,) if self.system is None else (Message(role="system", content=self.system), asked)


class PromptsByPrompt(Protocol):
    """What a judge is asked about the answers to a prompt, where that is not the same for all of them."""

    def of(self, prompt: str | tuple[Message, ...]) -> JudgePrompts:
        """What is asked of this one."""
        ...


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class AskingJudge:
    """A language model as judge: a `Judge`.

    One that compares is asked about each pair in both orders, and an order that decides is a tie: the conservative rule of Zheng et al.
    2023 (arXiv:2306.05685, section 3.4). Answers that are the same tie without being asked about. Replies that cannot be read are
    counted, and leave the comparison or the rating unknown.
    """

    writer: Writer
    prompts: PromptsByPrompt

    def __call__(self, asked: Sequence[Candidates]) -> list[Judgement]:
        by_prompt = [self._questions(one) for one in asked]
        every = list(dict.fromkeys(question for questions in by_prompt for question in questions))
        replies = dict(zip(every, self.writer(every), strict=True)) if every else {}
        return [self._judgement(one, questions, replies) for one, questions in zip(asked, by_prompt, strict=True)]

    def _questions(self, one: Candidates) -> list[Question]:
        """All that is asked about the answers to one prompt: of each pair both orders, side by side."""
        prompts = self.prompts.of(one.prompt)
        if prompts.asks == RATE:
            return [prompts.rated(one.prompt, text) for text in one.completions]
        texts = one.completions
        both = [(texts[first], texts[second]) for first, second in self._pairs(one) if not _same(texts[first], texts[second])]
        return [prompts.compared(one.prompt, *shown) for pair in both for shown in (pair, pair[::-1])]

    def _pairs(self, one: Candidates) -> list[tuple[int, int]]:
        return list(pairs_of(len(one.completions)))[: self.prompts.of(one.prompt).comparisons]

    def _judgement(self, one: Candidates, questions: Sequence[Question], replies: Mapping[Question, Reply]) -> Judgement:
        judged = self._compared if self.prompts.of(one.prompt).asks == COMPARE else self._rated
        return judged(one, questions, replies)

    def _compared(self, one: Candidates, questions: Sequence[Question], replies: Mapping[Question, Reply]) -> Judgement:
        said = [read_verdict(replies[question]) for question in questions]
        orders = iter(said)
        comparisons = []
        for first, second in self._pairs(one):
            straight: Verdict | Unread = Verdict.TIE
            swapped: Verdict | Unread = Verdict.TIE
            if not _same(one.completions[first], one.completions[second]):
                straight, swapped = next(orders), next(orders)
            comparisons.append(
                Comparison(
                    first=first,
                    second=second,
                    straight=straight if isinstance(straight, Verdict) else None,
                    swapped=swapped.opposite if isinstance(swapped, Verdict) else None,
                )
            )
        return Judgement(
            scores=shares_won(comparisons, len(one.completions)),
            comparisons=tuple(comparisons),
            replies=len(questions),
            unread=sum(isinstance(one, Unread) for one in said),
            reasons=_reasons(said),
            said=tuple(replies[question].text or replies[question].refused for question in questions),
        )

    def _rated(self, one: Candidates, questions: Sequence[Question], replies: Mapping[Question, Reply]) -> Judgement:
        prompts = self.prompts.of(one.prompt)
        lowest, highest = prompts.lowest, prompts.highest
        assert lowest is not None, "checked"
        assert highest is not None, "checked"
        ratings = [read_rating(replies[question], lowest, highest) for question in questions]
        return Judgement(
            scores=tuple(None if isinstance(rating, Unread) else rating for rating in ratings),
            replies=len(questions),
            unread=sum(isinstance(rating, Unread) for rating in ratings),
            reasons=_reasons(ratings),
            said=tuple(replies[question].text or replies[question].refused for question in questions),
        )


def conversation(prompt: str | tuple[Message, ...]) -> str:
    """A prompt as a judge is shown it: text as it stands, one user's turn as its text, a longer dialogue with its speakers named."""
    if isinstance(prompt, str):
        return prompt.strip()
    if len(prompt) == 1:
        return prompt[0].content.strip()
    return "\n\n".join(f"{SPEAKERS[turn.role]}: {_TURN.sub(QUOTED, turn.content.strip())}" for turn in prompt)


def pairs_of(count: int) -> Iterator[tuple[int, int]]:
    """All pairs of places, the lower one first, neighbours on a circle before those further apart: the first N of them hold every place
    about as often."""
    for apart in range(1, count // 2 + 1):
        yield from dict.fromkeys(tuple(sorted((place, (place + apart) % count))) for place in range(count))  # type: ignore[misc]


def _shown(text: str, own: set[str]) -> str:
    """A text that cannot pass for a part of the template, nor, when it is quoted, for a verdict."""
    lines = without_markers(text).split("\n")
    return "\n".join(QUOTED + line if _plain(line) in own else line for line in lines)


def _plain(line: str) -> str:
    """What a reader sees of a line."""
    return " ".join(line.split()).casefold()


def _same(first: str, second: str) -> bool:
    return first.strip() == second.strip()


def _reasons(said: Sequence[object]) -> dict[str, int]:
    return dict(Counter(one.value for one in said if isinstance(one, Unread)))
