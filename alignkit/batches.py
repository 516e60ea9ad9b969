"""The one batch layout of every objective: packed rows in which completions share their prompt.

    R rows   T tokens a row   E examples   C completions   N completion tokens

An example is a prompt and K completions (K = 1 for supervised fine-tuning, 2 for a pair). The prompt stands once; each
completion sees its prompt and itself, never its sibling. One row with one pair, prompt `p0 p1`, completions `a0 a1` and `b0`:

    input_ids    p0 p1 a0 a1 b0
    position_ids  0  1  2  3  2      every completion continues from its prompt
    branch_ids    0  0  1  1  2      0 is the prompt
    predictor_index  1  2  1         p1 predicts a0, a0 predicts a1, p1 predicts b0
    target_ids      a0 a1 b0
    completion_index 0  0  1
    terminal_index   3  4            where heads read
    prompt_index     1               the prompt's last token
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, final

from torch import Tensor

Layout = Literal["packed", "rows"]
Unit = Literal["examples", "completions", "chosen_tokens", "micro_batches"]
"""What losses are counted in: the mean over the global batch is taken over these."""


@final
@dataclass(kw_only=True, slots=True)
class PackedBatch:
    """A micro-batch: the examples that one forward pass computes.

    Holds no float tensor (bf16-true would round it) and is mutable (Lightning rebuilds it on the device).
    """

    input_ids: Tensor
    """[R, T] int64, 0 on padding."""
    position_ids: Tensor
    """[R, T] int64, restarts with each example; every completion continues from its prompt's length."""
    example_ids: Tensor
    """[R, T] int32, the example that owns the token, 0..E-1, -1 on padding."""
    branch_ids: Tensor
    """[R, T] int32, 0 for the prompt, k >= 1 for the example's k-th completion."""
    predictor_index: Tensor
    """[N] int64, flat position in [R*T] of the hidden state that predicts completion token n."""
    target_ids: Tensor
    """[N] int64, that token."""
    completion_index: Tensor
    """[N] int64, the completion, 0..C-1, that token n belongs to."""
    terminal_index: Tensor
    """[C] int64, flat position of each completion's last token: where heads read."""
    prompt_index: Tensor
    """[E] int64, flat position of each prompt's last token; in rows layout that of the example's first row."""
    example_index: Tensor
    """[C] int64, the example, 0..E-1, that each completion answers; ordered, chosen first or by rank."""
    example_keys: tuple[int, ...]
    """E positions among the loaded examples: for messages that name one, and to look up what is known of it. The tensors list
    completions and their tokens in this order."""
    completion_counts: tuple[int, ...]
    """E completions of each example, for selecting examples without waiting for the device."""
    margins: tuple[float, ...]
    """E rating gaps between chosen and rejected, or best and worst (annotator's units), 0 where the data has none."""
    ranks: tuple[int, ...]
    """C ranks among the completions of an example: 0 is best, equal is a tie. Without feedback 0, 1, 2, ..."""
    desirable: tuple[bool, ...]
    """C labels: whether a person would want the completion. Without feedback True for the first of an example, False for the rest."""
    ratings: dict[str, tuple[float, ...]]
    """For each attribute that one of the examples has, C ratings (annotator's units, higher is better), NaN where there is none."""
    sources: tuple[str, ...]
    """E names of the parts of a mixture; empty texts outside of mixtures."""
    layout: Layout
    """`packed`: several examples a row, prompts shared. `rows`: one prompt with one completion a row."""

    @property
    def examples(self) -> int:
        return len(self.example_keys)

    @property
    def completions(self) -> int:
        return self.terminal_index.numel()

    def ratings_of(self, attribute: str) -> tuple[float, ...]:
        """C ratings of one attribute, NaN where nobody rated it."""
        return self.ratings.get(attribute, (math.nan,) * self.completions)

    @property
    def completion_tokens(self) -> int:
        return self.target_ids.numel()


@final
class Counts(NamedTuple):
    """How much there is of something. A tuple with names, because Lightning rebuilds it."""

    examples: int
    completions: int
    chosen_tokens: int
    """Of the first completion of each example."""


@final
@dataclass(kw_only=True, slots=True)
class StepBatch:
    """What the data loader yields: this rank's share of one optimiser step, cut into micro-batches bounded by tokens.

    The counts are those of the whole global batch, so that a mean over micro-batches and ranks is the mean over the batch.
    """

    micro_batches: list[PackedBatch]
    """This rank's part."""
    global_counts: dict[str, Counts]
    """Of the global batch, by source: one entry, named by the empty text, outside of mixtures."""
    tokens: int
    """Prompt and completion tokens of the whole global batch, each prompt once: the work there is."""
    filled: int
    """Positions of `micro_batches` that hold a token, a prompt as often as it is computed: the work that is done."""
    mismatched: list[PackedBatch]
    """This rank's part of the examples that join each prompt of the global batch to the completions of the next: for the KL baseline
    of KTO. Empty for objectives that ask for none, and where the global batch is a single example."""
    ranks: int = 1
    """Shares that the global batch is cut into; all have as many micro-batches."""

    def count(self, unit: Unit, source: str | None) -> int:
        """How many there are in the global batch, of one source or of all."""
        if unit == "micro_batches":
            return len(self.micro_batches) * self.ranks
        of = self.global_counts.values() if source is None else [self.global_counts[source]] if source in self.global_counts else []
        return sum(getattr(counts, unit) for counts in of)
