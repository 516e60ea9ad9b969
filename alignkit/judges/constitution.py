"""`judge=constitution`: a language model that is asked which of two answers follows a principle better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from alignkit.data.examples import Message
from alignkit.errors import UserError, check_range
from alignkit.judges.asking import COMPARE, AskingJudge, JudgePrompts
from alignkit.judges.judge import Judge, JudgeKind, JudgeSurroundings
from alignkit.judges.principles import Principles, read_constitution
from alignkit.judges.writer import Writer, WritingJudgeKind

PRINCIPLE = "{principle}"
STANDING = "Which answer is better?"
"""In the place of a principle while a template is checked."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Constitution(WritingJudgeKind):
    """Comparison by principles: the feedback of reinforcement learning from AI feedback (Bai et al. 2022, arXiv:2212.08073, section 4.1).

    Of the answers to one prompt all comparisons are by one principle, which is a function of seed and prompt; both orders are asked. (The
    authors draw one for each comparison, and read the probabilities of two letters: that is `by={judge: llm_likeliest}`.)
    """

    file: str | None
    """Principles: see `read_constitution`; null is the packaged constitution."""
    by: JudgeKind
    """Who is asked: any judge that is a language model. What it asks by itself is not asked."""
    seed: int
    """Of the principles that are drawn, >= 0."""
    system: str | None
    """This and `template` are what `JudgePrompts` says; the template also has {principle}."""
    template: str
    comparisons: int | None

    def __post_init__(self) -> None:
        check_range("judge.seed", self.seed, low=0)
        if PRINCIPLE not in self.template:
            raise UserError("judge.template: has no {principle}; it must hold {prompt} {first} {second} {principle}.")
        self._prompts(STANDING)
        self._principles()

    def open(self, surroundings: JudgeSurroundings) -> Judge:
        judge = self.by.open(surroundings)
        if not isinstance(judge, AskingJudge):
            raise UserError(f"judge.by: {type(self.by).__name__} is no language model that can be asked. Type 'judge.by={{judge: llm}}'.")
        return AskingJudge(writer=judge.writer, prompts=_Principled(kind=self, principles=self._principles()))

    def open_writer(self, surroundings: JudgeSurroundings, *, max_tokens: int | None = None) -> Writer:
        if not isinstance(self.by, WritingJudgeKind):
            raise UserError(f"judge.by: {type(self.by).__name__} writes no critiques. Type 'judge.by={{judge: llm}}'.")
        return self.by.open_writer(surroundings, max_tokens=max_tokens)

    def asked_by(self, prompt: str | tuple[Message, ...], principles: Principles) -> JudgePrompts:
        """What is asked of the answers to a prompt."""
        return self._prompts(principles.drawn(prompt, self.seed, "comparison")[0].comparison)

    def _prompts(self, principle: str) -> JudgePrompts:
        return JudgePrompts(
            asks=COMPARE,
            system=self.system,
            template=self.template.replace(PRINCIPLE, principle),
            lowest=None,
            highest=None,
            comparisons=self.comparisons,
        )

    def _principles(self) -> Principles:
        return read_constitution("judge.file", self.file)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class _Principled:
    """The prompts of a judge by principles, prompt by prompt: see `PromptsByPrompt`."""

    kind: Constitution
    principles: Principles

    def of(self, prompt: str | tuple[Message, ...]) -> JudgePrompts:
        return self.kind.asked_by(prompt, self.principles)
