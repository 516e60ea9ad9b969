"""The data modules: encoded examples as steps for training and as batches for validation; or their prompts alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import final

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from alignkit.batches import PackedBatch, StepBatch
from alignkit.data.collate import empty_batch, micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.data.prompts import PromptBatch, PromptSteps
from alignkit.data.steps import Steps


@final
class PreferenceDataModule(LightningDataModule):
    """Serves every objective on given completions: what they read of an example differs, how it is laid out does not."""

    def __init__(
        self,
        *,
        train: Sequence[EncodedExample],
        validation: Sequence[EncodedExample],
        pairs: int,
        packing: Packing,
        steps: int,
        seed: int,
        mismatched: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        super().__init__()
        self.steps = Steps(train, pairs=pairs, steps=steps, seed=seed, packing=packing, rank=rank, ranks=ranks, mismatched=mismatched)
        self.validation_batches = micro_batches(validation, packing)
        """Of all ranks, which are cut as one process cuts them."""
        self.steps_done = 0
        """Steps that a run has made before it was resumed: the loader goes on from there."""
        self.left_out: Callable[[], int] = lambda: 0
        """Batches that the run has left out until then."""

    def train_dataloader(self) -> DataLoader[StepBatch]:
        return DataLoader(self.steps, batch_size=None, sampler=Onward(len(self.steps), self.steps_done, self.left_out()))

    def val_dataloader(self) -> DataLoader[PackedBatch]:
        steps, batches = self.steps, self.validation_batches
        batches = [*batches, *(empty_batch(steps.packing) for _ in range(-len(batches) % steps.ranks))]
        return DataLoader(batches[steps.rank :: steps.ranks], batch_size=None, shuffle=False)  # type: ignore[arg-type]


@final
class PromptDataModule(LightningDataModule):
    """Serves objectives that answer prompts themselves."""

    def __init__(self, steps: Steps, *, validation: Sequence[EncodedExample]) -> None:
        super().__init__()
        self.steps = steps
        self.validation_prompts = [PromptBatch(0, validation)]
        self.steps_done = 0
        self.left_out: Callable[[], int] = lambda: 0
        """Both as in `PreferenceDataModule`."""

    def train_dataloader(self) -> DataLoader[PromptBatch]:
        return DataLoader(PromptSteps(self.steps), batch_size=None, sampler=Onward(len(self.steps), self.steps_done, self.left_out()))

    def val_dataloader(self) -> DataLoader[PromptBatch]:
        return DataLoader(self.validation_prompts, batch_size=None, shuffle=False)  # type: ignore[arg-type]


@final
class Onward(Sampler[int]):
    """Batches in order, without those that a run read before it was resumed, or left out. Its length is that of the whole run: Lightning
    counts on."""

    def __init__(self, steps: int, steps_done: int, left_out: int = 0) -> None:
        self._steps = steps
        self._steps_done = steps_done
        self._left_out = left_out

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._steps_done + self._left_out, self._steps + self._left_out))
