"""One micro-batch under the models of a run: whatever the terms of an objective read of it is computed once.

B pairs   E examples   C completions   N completion tokens   D hidden width
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from alignkit.batches import PackedBatch
from alignkit.logps import TokenScores, completion_lengths, completion_sums
from alignkit.losses.families import DivergenceLoss
from alignkit.losses.outputs import CompletionLogps, PairLogps, PairRewards, Ranking
from alignkit.models.backbone import Backbone
from alignkit.models.heads import Heads
from alignkit.models.reference import AdapterOffReference, LiveReference, MovingReference, Reference
from alignkit.models.terminal_states import HeadInputs, TerminalStates, head_inputs, terminal_states


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The models that a module trains or measures against."""

    backbone: Backbone
    heads: Heads
    """Empty where the objective reads none."""
    reference: Reference | None
    """Frozen; None where the objective needs none."""
    states: TerminalStates | None = None
    """What heads read of a frozen trunk that is not run; None runs it."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which examples of a batch a term reads."""

    examples: tuple[int, ...]
    """E' of 0..E-1, in order."""
    places: tuple[int, ...]
    """C' of 0..C-1: their completions, in order."""
    completions: Tensor
    """[C'] int64: the same, on the device."""
    first: Tensor
    """[E'] int64: each one's first completion, the chosen or best one."""
    last: Tensor
    """[E'] int64: each one's last completion, the rejected or worst one of a pair or a ranking."""
    ranking: Ranking
    """Of the selected completions."""


@final
class Forward:
    """Lazy: the trunk runs when the first term asks for something of it, and never twice."""

    def __init__(self, parts: Parts, batch: PackedBatch) -> None:
        self.parts = parts
        self.batch = batch
        self._scores: dict[str, Tensor] = {}
        self._selections: dict[str | None, Selection] = {}

    @property
    def hidden(self) -> Tensor:
        """[R * T, D], after the final norm."""
        return self._hidden[-1]

    @cached_property
    def _hidden(self) -> list[Tensor]:
        # Those layers that heads read, and the last.
        return self.parts.backbone.hidden_layers(self.batch, (*self.parts.heads.layers, -1))

    @cached_property
    def token_scores(self) -> TokenScores:
        """The policy's view of each completion token [N]."""
        return self.parts.backbone.token_scores(self.hidden, self.batch)

    @cached_property
    def reference_logps(self) -> Tensor:
        """[N] nats, of each completion token under the reference, without gradient."""
        assert self.parts.reference is not None
        return self.parts.reference.token_logps(self.batch)

    @cached_property
    def tokens(self) -> Tensor:
        """[C] int64, tokens of each completion."""
        return completion_lengths(self.batch.completion_index, self.batch.completions)

    @cached_property
    def policy(self) -> CompletionLogps:
        """[C] sums of the policy's log-probs."""
        return self._completions(self.token_scores.logps)

    @cached_property
    def reference(self) -> CompletionLogps:
        """[C] sums of the reference's log-probs."""
        return self._completions(self.reference_logps)

    @cached_property
    def terminal_states(self) -> Tensor:
        """[C, D] where completions end."""
        if self.parts.states is not None:
            return self.parts.states(self.batch)
        return terminal_states(self.hidden, self.batch)

    @property
    def prompt_states(self) -> Tensor:
        """[E, D] where prompts end."""
        return self.hidden.index_select(0, self.batch.prompt_index)

    def scores(self, head: str) -> Tensor:
        """[C] float32, what a head says of each completion."""
        if head not in self._scores:
            heads = self.parts.heads
            if heads.head(head).settings.reads_terminal_states:
                self._scores[head] = heads.scores(head, self.terminal_states)
            else:
                self._scores[head] = heads.scores_of(head, self._head_inputs)
        return self._scores[head]

    @cached_property
    def _head_inputs(self) -> HeadInputs:
        heads = self.parts.heads
        return head_inputs(self._hidden[:-1], heads.layers, self.batch, with_tokens=heads.attend)

    def divergences(self, loss: DivergenceLoss) -> Tensor:
        """[N] nats between policy and reference over the vocabulary. The reference runs: log-probs of single tokens are not enough."""
        reference = self.parts.reference
        assert isinstance(reference, LiveReference | AdapterOffReference | MovingReference)
        frozen, hidden = reference.hidden_states(self.batch)
        with torch.no_grad():
            said = frozen.vocabulary(hidden, self.batch)
        return self.parts.backbone.token_divergences(self.hidden, self.batch, said, loss)

    def select(self, source: str | None) -> Selection:
        """The examples of one data set of a mixture; None selects all."""
        if source not in self._selections:
            self._selections[source] = self._select(source)
        return self._selections[source]

    def pairs(self, logps: CompletionLogps, selection: Selection) -> PairLogps:
        """Best and worst completion of each selected example, with the data's rating gaps."""
        first, last = selection.first, selection.last
        return PairLogps(
            chosen=logps.logps[first],
            rejected=logps.logps[last],
            chosen_tokens=logps.tokens[first],
            rejected_tokens=logps.tokens[last],
            margins=self._margins(selection, logps.logps),
        )

    def pair_rewards(self, head: str, selection: Selection) -> PairRewards:
        """A head's scores of best and worst completion of each selected example, with the data's rating gaps."""
        scores = self.scores(head)
        return PairRewards(chosen=scores[selection.first], rejected=scores[selection.last], margins=self._margins(selection, scores))

    def _margins(self, selection: Selection, like: Tensor) -> Tensor:
        return torch.tensor([self.batch.margins[example] for example in selection.examples], dtype=torch.float32, device=like.device)

    def _completions(self, token_logps: Tensor) -> CompletionLogps:
        sums = completion_sums(token_logps, self.batch.completion_index, self.batch.completions)
        return CompletionLogps(logps=sums, tokens=self.tokens)

    def _select(self, source: str | None) -> Selection:
        # Counted in Python: an index by mask would wait for the device.
        batch = self.batch
        examples: list[int] = []
        completions: list[int] = []
        owners: list[int] = []
        first: list[int] = []
        last: list[int] = []
        place = 0
        for example, count in enumerate(batch.completion_counts):
            if source is None or batch.sources[example] == source:
                first.append(place)
                last.append(place + count - 1)
                completions += range(place, place + count)
                owners += [len(examples)] * count
                examples.append(example)
            place += count

        def index(numbers: list[int]) -> Tensor:
            return torch.tensor(numbers, dtype=torch.int64, device=batch.input_ids.device)

        ranks = index([batch.ranks[completion] for completion in completions])
        return Selection(
            examples=tuple(examples),
            places=tuple(completions),
            completions=index(completions),
            first=index(first),
            last=index(last),
            ranking=Ranking(example_index=index(owners), ranks=ranks, examples=len(examples)),
        )
