"""The certificate: what must be true before the first update, checked on the first batch and kept with the results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from alignkit.batches import Layout, PackedBatch
from alignkit.data.collate import micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.errors import UserError
from alignkit.metrics import LOSS
from alignkit.models.backbone import Backbone
from alignkit.modules.alignment import AlignmentModule

PROBES = 2
"""Examples whose packed log-probs are compared with separate rows: what costs little and shows a leak at once."""
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8, torch.bfloat16: 0.25}
"""Nats a token: rounding of a deep model in that dtype, far below what a wrong mask or position does."""


@final
class Certificate(Callback):
    """Refuses to train on numbers that are wrong from the start. `results` holds what was measured.

    - policy and reference are one function: every loss in the first batch equals its closed form;
    - the forward pass is a function: no dropout in the trunk;
    - packed rows equal separate rows, and the vocabulary part equals the model's own logits;
    - every trained token belongs to a completion, once; a completion ends with one terminator or was cut.
    """

    def __init__(self, examples: Sequence[EncodedExample], *, terminator: int, reference_is_policy: bool) -> None:
        self._examples = examples
        self._terminator = terminator
        self._reference_is_policy = reference_is_policy
        self.results: dict[str, float | int] = {}

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, AlignmentModule)
        steps = trainer.datamodule.steps  # type: ignore[attr-defined]
        batch: PackedBatch = trainer.strategy.batch_to_device(steps[0].micro_batches[0])
        self.results["certificate/terminated_completions"] = check_targets(batch, self._terminator)
        with trainer.precision_plugin.forward_context():
            check_repeatable(pl_module.backbone, batch)
            self.results |= check_first_loss(pl_module, batch, self._reference_is_policy)
        probes = [self._examples[index] for index in steps.global_batch(0)[:PROBES]]
        with torch.autocast(pl_module.device.type, enabled=False):
            self.results |= check_layout(pl_module.backbone, probes, batch.layout)


def check_targets(batch: PackedBatch, terminator: int) -> int:
    """Completions that end with a terminator, after checking that just completion tokens are trained, each once.

    Raises:
        UserError: naming the first example that breaks a rule.
    """
    ids, owners = batch.input_ids.flatten(), batch.example_ids.flatten()
    in_completion = batch.branch_ids.flatten() > 0
    trained_owners = batch.example_index[batch.completion_index]
    for example, key in enumerate(batch.example_keys):
        there = ids[in_completion & (owners == example)].sort().values
        trained = batch.target_ids[trained_owners == example].sort().values
        if not torch.equal(there, trained):
            raise UserError(f"certificate: example {key} trains {len(trained)} tokens, not just the {len(there)} of its completions.")
    last = torch.ones_like(batch.completion_index, dtype=torch.bool)
    last[:-1] = batch.completion_index[1:] != batch.completion_index[:-1]
    early = ((batch.target_ids == terminator) & ~last).nonzero()
    if len(early):
        raise _refuse(batch, int(batch.completion_index[early[0, 0]]), "has its terminator before its end")
    wrong = (ids[batch.terminal_index] != batch.target_ids[last]).nonzero()
    if len(wrong):
        raise _refuse(batch, int(wrong[0, 0]), "is read by heads at another token than its last")
    return int((ids[batch.terminal_index] == terminator).sum())


def check_first_loss(module: AlignmentModule, batch: PackedBatch, reference_is_policy: bool) -> dict[str, float]:
    """The first batch's mean loss, which must be finite; with policy = reference, what has a closed form must have that value.

    Raises:
        UserError: naming the example that is furthest off.
    """
    objective = module.objective(batch)
    loss = float(objective.losses.mean())
    if not math.isfinite(loss):
        worst = int((~objective.losses.isfinite()).nonzero()[0, 0])
        raise UserError(f"certificate: the loss before the first update is {loss}, from example {_key(batch, objective.losses, worst)}.")
    results = {"certificate/first_loss": loss}
    expected = module.values_at_reference() if reference_is_policy else {}
    for name, value in expected.items():
        measured = {LOSS: objective.losses, **objective.metrics}[name]
        error = (measured - value).abs()
        if float(error.max()) > 1e-5 * max(1.0, value):
            worst = int(error.argmax())
            raise UserError(
                f"certificate: with policy = reference the {name} must be {value:.6f}, but example {_key(batch, measured, worst)} "
                f"has {float(measured[worst]):.6f}: policy and reference do not compute the same log-probs."
            )
        results[f"certificate/expected_first_{name}"] = value
    return results


def check_repeatable(backbone: Backbone, batch: PackedBatch) -> None:
    """Two forward passes are the same to the bit: nothing in the trunk draws random numbers."""
    if not torch.equal(backbone.hidden_states(batch), backbone.hidden_states(batch)):
        raise UserError("certificate: two forward passes of one batch differ, so something in the model is random (dropout?).")


def check_layout(backbone: Backbone, examples: Sequence[EncodedExample], layout: Layout) -> dict[str, float]:
    """Largest difference a token of the batch's log-probs to the model's own logits on separate sequences, nats.

    Raises:
        UserError: when it is more than rounding, naming the example.
    """
    tolerance = TOLERANCE[backbone.lm.dtype]
    # One row for all probes when packed, so that a leak between examples shows too.
    row_tokens = sum(example.packed_tokens for example in examples)
    (batch,) = micro_batches(examples, layout=layout, tokens=1 << 30, row_tokens=row_tokens)
    batch = move_data_to_device(batch, backbone.lm.device)
    ours = backbone.token_scores(backbone.hidden_states(batch), batch).logps
    by_key = {example.key: example for example in examples}
    worst, begin = 0.0, 0
    for key in batch.example_keys:
        plain = _plain_logps(backbone, by_key[key])
        error = float((ours[begin : begin + len(plain)] - plain).abs().max())
        worst, begin = max(worst, error), begin + len(plain)
        if not error <= tolerance:
            raise UserError(
                f"certificate: example {key} has log-probs that differ by {error:.3g} nats a token from the model's own "
                f"(layout {layout}; at most {tolerance:g} is rounding). The model does something beyond its mask and output "
                "embedding. " + ("Try batch.layout=rows." if layout == "packed" else "It cannot be trained here.")
            )
    return {"certificate/layout_error": worst}


def _plain_logps(backbone: Backbone, example: EncodedExample) -> Tensor:
    parts = []
    for completion in example.completion_ids:
        ids = torch.tensor([[*example.prompt_ids, *completion]], device=backbone.lm.device)
        logits = backbone.lm(input_ids=ids, use_cache=False).logits[0, len(example.prompt_ids) - 1 : -1]
        logps = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        parts.append(logps.gather(-1, ids[0, len(example.prompt_ids) :, None])[:, 0])
    return torch.cat(parts)


def _key(batch: PackedBatch, values: Tensor, place: int) -> int:
    """The example that value number `place` of [B] pairs or [N] tokens belongs to."""
    example = place if len(values) == batch.examples else int(batch.example_index[batch.completion_index[place]])
    return batch.example_keys[example]


def _refuse(batch: PackedBatch, completion: int, what: str) -> UserError:
    example = batch.example_keys[int(batch.example_index[completion])]
    return UserError(f"certificate: a completion of example {example} {what}.")
