"""Questions with candidates of which some are right: what a benchmark asks, and what a training pair can be drawn from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import final

from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.holdout import prompt_key


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A prompt, candidates that may follow it, and which of them are right.

    Worked example: `Question(prompt="Question: 1+1?\\nAnswer:", candidates=(" 3", " 2"), correct=(1,))`.
    """

    prompt: str | tuple[Message, ...]
    """Plain text, or a dialogue that ends with a user's turn."""
    candidates: tuple[str, ...]
    """K >= 2 texts that follow the prompt as they stand, a space before them included; equal ones are allowed."""
    correct: tuple[int, ...]
    """Places of the right candidates, at least one."""
    given: tuple[str, ...] = ()
    """K texts between the prompt and each candidate that log-probs take as read: WinoGrande compares one ending after several beginnings.
    Empty: none. A chat template has no place for them: there they are the beginning of the answer and are scored with it."""
    value: float | None = None
    """The number that the place of the chosen candidate is an estimate of: STS-B's rating, 0 to 5."""
    group: str = ""
    """Subset that is reported by itself: `middle`, a subject; empty for none."""

    def __post_init__(self) -> None:
        assert len(self.candidates) >= 2
        assert self.correct
        assert all(0 <= place < len(self.candidates) for place in self.correct)
        assert not self.given or len(self.given) == len(self.candidates)

    @property
    def digest(self) -> str:
        """Hex digits that tell the question from others: of its texts."""
        words = [prompt_key(PreferenceExample(prompt=self.prompt, completions=())), self.candidates, self.given]
        return hashlib.sha256(json.dumps(words, ensure_ascii=False).encode()).hexdigest()[:32]

    @property
    def texts(self) -> tuple[str, ...]:
        """K texts that follow the prompt: each candidate after what is given."""
        given = self.given or ("",) * len(self.candidates)
        return tuple(before + candidate for before, candidate in zip(given, self.candidates, strict=True))

    def as_preference(self) -> PreferenceExample:
        """A right candidate before the wrong ones: for objectives on pairs it and one wrong one, drawn uniformly but from the texts alone,
        so that it is the same in every run; for rankings and labels all of them; for imitation the right one (arXiv:2405.20053's data).

        Right candidates beside the one that is drawn are left out, as are repeated ones.
        """
        texts, draw = self.texts, int(self.digest, 16)
        chosen = texts[self.correct[draw % len(self.correct)]]
        right = {texts[place] for place in self.correct}
        wrong = list(dict.fromkeys(text for text in texts if text not in right))
        last = (draw // len(self.correct)) % len(wrong) if wrong else 0
        # Objectives on pairs read the first and the last.
        completions = (chosen, *wrong[last + 1 :], *wrong[: last + 1])
        ranks = (0, *(1 for _ in wrong)) if len(wrong) > 1 else ()
        return PreferenceExample(
            prompt=self.prompt, completions=completions, ranks=ranks, desirable=(True, *(False for _ in wrong)) if wrong else ()
        )
