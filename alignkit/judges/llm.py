"""`judge=llm`, `judge=llm_rating`: a language model on this machine that is asked in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from alignkit.errors import check_range
from alignkit.judges.asking import AskingJudge, JudgePrompts
from alignkit.judges.judge import Judge, JudgeSurroundings
from alignkit.judges.local_model import check_room, open_local
from alignkit.judges.local_writer import LocalWriter
from alignkit.judges.writer import Writer, WritingJudgeKind


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Llm(WritingJudgeKind):
    """A language model that says in words which of two answers is better, or how good one is.

    Prompts and verdicts are in the manner of MT-bench (Zheng et al. 2023, arXiv:2306.05685, figures 5 and 6). A question that is longer
    than the model has no reply, which is counted and said; it is never shortened.
    """

    model: str | None
    """A folder, a run, a hub id or builtin:tiny; null is the model whose answers are judged."""
    asks: str
    """This and what follows down to `comparisons` is what `JudgePrompts` says."""
    system: str | None
    template: str
    lowest: float | None
    highest: float | None
    comparisons: int | None
    max_tokens: int
    """Of the longest reply, >= 1."""
    temperature: float
    """>= 0; 0 is the likeliest reply, token by token. Others are written one at a time."""
    seed: int
    """Of replies at a temperature."""
    tokens: int
    """Positions, questions included, whose keys and values are held at once: what bounds memory, >= 1."""

    def __post_init__(self) -> None:
        self._prompts()
        check_range("judge.max_tokens", self.max_tokens, low=1)
        check_range("judge.temperature", self.temperature, low=0.0)
        check_range("judge.seed", self.seed, low=0)
        check_range("judge.tokens", self.tokens, low=1)

    def open(self, surroundings: JudgeSurroundings) -> Judge:
        return AskingJudge(writer=self.open_writer(surroundings), prompts=self._prompts())

    def open_writer(self, surroundings: JudgeSurroundings, *, max_tokens: int | None = None) -> Writer:
        model = open_local(self.model or surroundings.model_path, surroundings.scoring)
        longest = max_tokens or self.max_tokens
        check_room(model, longest)
        return LocalWriter(model=model, max_tokens=longest, temperature=self.temperature, seed=self.seed, tokens=self.tokens)

    def _prompts(self) -> JudgePrompts:
        return JudgePrompts(
            asks=self.asks,
            system=self.system,
            template=self.template,
            lowest=self.lowest,
            highest=self.highest,
            comparisons=self.comparisons,
        )
