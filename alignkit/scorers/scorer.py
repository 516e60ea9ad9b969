"""A scorer says how good completions are: the reward of PPO, the ranker of best-of-N, a judge of samples.

E prompts   C completions

`scorer=vader` is the one public class of `alignkit/scorers/vader.py`, a frozen dataclass of its settings that checks itself. Those that
need no model derive from `TextScorer` and are ready as they are; those that do derive from `ModelScorer` and load it when a run opens
them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, final

import torch
from torch import Tensor

from alignkit.batches import PackedBatch
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing

if TYPE_CHECKING:  # seconds, which a mistake in the settings of a scorer should not wait for
    from transformers import PreTrainedTokenizerBase

    from alignkit.models.backbone import Backbone


@final
@dataclass(frozen=True, kw_only=True)
class Answers:
    """Completions to be scored, as tokens and as text.

    Two answers to one prompt: `Answers(examples=(EncodedExample(key=0, prompt_ids=(5, 6), completion_ids=((7, 2), (8,))),),
    prompts=("1+1?",), completions=(" 2", " 3"), terminator=2)`; the second one was cut.
    """

    examples: tuple[EncodedExample, ...]
    """E prompts with their completions, in the token ids of the model that wrote them."""
    prompts: tuple[str, ...]
    """E texts, without special tokens."""
    completions: tuple[str, ...]
    """C texts in the order of `examples`, without special tokens."""
    terminator: int
    """The token that ends a completion that was not cut."""

    @cached_property
    def example_index(self) -> tuple[int, ...]:
        """C places of the prompts, 0..E-1, that completions answer."""
        return tuple(place for place, example in enumerate(self.examples) for _ in example.completion_ids)

    @property
    def prompt_of_each(self) -> list[str]:
        """C texts: the prompt of each completion."""
        return [self.prompts[place] for place in self.example_index]

    @property
    def lengths(self) -> Tensor:
        """[C] int64, tokens of each completion, its terminator included."""
        return torch.tensor([len(ids) for example in self.examples for ids in example.completion_ids])

    @property
    def finished(self) -> Tensor:
        """[C] bool, whether a completion ends with its terminator."""
        return torch.tensor([ids[-1] == self.terminator for example in self.examples for ids in example.completion_ids])


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What a scorer says."""

    total: Tensor
    """[C] float32 on the CPU, higher is better."""
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    """[C] each, by name: the scores that `total` is made of, before their weights. Empty for a scorer without parts."""


class Scorer(Protocol):
    """Whoever scores."""

    def __call__(self, answers: Answers) -> Scores:
        """Scores of all completions. Under the run's precision, without gradient."""
        ...


class FrozenTrunk(Protocol):
    """A model of the run that stays as it is, such as its reference: what a scorer of the same weights reads instead of loading them."""

    def hidden_layers(self, batch: PackedBatch, layers: Sequence[int]) -> list[Tensor]:
        """[R * T, D] of each of `layers`, without gradient: see `Backbone.hidden_layers`."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a scorer that holds a model is opened in."""

    device: torch.device
    dtype: torch.dtype
    """Of weights."""
    attention: str
    """`model.attention` of the run."""
    packing: Callable[[Backbone], Packing]
    """How a model's examples are cut into micro-batches that are not trained on."""
    tokenizer: PreTrainedTokenizerBase
    """The one whose token ids `Answers` hold."""
    trunk: FrozenTrunk | None = None
    """A frozen model of the run, and None where there is none."""
    trunk_fingerprint: str | None = None
    """Of its weights: see `alignkit.models.reference.fingerprint`."""


class ScorerKind(ABC):
    """The settings of a scorer."""

    __slots__ = ()

    @abstractmethod
    def open(self, surroundings: Surroundings) -> Scorer:
        """The scorer, ready: whatever it needs is loaded.

        Raises:
            UserError: when it cannot be.
        """


class TextScorer(ScorerKind):
    """Scores from text alone."""

    __slots__ = ()

    @abstractmethod
    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """One number for each completion, higher is better.

        Args:
            prompts: C texts, the prompt of each completion.
            completions: C texts.
        """

    def open(self, surroundings: Surroundings) -> Scorer:
        return self

    def __call__(self, answers: Answers) -> Scores:
        return Scores(total=torch.tensor(self.score(answers.prompt_of_each, answers.completions), dtype=torch.float32))


class ModelScorer(ScorerKind):
    """Scores with a model that is loaded when a run opens the scorer."""

    __slots__ = ()
