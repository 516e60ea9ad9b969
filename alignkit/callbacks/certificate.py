"""The certificate: what must be true before the first update, checked on the first batch and kept with the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from alignkit.batches import Layout, PackedBatch
from alignkit.data.collate import micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.errors import UserError
from alignkit.metrics import LOSS, TERM_LOSS
from alignkit.models.backbone import Backbone
from alignkit.models.flex_attention import BLOCK
from alignkit.models.reference import CachedReference
from alignkit.models.terminal_states import CachedStates, terminal_states
from alignkit.modules.alignment import AlignmentModule
from alignkit.modules.forward import Forward
from alignkit.modules.objective import Evaluation

PROBES = 2
"""Examples of the first step, its shortest, whose packed log-probs are compared with separate rows: what costs little and shows a leak at
once."""
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8, torch.bfloat16: 0.25}
"""Nats a token: rounding of a deep model in that dtype, far below what a wrong mask or position does."""
CACHE_TOLERANCE = {torch.float32: 3e-4, torch.float64: 3e-4, torch.bfloat16: 0.25}
"""Of an example's values that were computed in other batches, by the dtype of products: nats a token in the mean for log-probs, a
fraction of their size for hidden states. Log-probs are off by 3e-7 (float32) and 0.002 (bf16) with `model=tiny`, by 0.04 in bf16 with
30 layers; weights that are larger by a thousandth give 2e-3 in float32."""


@final
class Certificate(Callback):
    """Refuses to train on numbers that are wrong from the start. `results` holds what was measured.

    - policy and reference are one function: every loss in the first batch equals its closed form;
    - what was looked up is what the model says: log-probs of the reference, and hidden states of a frozen trunk;
    - the forward pass is a function: no dropout in the trunk;
    - packed rows equal separate rows, and the vocabulary part equals the model's own logits;
    - every trained token belongs to a completion, once; a completion ends with one terminator or was cut.
    """

    def __init__(self, examples: Sequence[EncodedExample], *, terminator: int, reference_is_policy: bool) -> None:
        self._examples = examples
        self._terminator = terminator
        self._reference_is_policy = reference_is_policy
        self.results: dict[str, float | int] = {}

    def state_dict(self) -> dict[str, float | int]:
        return self.results

    def load_state_dict(self, state_dict: dict[str, float | int]) -> None:
        self.results = state_dict

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.results:
            return  # of a run that is resumed, whose first update is long past
        assert isinstance(pl_module, AlignmentModule)
        steps = trainer.datamodule.steps  # type: ignore[attr-defined]
        batch: PackedBatch = trainer.strategy.batch_to_device(steps[0].micro_batches[0])
        self.results["certificate/terminated_completions"] = check_targets(batch, self._terminator)
        probes = shortest([self._examples[index] for index in steps.global_batch(0)])
        sample: PackedBatch = trainer.strategy.batch_to_device(micro_batches(probes, steps.packing)[0])
        # The dropout of adapters is the user's, and follows this flag; nothing else may be random, whatever its own flag says.
        backbone = pl_module.backbone
        backbone.training, training = False, backbone.training
        with pl_module.whole_models(), trainer.precision_plugin.forward_context():
            hidden = check_repeatable(backbone, sample)
            self.results |= check_cached_states(pl_module, hidden, sample)
            forward = pl_module.forward_of(batch)
            looked_up = self._reference_is_policy and isinstance(pl_module.reference, CachedReference)
            if looked_up:
                self.results["certificate/reference_error"] = check_cached_reference(pl_module, forward, batch)
            evaluation = pl_module.objective(forward)
            self.results["certificate/first_loss"] = check_finite(evaluation, batch)
            if looked_up:
                # What was looked up is right to rounding; the loss is exact where both sides are the policy's own.
                own = backbone.token_scores(hidden, sample).logps
                self.results |= check_closed_form(pl_module, evaluation_against(own, pl_module, sample), sample)
            elif self._reference_is_policy:
                self.results |= check_closed_form(pl_module, evaluation, batch)
        with pl_module.whole_models(), torch.autocast(pl_module.device.type, enabled=False):
            self.results |= check_layout(backbone, probes, batch.layout)
        backbone.training = training


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


def shortest(examples: Sequence[EncodedExample]) -> list[EncodedExample]:
    """The examples whose log-probs are compared with separate rows."""
    return sorted(examples, key=lambda example: example.packed_tokens)[:PROBES]


def check_finite(evaluation: Evaluation, batch: PackedBatch) -> float:
    """The first micro-batch's mean loss.

    Raises:
        UserError: when it is not finite, naming a term and an example.
    """
    total = 0.0
    for name, output in evaluation.outputs.items():
        if len(output.losses):
            total += evaluation.weights[name] * float(output.losses.mean())
        if not output.losses.isfinite().all():
            worst = int((~output.losses.isfinite()).nonzero()[0, 0])
            value, key = float(output.losses[worst]), _key(batch, output.losses, worst)
            raise UserError(f"certificate: the loss before the first update is {value} (term {name}), from example {key}.")
    return total


def check_closed_form(module: AlignmentModule, evaluation: Evaluation, batch: PackedBatch) -> dict[str, float]:
    """With policy = reference, what has a closed form must have that value.

    Raises:
        UserError: naming the example that is furthest off.
    """
    results = {}
    alone = len(evaluation.outputs) == 1
    for name, value in module.objective.values_at_reference().items():
        label, measured = LOSS if alone else TERM_LOSS + name, evaluation.outputs[name].losses
        error = (measured - value).abs()
        if len(measured) and float(error.max()) > 1e-5 * max(1.0, abs(value)):
            worst = int(error.argmax())
            raise UserError(
                f"certificate: with policy = reference the {label} must be {value:.6f}, but example {_key(batch, measured, worst)} "
                f"has {float(measured[worst]):.6f}: policy and reference do not compute the same log-probs."
            )
        results[f"certificate/expected_first_{label}"] = value
    return results


def check_cached_reference(module: AlignmentModule, forward: Forward, batch: PackedBatch) -> float:
    """Largest mean difference a token, over examples, of the log-probs that were looked up to the policy's own, nats.

    Raises:
        UserError: when it is more than rounding, naming the example.
    """
    errors = (forward.token_scores.logps - forward.reference_logps).abs()
    owners = batch.example_index[batch.completion_index]
    return _check_cached(errors, owners, batch, module, "log-probs of the reference", "nats a token")


def check_cached_states(module: AlignmentModule, hidden: Tensor, batch: PackedBatch) -> dict[str, float]:
    """Largest difference, over examples, of hidden states that were looked up to the trunk's `hidden` [R * T, D], as a fraction
    of their size.

    Raises:
        UserError: when it is more than rounding, naming the example.
    """
    if not isinstance(module.states, CachedStates):
        return {}
    fresh = terminal_states(hidden, batch).float()
    errors = (module.states(batch).float() - fresh).abs().mean(-1) / fresh.abs().mean(-1)
    return {"certificate/states_error": _check_cached(errors, batch.example_index, batch, module, "hidden states", "of their size")}


def _check_cached(errors: Tensor, owners: Tensor, batch: PackedBatch, module: AlignmentModule, what: str, unit: str) -> float:
    """The largest mean error of an example; `owners` says which example, 0..E-1, each of the errors belongs to."""
    kind = module.device.type
    tolerance = CACHE_TOLERANCE[torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else module.backbone.lm.dtype]
    sums = errors.new_zeros(batch.examples).index_add(0, owners, errors)
    means = sums / torch.bincount(owners, minlength=batch.examples)
    worst = int(means.nan_to_num(nan=float("inf")).argmax())
    error = float(means[worst])
    if not error <= tolerance:
        raise UserError(
            f"certificate: example {batch.example_keys[worst]} has cached {what} that differ by {error:.3g} {unit} from the model's own "
            f"(at most {tolerance:g} is rounding). Delete the folder that the line above names, or choose another with cache_dir=DIR."
        )
    return error


@final
@dataclass(frozen=True, slots=True)
class _Known:
    """A reference whose log-probs for one batch are given."""

    logps: Tensor

    def token_logps(self, batch: PackedBatch) -> Tensor:
        return self.logps


def evaluation_against(own: Tensor, module: AlignmentModule, batch: PackedBatch) -> Evaluation:
    """The objective with the policy's `own` log-probs [N] in the place of cached ones, which are rounded in other batches.

    Draws no random numbers that training would draw.
    """
    with torch.random.fork_rng(devices=[module.device] if module.device.type == "cuda" else []):
        return module.objective(module.forward_of(batch, _Known(own)))


def check_repeatable(backbone: Backbone, batch: PackedBatch) -> Tensor:
    """The batch's hidden states [R * T, D], after checking that a second pass gives the same to the bit: no random numbers."""
    hidden = backbone.hidden_states(batch)
    if not torch.equal(hidden, backbone.hidden_states(batch)):
        raise UserError("certificate: two forward passes of one batch differ, so something in the model is random (dropout?).")
    return hidden


def check_layout(backbone: Backbone, examples: Sequence[EncodedExample], layout: Layout) -> dict[str, float]:
    """Largest difference a token of the batch's log-probs to the model's own logits on separate sequences, nats.

    Raises:
        UserError: when it is more than rounding, naming the example.
    """
    tolerance = TOLERANCE[backbone.lm.dtype]
    # One row for all probes when packed, so that a leak between examples shows too; with padding, as in training.
    (batch,) = micro_batches(examples, Packing(layout=layout, tokens=1 << 30, multiple=BLOCK))
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


def _key(batch: PackedBatch, values: Tensor, place: int) -> str:
    """The example that value number `place` of [E] examples, [C] completions or [N] tokens belongs to."""
    examples = {
        batch.completion_tokens: batch.example_index[batch.completion_index],
        batch.completions: batch.example_index,
        batch.examples: torch.arange(batch.examples),
    }
    # A term of one data set among several has values for some of the examples.
    return str(batch.example_keys[int(examples[len(values)][place])]) if len(values) in examples else "one of the first"


def _refuse(batch: PackedBatch, completion: int, what: str) -> UserError:
    example = batch.example_keys[int(batch.example_index[completion])]
    return UserError(f"certificate: a completion of example {example} {what}.")
