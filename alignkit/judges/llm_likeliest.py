"""`judge=llm_likeliest`: a language model's choice among the verdicts, by how likely each is as the beginning of its reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import final

import torch

from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.packing import Packing
from alignkit.errors import UserError
from alignkit.judges.asking import COMPARE, AskingJudge, JudgePrompts
from alignkit.judges.judge import Judge, JudgeKind, JudgeSurroundings
from alignkit.judges.local_model import LocalModel, open_local
from alignkit.judges.reading import VERDICTS
from alignkit.judges.writer import Reply
from alignkit.scorers.answer_tokens import score_batches
from alignkit.scorers.own_model import summed_logps


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LlmLikeliest(JudgeKind):
    """A language model that is asked which of two answers is better, and writes nothing: the verdict is the one of A, B and C (a tie) for
    which

        log p(beginning + letter | question)        summed over tokens

    is highest. Both orders are asked. A forward pass for each question, and every reply is a verdict, which makes judges of models that
    are too small to follow a format; whether they judge well is another matter.
    """

    model: str | None
    """A folder, a run, a hub id or builtin:tiny; null is the model whose answers are judged."""
    system: str | None
    """This, `template` and `comparisons` are what `JudgePrompts` says."""
    template: str
    comparisons: int | None
    beginning: str
    """How every reply is taken to begin, before the letter."""
    ties: bool
    """Whether C is among the choices."""

    def __post_init__(self) -> None:
        self._prompts()
        if self.beginning != self.beginning.lstrip():
            raise UserError(f"judge.beginning = {self.beginning!r}; must not begin with white space, which replies do not either.")

    def open(self, surroundings: JudgeSurroundings) -> Judge:
        model = open_local(self.model or surroundings.model_path, surroundings.scoring)
        letters = tuple(VERDICTS) if self.ties else tuple(VERDICTS)[:2]
        chooser = _Chooser(
            model=model,
            replies={self.beginning + letter: letter for letter in letters},
            packing=surroundings.scoring.packing(model.backbone),
        )
        return AskingJudge(writer=chooser, prompts=self._prompts())

    def _prompts(self) -> JudgePrompts:
        return JudgePrompts(
            asks=COMPARE, system=self.system, template=self.template, lowest=None, highest=None, comparisons=self.comparisons
        )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class _Chooser:
    """A `Writer` whose reply is the likeliest of some."""

    model: LocalModel
    replies: dict[str, str]
    """What stands for each, by how its reply would begin."""
    packing: Packing

    @torch.no_grad()
    def __call__(self, questions: Sequence[tuple[Message, ...]]) -> list[Reply]:
        read = self.model.read(questions, tuple(self.replies), room=max(map(len, self.replies)))
        encoded = self.model.encoder.encode_all({place: one for place, one in enumerate(read) if isinstance(one, PreferenceExample)})
        # Without terminators: these are beginnings.
        begun = [replace(one, key=place, completion_ids=tuple(ids[:-1] for ids in one.completion_ids)) for place, one in enumerate(encoded)]
        logps = score_batches(begun, self.packing, self.model.backbone.lm.device, partial(summed_logps, self.model.backbone))
        chosen = logps.view(-1, len(self.replies)).argmax(-1).tolist()
        letters = tuple(self.replies.values())
        said = {one.key: letters[choice] for one, choice in zip(encoded, chosen, strict=True)}
        return [
            Reply(text=said[place], finished=True) if place in said else Reply(text="", finished=False, refused=str(one))
            for place, one in enumerate(read)
        ]
