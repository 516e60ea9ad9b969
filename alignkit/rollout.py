"""A rollout: samples of the policy and what was known of them when they were drawn. Ragged, never padded, without logits.

E prompts   C completions   N sampled tokens
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, final

import torch
from torch import Tensor

from alignkit.batches import PackedBatch
from alignkit.data.examples import EncodedExample
from alignkit.logps import completion_sums
from alignkit.losses.rollout_outputs import ScoredRollout

TENSORS = ("sampled_logps", "scores", "logps", "reference_logps", "values")
"""Fields of a rollout beside its examples."""


@final
@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Flat tensors on the CPU, in the order of `examples`, their completions and their tokens.

    Two samples of one prompt, three tokens and one: `Rollout(examples=(EncodedExample(key=0, prompt_ids=(5, 6), completion_ids=((7, 8, 2),
    (9,))),), sampled_logps=[-1., -2., -.1, -3.], scores=[.8, .1], ...)`; the second one was cut, for it lacks the terminator 2.
    """

    examples: tuple[EncodedExample, ...]
    """E prompts with the completions that were sampled; keys differ."""
    sampled_logps: Tensor
    """[N] float32 nats, as the tokens were drawn."""
    scores: Tensor
    """[C] float32, what completions are worth before KL."""
    logps: Tensor
    """[N] float32 nats, of the policy before the update, through the code that trains it."""
    reference_logps: Tensor
    """[N] float32 nats."""
    values: Tensor | None
    """[N] float32, of the value head before the update; None where there is none."""

    @cached_property
    def completion_index(self) -> Tensor:
        """[N] int64, the completion, 0..C-1, of each token."""
        lengths = torch.tensor([len(ids) for example in self.examples for ids in example.completion_ids])
        return torch.arange(len(lengths)).repeat_interleave(lengths)

    @cached_property
    def example_index(self) -> Tensor:
        """[C] int64, the prompt, 0..E-1, of each completion."""
        counts = torch.tensor([len(example.completion_ids) for example in self.examples])
        return torch.arange(len(counts)).repeat_interleave(counts)

    @cached_property
    def kl(self) -> Tensor:
        """[C] nats, the sum of log(pi / ref) over each completion."""
        return completion_sums(self.logps - self.reference_logps, self.completion_index, len(self.scores))

    def scored(self) -> ScoredRollout:
        """What advantages are made of."""
        return ScoredRollout(
            logps=self.logps,
            reference_logps=self.reference_logps,
            values=self.values,
            scores=self.scores,
            completion_index=self.completion_index,
            example_index=self.example_index,
        )

    def places(self, batch: PackedBatch) -> Tensor:
        """[N'] int64, where the tokens of a batch of some of the examples are in the flat tensors, in the batch's order."""
        return torch.cat([torch.arange(0), *(torch.arange(*self._spans[key]) for key in batch.example_keys)])

    def state(self) -> dict[str, Any]:
        """The same as plain tuples and tensors, for a checkpoint that is read without running what is in it."""
        examples = [(example.key, example.prompt_ids, example.completion_ids, example.source) for example in self.examples]
        return {"examples": examples, **{name: getattr(self, name) for name in TENSORS}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """What `state` was made of."""
        examples = tuple(
            EncodedExample(key=key, prompt_ids=prompt, completion_ids=completions, source=source)
            for key, prompt, completions, source in state["examples"]
        )
        return cls(examples=examples, **{name: state[name] for name in TENSORS})

    @cached_property
    def _spans(self) -> dict[int, tuple[int, int]]:
        spans, begin = {}, 0
        for example in self.examples:
            end = begin + sum(map(len, example.completion_ids))
            spans[example.key] = (begin, end)
            begin = end
        return spans


def in_order(examples: Sequence[EncodedExample], values: Sequence[tuple[Sequence[int], Tensor]]) -> Tensor:
    """Token values of batches, which hold the examples in any order, flat in the order of the examples: [N].

    `values`: of each batch the keys of its examples and the values [N'] of their tokens.
    """
    parts: dict[int, Tensor] = {}
    sizes = {example.key: sum(map(len, example.completion_ids)) for example in examples}
    for keys, of_batch in values:
        parts |= zip(keys, of_batch.split([sizes[key] for key in keys]), strict=True) if keys else ()
    return torch.cat([parts[example.key] for example in examples])


def joined(rollouts: Sequence[Rollout]) -> Rollout:
    """Rollouts one after the other as one; examples are numbered anew, so that keys differ."""
    examples = [example for rollout in rollouts for example in rollout.examples]

    values = [rollout.values for rollout in rollouts if rollout.values is not None]
    return Rollout(
        examples=tuple(replace(example, key=key) for key, example in enumerate(examples)),
        sampled_logps=torch.cat([rollout.sampled_logps for rollout in rollouts]),
        scores=torch.cat([rollout.scores for rollout in rollouts]),
        logps=torch.cat([rollout.logps for rollout in rollouts]),
        reference_logps=torch.cat([rollout.reference_logps for rollout in rollouts]),
        values=torch.cat(values) if values else None,
    )
