"""Judges and writers that say what a test wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from alignkit.data.examples import EncodedExample, Message
from alignkit.judges.bouts import Verdict
from alignkit.judges.judge import Candidates, Comparison, Judgement
from alignkit.judges.writer import Reply


@dataclass
class Scribe:
    """A writer whose reply is a function of the last turn."""

    reply: Callable[[str], str | Reply]
    asked: list[tuple[Message, ...]] = field(default_factory=list)
    calls: int = 0

    def __call__(self, questions: Sequence[tuple[Message, ...]]) -> list[Reply]:
        self.calls += 1
        self.asked += questions
        said = [self.reply(question[-1].content) for question in questions]
        return [Reply(text=one, finished=True) if isinstance(one, str) else one for one in said]


def candidates(*texts: str, prompt: str | tuple[Message, ...] = "Which?") -> Candidates:
    """Answers to a prompt; their tokens are of no meaning."""
    example = EncodedExample(key=0, prompt_ids=(1,), completion_ids=tuple((place + 2,) for place in range(len(texts))))
    return Candidates(prompt=prompt, completions=texts, example=example)


def compared(straight: Verdict | None, swapped: Verdict | None = None) -> Judgement:
    """One comparison of two answers: verdicts on the first one, in both orders; one verdict is for both."""
    swapped = straight if swapped is None else swapped
    return Judgement(scores=(None, None), comparisons=(Comparison(first=0, second=1, straight=straight, swapped=swapped),))
