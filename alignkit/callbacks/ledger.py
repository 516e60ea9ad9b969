"""The ledger: what each training pair is worth to the policy or its head, each time before it is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from alignkit.batches import PackedBatch
from alignkit.callbacks.held_out_pairs import best_and_worst
from alignkit.callbacks.interruption import Stopped
from alignkit.data.examples import EncodedExample
from alignkit.data.measured import source_counts
from alignkit.errors import DivergedError, UserError
from alignkit.ledger_file import MOST_SOURCES, LedgerFile, Records, record_type
from alignkit.metrics import CHOSEN_REWARDS, IMPLICIT_CHOSEN_REWARDS, IMPLICIT_REJECTED_REWARDS, REJECTED_REWARDS
from alignkit.modules.alignment import AlignmentModule
from alignkit.modules.objective import Evaluation, Objective
from alignkit.modules.term import Term, TermOutput
from alignkit.ranks import gather, is_first, ranks

HEAD = (CHOSEN_REWARDS, REJECTED_REWARDS)
POLICY = (IMPLICIT_CHOSEN_REWARDS, IMPLICIT_REJECTED_REWARDS)
"""Names of the rewards whose differences are margins, as terms say them."""
COLUMNS = 3
"""Of what is kept of a pair on the device: margin of a head, margin of the policy, loss."""


@final
class Ledger(Callback):
    """Writes `ledger/`: a record a training pair and visit, see `record_type`.

    Reads what the step computes anyway, and changes nothing of it. Numbers stay on the device until a checkpoint, a validation or the end
    of training, where all ranks hand theirs to the first. Before each checkpoint the file holds every visit up to it, and a run that goes
    back forgets the later ones: none is lost or there twice. Has to come before whatever saves checkpoints or ends training.
    """

    def __init__(self, file: LedgerFile, objective: Objective, examples: Sequence[EncodedExample], *, steps_per_epoch: int) -> None:
        """Raises UserError when a mixture has too many parts."""
        sources = sorted(source_counts(examples))
        if len(sources) > MOST_SOURCES:
            raise UserError(f"callbacks.ledger = true with {len(sources)} parts of a mixture; it tells {MOST_SOURCES} apart. Leave it out.")
        self._file = file
        self._kind = record_type(implicit={CHOSEN_REWARDS, IMPLICIT_CHOSEN_REWARDS} <= objective.reward_names)
        self._sources = {source: number for number, source in enumerate(sources)}
        self._steps_per_epoch = steps_per_epoch
        self._objective = objective
        self._seen: list[tuple[PackedBatch, Tensor]] = []
        """Of the step that is being made."""
        self._kept: list[tuple[Records, Tensor]] = []
        """Of steps since the last flush: what is known without the device, and what lies on it."""
        self._waiting: list[Records] = []
        """What the disk refused."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, AlignmentModule)
        # A run that went back has forgotten what it wrote of later steps, and must forget what it had yet to write.
        self._seen, self._kept, self._waiting = [], [], []
        pl_module.on_evaluated = self.look
        if is_first():
            self._attempt(lambda: self._file.begin(implicit="implicit" in (self._kind.names or ()), sources=list(self._sources)))

    def look(self, batch: PackedBatch, evaluation: Evaluation) -> None:
        """Take in a micro-batch of the step that is being made."""
        self._seen.append((batch, visit_values(self._objective, batch, evaluation)))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._seen = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, AlignmentModule)
        seen, self._seen = self._seen, []
        if not pl_module.step_taken:
            return
        epoch = (pl_module.steps_done - 1 + pl_module.guard.left_out) // self._steps_per_epoch
        for micro_batch, values in seen:
            records = np.zeros(micro_batch.examples, self._kind)
            records["key"], records["step"], records["epoch"] = micro_batch.example_keys, pl_module.steps_done, epoch
            records["source"] = [self._sources[source] for source in micro_batch.sources]
            self._kept.append((records, values))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.flush()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.flush()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.flush()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # Of other exceptions the other ranks may know nothing.
        if ranks() == 1 or isinstance(exception, DivergedError | Stopped):
            self.flush()

    def flush(self) -> None:
        """Write the visits of all ranks since the last time; all ranks call it together."""
        kept, self._kept = self._kept, []
        own = self._records(kept)
        everyone = np.concatenate(gather(own))
        if not is_first() or not (len(everyone) or self._waiting):
            return
        everyone = everyone[np.lexsort((everyone["key"], everyone["step"]))]
        self._waiting.append(everyone)
        records = np.concatenate(self._waiting)
        if self._attempt(lambda: self._file.append(records)):
            self._waiting = []

    def _records(self, kept: Sequence[tuple[Records, Tensor]]) -> Records:
        if not kept:
            return np.zeros(0, self._kind)
        records = np.concatenate([known for known, _ in kept])
        head, policy, loss = torch.cat([values for _, values in kept]).cpu().numpy().T
        if "implicit" in (self._kind.names or ()):
            records["implicit"] = policy
        records["margin"], records["loss"] = np.where(np.isnan(head), policy, head), loss
        return records

    def _attempt(self, write: Any) -> bool:
        """No disk that is full ends a training."""
        try:
            write()
        except OSError as error:
            if not self._waiting or len(self._waiting) == 1:
                print(f"ledger: {self._file.folder} cannot be written ({error.strerror or error}). Training goes on.", flush=True)
            return False
        return True


def visit_values(objective: Objective, batch: PackedBatch, evaluation: Evaluation) -> Tensor:
    """[E, 3] float32 of a micro-batch: margin of a head, margin of the policy, weighted loss; NaN where an example has none.

    Waits for no device. Of several terms with margins of a kind the first one's is taken; losses are added up.
    """
    values = torch.full((batch.examples, COLUMNS), float("nan"), device=batch.input_ids.device)
    for term in objective.terms:
        mine = [place for place, source in enumerate(batch.sources) if term.place.source in (None, source)]
        if not mine:
            continue
        everyone = len(mine) == batch.examples
        places: Any = slice(None) if everyone else torch.tensor(mine, device=values.device)
        output = evaluation.outputs[term.place.name]
        for column, names in enumerate((HEAD, POLICY)):
            margins = margins_of(output.metrics, names, batch, len(mine))
            if margins is not None:
                before = values[places, column]
                values[places, column] = torch.where(before.isnan(), margins, before)
        losses = losses_of(term, output, batch, mine)
        if losses is not None:
            values[places, 2] = values[places, 2].nan_to_num(nan=0.0) + term.place.weight * losses
    return values


def margins_of(metrics: Mapping[str, Tensor], names: tuple[str, str], batch: PackedBatch, count: int) -> Tensor | None:
    """[count] reward of the best less that of the worst completion; None unless every example has one of either."""
    chosen, rejected = (metrics.get(name) for name in names)
    if chosen is None or rejected is None or not len(chosen) == len(rejected) == count or best_and_worst(batch) is None:
        return None
    return (chosen - rejected).detach().float()


def losses_of(term: Term[Any], output: TermOutput, batch: PackedBatch, mine: Sequence[int]) -> Tensor | None:
    """[E'] the loss of each example that a term reads, the mean over its completions where they have losses; None of losses of tokens."""
    losses = output.losses.detach().float()
    if term.unit == "examples" and len(losses) == len(mine):
        return losses
    counts = torch.tensor([batch.completion_counts[place] for place in mine], device=losses.device)
    if term.unit == "completions" and len(losses) == sum(batch.completion_counts[place] for place in mine):
        owners = torch.repeat_interleave(torch.arange(len(mine), device=losses.device), counts, output_size=len(losses))
        return losses.new_zeros(len(mine)).index_add(0, owners, losses) / counts
    return None
