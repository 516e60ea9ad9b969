"""What each held-out pair is worth to the policy or its head, at the newest validation: means hide which pairs are ordered wrongly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from alignkit.batches import PackedBatch
from alignkit.data.examples import EncodedExample
from alignkit.metrics import CHOSEN_REWARDS, IMPLICIT_CHOSEN_REWARDS, IMPLICIT_REJECTED_REWARDS, REJECTED_REWARDS
from alignkit.modules.stepping import SteppingModule
from alignkit.ranks import gather, is_first
from alignkit.run_dir import RunDir, Scalar

MOST_PAIRS = 2000
"""Held-out pairs that are kept, the first ones, with their texts."""
SIDES = ((CHOSEN_REWARDS, REJECTED_REWARDS), (IMPLICIT_CHOSEN_REWARDS, IMPLICIT_REJECTED_REWARDS))
"""Rewards of heads, or of the policy where there is no head; of the policy beside a head."""


@final
class HeldOutPairs(Callback):
    """Writes `pairs.jsonl` at each validation in place of the last one's: a row a pair with its texts, their tokens and rewards.

    Of a ranking the pair is its best and its worst completion. Nothing is written unless each of the pairs has rewards: not by objectives
    that have none, or that read a part of a mixture, nor where a best or a worst completion is tied.
    """

    def __init__(self, run: RunDir, examples: Sequence[EncodedExample], tokenizer: PreTrainedTokenizerBase) -> None:
        self._run = run
        self._examples = {example.key: example for example in examples[:MOST_PAIRS]}
        self._tokenizer = tokenizer
        self._rewards: dict[int, dict[str, float]] = {}
        self._texts: dict[int, dict[str, Scalar]] = {}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: PackedBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        places = best_and_worst(batch)
        metrics: Mapping[str, Tensor] = outputs
        known = [names for names in SIDES if all(name in metrics and len(metrics[name]) == batch.examples for name in names)]
        if places is None or not known:
            return
        values = {name: metrics[name].tolist() for names in known for name in names}
        for number, key in enumerate(batch.example_keys):
            if key in self._examples:
                self._rewards[key] = {name: own[number] for name, own in values.items()}
                if key not in self._texts:  # the same at each validation
                    self._texts[key] = self._described(self._examples[key], *places[number])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SteppingModule)
        step: dict[str, Scalar] = {"step": pl_module.steps_done}
        rows = {key: {**step, **self._texts[key], **rewards} for key, rewards in self._rewards.items()}
        self._rewards = {}
        everywhere = {key: row for part in gather(rows) for key, row in part.items()}
        if everywhere and everywhere.keys() == self._examples.keys() and is_first():
            self._run.rewrite_pairs(everywhere[key] for key in sorted(everywhere))

    def _described(self, example: EncodedExample, best: int, worst: int) -> dict[str, Scalar]:
        chosen, rejected = example.completion_ids[best], example.completion_ids[worst]
        return {
            "prompt": self._text(example.prompt_ids),
            "chosen": self._text(chosen),
            "rejected": self._text(rejected),
            "chosen_tokens": len(chosen),
            "rejected_tokens": len(rejected),
        }

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


def best_and_worst(batch: PackedBatch) -> list[tuple[int, int]] | None:
    """Of each example the places of its best and its worst completion; None unless every example has exactly one of either, and the best
    is desirable while the worst is not."""
    places = []
    start = 0
    for count in batch.completion_counts:
        ranks, desirable = batch.ranks[start : start + count], batch.desirable[start : start + count]
        start += count
        if ranks.count(0) != 1 or ranks.count(max(ranks)) != 1 or max(ranks) == 0:
            return None
        best, worst = ranks.index(0), ranks.index(max(ranks))
        if not desirable[best] or desirable[worst]:
            return None
        places.append((best, worst))
    return places
