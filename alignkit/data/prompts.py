"""Prompts to be answered, update by update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch.utils.data import Dataset

from alignkit.data.examples import EncodedExample
from alignkit.data.steps import Steps


@final
class PromptBatch:
    """The prompts of one update, with the data's own completions. No dataclass: Lightning would take it apart."""

    def __init__(self, step: int, examples: Sequence[EncodedExample]) -> None:
        self.step = step
        """Updates before this one."""
        self.examples = tuple(examples)


@final
class PromptSteps(Dataset[PromptBatch]):
    """The global batches of `Steps`, as prompts: which ones update k answers depends on the seed and k alone."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> PromptBatch:
        if not 0 <= step < len(self.steps) + self.steps.spare:
            raise IndexError(step)
        return PromptBatch(step, [self.steps.examples[index] for index in self.steps.global_batch(step)])
