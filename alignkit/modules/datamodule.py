"""The one data module: encoded examples as steps for training and as packed batches for validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from alignkit.batches import PackedBatch, StepBatch
from alignkit.data.collate import micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.data.steps import Steps


@final
class PreferenceDataModule(LightningDataModule):
    """Serves every objective: what they read of an example differs, how it is laid out does not."""

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
    ) -> None:
        super().__init__()
        self.steps = Steps(train, pairs=pairs, steps=steps, seed=seed, packing=packing, mismatched=mismatched)
        self.validation_batches = micro_batches(validation, packing)

    def train_dataloader(self) -> DataLoader[StepBatch]:
        return DataLoader(self.steps, batch_size=None, shuffle=False)

    def val_dataloader(self) -> DataLoader[PackedBatch]:
        return DataLoader(self.validation_batches, batch_size=None, shuffle=False)  # type: ignore[arg-type]
