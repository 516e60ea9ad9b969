"""A prompt with its sampled answers and what is known of them: a row of `samples.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from alignkit.data.examples import Message
from alignkit.metrics import LENGTH, SCORE_PART, TERMINATED


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class AnsweredPrompt:
    """M samples of one prompt."""

    prompt: str | tuple[Message, ...]
    completions: tuple[str, ...]
    """M texts, as `dataset=local` joins them to the prompt."""
    scores: tuple[float, ...] | None
    """M, after clipping and penalties; None where nobody scores."""
    gold: tuple[float, ...] | None
    """M, of the scorer that `validation.gold` names."""
    measured: Mapping[str, tuple[float, ...]]
    """M each, by metric: lengths in tokens, whether the answer ended, parts of the score, penalties, KL to the reference."""

    @property
    def asked(self) -> str | list[dict[str, str]]:
        """The prompt as JSON has it: a text, or messages."""
        if isinstance(self.prompt, str):
            return self.prompt
        return [{"role": message.role, "content": message.content} for message in self.prompt]

    @property
    def known_scores(self) -> tuple[float, ...]:
        """M scores, where somebody scores."""
        assert self.scores is not None, "nobody scores"
        return self.scores

    @property
    def best(self) -> int:
        """The sample with the highest score, the first one on a tie."""
        return max(range(len(self.completions)), key=self.known_scores.__getitem__)

    @property
    def worst(self) -> int:
        """The sample with the lowest score, the first one on a tie."""
        return min(range(len(self.completions)), key=self.known_scores.__getitem__)

    def finished(self, sample: int) -> bool:
        """Whether an answer ended by itself and was not cut."""
        return bool(self.measured[TERMINATED][sample])

    def row(self) -> dict[str, Any]:
        """What `samples.jsonl` holds. With scores, `dataset=local` reads it as a ranking."""
        values = self.measured
        row: dict[str, Any] = {
            "prompt": self.asked,
            "completions": list(self.completions),
            "scores": None if self.scores is None else list(self.scores),
            "parts": {name.removeprefix(SCORE_PART): list(part) for name, part in values.items() if name.startswith(SCORE_PART)},
            "finished": [bool(value) for value in values[TERMINATED]],
            "tokens": [int(value) for value in values[LENGTH]],
        }
        return row if self.gold is None else row | {"gold": list(self.gold)}
