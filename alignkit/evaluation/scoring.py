"""Scores of the candidates of questions, all of them out of one forward pass a model.

C candidates   N tokens of candidates   R rows   T tokens a row   D hidden width
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from alignkit.batches import PackedBatch
from alignkit.data.collate import micro_batches
from alignkit.data.packing import Packing
from alignkit.data.question_encoding import EncodedQuestion, numbered
from alignkit.evaluation_settings import IMPLICIT, LOGP_CHARACTERS, LOGP_MEAN, LOGP_SUM, LOGPS
from alignkit.logps import completion_sums
from alignkit.models.backbone import Backbone
from alignkit.models.heads import Heads
from alignkit.models.terminal_states import head_inputs
from alignkit.scorers.answer_tokens import on_device
from alignkit.scorers.normalization import UNCHANGED, Normalization

OTHER = ""
"""In the place of a name, a scorer that is no part of the model and scores alone."""
CHUNK = 256
"""Questions whose examples are cut into batches together."""

Columns = Mapping[str, Tensor]
"""[C] float32 on the CPU, by scorer."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredQuestion:
    """One question as the scorers see it."""

    key: int
    """As `EncodedQuestion.key`."""
    scores: Mapping[str, tuple[float, ...]]
    """K numbers, by scorer."""
    lengths: tuple[int, ...]
    """K tokens that log-probs were asked of."""

    def by(self, scorer: str) -> tuple[float, ...]:
        """K scores of one scorer."""
        return self.scores[scorer] if scorer in self.scores else self.scores[OTHER]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionScorer:
    """A language model with its heads, and the model that its log-probs are measured against where there is one."""

    backbone: Backbone
    heads: Heads
    """Empty for none."""
    packing: Packing
    device: torch.device
    normalizations: Mapping[str, Normalization]
    """Of heads that store one."""
    reference: tuple[Backbone, Packing] | None = None
    beta: float = 1.0
    """Strength of the implicit reward, where there is a reference."""

    @property
    def names(self) -> tuple[str, ...]:
        """Who scores."""
        return (*LOGPS, *self.heads, *([IMPLICIT] if self.reference is not None else []))

    def __call__(self, questions: Sequence[EncodedQuestion], progress: Callable[[int], None] | None = None) -> Iterator[ScoredQuestion]:
        """Scores of the questions, in their order; `progress` is told how many are done."""
        for start in range(0, len(questions), CHUNK):
            chunk = questions[start : start + CHUNK]
            yield from self._scored(chunk)
            if progress is not None:
                progress(start + len(chunk))

    @torch.no_grad()
    def _scored(self, questions: Sequence[EncodedQuestion]) -> Iterator[ScoredQuestion]:
        spans = torch.tensor([span for question in questions for span in question.spans])  # [C, 2]
        characters = torch.tensor([count for question in questions for count in question.characters])
        columns = dict(self._columns(questions, self.packing, spans, self._read))
        lengths = spans[:, 1] - spans[:, 0]
        columns |= {LOGP_MEAN: columns[LOGP_SUM] / lengths, LOGP_CHARACTERS: columns[LOGP_SUM] / characters}
        if self.reference is not None:
            model, packing = self.reference
            theirs = self._columns(questions, packing, spans, lambda batch, counted: {LOGP_SUM: _sums(model, batch, counted)})
            columns[IMPLICIT] = self.beta * (columns[LOGP_SUM] - theirs[LOGP_SUM])
        first = 0
        for question in questions:
            places = slice(first, first + len(question.spans))
            scores = {name: tuple(columns[name][places].tolist()) for name in self.names}
            yield ScoredQuestion(key=question.key, scores=scores, lengths=tuple(lengths[places].tolist()))
            first = places.stop

    def _columns(
        self,
        questions: Sequence[EncodedQuestion],
        packing: Packing,
        spans: Tensor,
        read: Callable[[PackedBatch, Tensor], Columns],
    ) -> Columns:
        examples, _ = numbered(questions)
        firsts, first = {}, 0
        for example in examples:
            firsts[example.key] = first
            first += len(example.completion_ids)
        found: dict[str, Tensor] = {}
        for batch in micro_batches(examples, packing):
            # Where the completions of the batch stand among all candidates.
            places = torch.cat(
                [firsts[key] + torch.arange(count) for key, count in zip(batch.example_keys, batch.completion_counts, strict=True)]
            )
            counted = _counted(batch, spans[places])
            for name, values in read(on_device(batch, self.device), counted.to(self.device)).items():
                found.setdefault(name, torch.empty(first))[places] = values.to("cpu", torch.float32)
        return found

    def _read(self, batch: PackedBatch, counted: Tensor) -> Columns:
        layers = tuple(sorted({*self.heads.layers, -1}))
        hidden = self.backbone.hidden_layers(batch, layers)
        logps = self.backbone.token_scores(hidden[layers.index(-1)], batch).logps
        columns = {LOGP_SUM: completion_sums(logps * counted, batch.completion_index, batch.completions)}
        if len(self.heads):
            inputs = head_inputs(hidden, layers, batch, with_tokens=self.heads.attend)
            for name in self.heads:
                columns[name] = self.normalizations.get(name, UNCHANGED)(self.heads.scores_of(name, inputs))
        return columns


def _sums(model: Backbone, batch: PackedBatch, counted: Tensor) -> Tensor:
    logps = model.token_scores(model.hidden_states(batch), batch).logps
    return completion_sums(logps * counted, batch.completion_index, batch.completions)


def _counted(batch: PackedBatch, spans: Tensor) -> Tensor:
    """[N] bool, whether each completion token lies in the span of its completion; `spans` is [c, 2]."""
    starts = torch.zeros(batch.completions, dtype=torch.int64)
    counts = torch.bincount(batch.completion_index, minlength=batch.completions)
    starts[1:] = counts.cumsum(0)[:-1]
    places = torch.arange(len(batch.completion_index)) - starts[batch.completion_index]
    own = spans[batch.completion_index]
    return (places >= own[:, 0]) & (places < own[:, 1])
