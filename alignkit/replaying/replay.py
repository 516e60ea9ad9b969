"""A step that was not taken, once more: the same batch under the run's last good weights, example by example."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn

from alignkit.batches import PackedBatch
from alignkit.data.collate import collate
from alignkit.data.examples import EncodedExample
from alignkit.data.origins import find_rows
from alignkit.hardware import device_kind
from alignkit.models.conversions import AUTOCAST
from alignkit.modules.failures import Failure, examples_of, read_failure
from alignkit.modules.forward import Forward
from alignkit.replaying.models import ReplayModels, build_replay_models
from alignkit.resolution import build_source
from alignkit.run_dir import RunDir
from alignkit.settings import RunSettings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayedExample:
    """One example of the batch, alone in a micro-batch of its own."""

    key: str
    """Its place among the loaded examples, from 0; `earlier` for samples of earlier updates, whose prompt is not known any more."""
    row: str | None
    """Of the data, where they are rows."""
    prompt: str
    """As text, not escaped."""
    tokens: int
    loss: float
    """Its share of the step's loss: shares add up."""
    logps: list[float]
    """Of each completion, nats, under the policy."""
    reference_logps: list[float]
    """Empty where the objective has no reference."""
    norm: float
    """Of the gradient of `loss`."""
    first: str | None
    """The first layer that puts out a number that is not finite, or else the loss, or the first weight whose gradient is not."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayedBatch:
    """A micro-batch as the run cut it."""

    rank: int
    place: int
    keys: tuple[str, ...]
    recorded: float
    """Loss in the run; NaN too where there was none yet."""
    loss: float
    norm: float
    first: str | None


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """What `audit failure=` tells."""

    failure: Failure
    weights: str
    """Which weights were used."""
    note: str | None
    """What the loss is not, where it is not that of the run."""
    broken: tuple[str, ...]
    """Weights that are not finite themselves."""
    loss: float
    """Of the whole step."""
    norm: float
    batches: list[ReplayedBatch]
    examples: list[ReplayedExample]


@final
class Watch:
    """Which layer first puts out a number that is not finite, and which weight first has a gradient that is not, by name."""

    def __init__(self) -> None:
        self.layer: str | None = None
        self.gradient: str | None = None

    def first(self, loss: float) -> str | None:
        """What came first: layers, the loss that is made of them, gradients."""
        if self.layer is None and not math.isfinite(loss):
            return "the loss itself"
        return self.layer or (None if self.gradient is None else f"gradient of {self.gradient}")

    @contextmanager
    def over(self, models: nn.Module) -> Iterator[Watch]:
        """Watch a forward and a backward pass. Inner layers are heard before those around them."""

        def heard(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def hook(module: nn.Module, given: Any, output: Any) -> None:
                if self.layer is None and not all(tensor.isfinite().all() for tensor in tensors_in(output)):
                    self.layer = name

            return hook

        def arrived(name: str) -> Callable[[Tensor], None]:
            def hook(parameter: Tensor) -> None:
                if self.gradient is None and parameter.grad is not None and not parameter.grad.isfinite().all():
                    self.gradient = name

            return hook

        handles: list[Any] = [module.register_forward_hook(heard(name)) for name, module in models.named_modules() if name]
        trained = ((name, parameter) for name, parameter in models.named_parameters() if parameter.requires_grad)
        handles += [parameter.register_post_accumulate_grad_hook(arrived(name)) for name, parameter in trained]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()


def replay(folder: Path, settings: RunSettings) -> Replay:
    """Run the step of a failure's folder again.

    Raises:
        UserError: when the folder, the weights or the models that the run began with cannot be read.
    """
    failure, run = read_failure(folder), RunDir(folder.parent.parent)
    device = torch.device(device_kind(settings.hardware.accelerator))
    models = build_replay_models(settings, run, failure, device)
    rows = find_rows(settings.dataset, build_source(settings.dataset, settings.allow_code), failure.keys)  # type: ignore[arg-type]
    kind = settings.precision.lightning
    products = torch.autocast(device.type, AUTOCAST[kind]) if kind in AUTOCAST else contextlib.nullcontext()
    models.modules.train()
    with products:
        models.before_step([move_data_to_device(batch, device) for share in failure.shares for batch in share.batches])
        batches = list(replayed_batches(failure, models, device))
        examples = [
            replayed_example(failure, models, batch, place, rows, device)
            for share in failure.shares
            for batch in share.batches
            for place in range(batch.examples)
        ]
    total, norm = whole_step(models, failure, device, products)
    return Replay(
        failure=failure,
        weights=models.weights,
        note=models.note,
        broken=tuple(name for name, value in models.modules.state_dict().items() if not value.isfinite().all()),
        loss=total,
        norm=norm,
        batches=batches,
        examples=sorted(examples, key=lambda example: (example.first is None, -example.norm)),
    )


def whole_step(models: ReplayModels, failure: Failure, device: torch.device, products: Any) -> tuple[float, float]:
    """Loss and gradient norm of all micro-batches together."""
    models.modules.zero_grad()
    total = 0.0
    with products:
        for share in failure.shares:
            set_random(share.random, device)
            for batch in share.batches:
                total += backward(models.loss(move_data_to_device(batch, device)))
    return total, gradient_norm(models.modules)


def replayed_batches(failure: Failure, models: ReplayModels, device: torch.device) -> Iterator[ReplayedBatch]:
    """Each micro-batch of each rank, one after the other, with the random numbers that it had."""
    for rank, share in enumerate(failure.shares):
        set_random(share.random, device)
        for place, batch in enumerate(share.batches):
            models.modules.zero_grad()
            with Watch().over(models.modules) as watch:
                loss = backward(models.loss(move_data_to_device(batch, device)))
            yield ReplayedBatch(
                rank=rank,
                place=place,
                keys=tuple(shown_key(failure, key) for key in batch.example_keys),
                recorded=share.losses[place] if share.losses else math.nan,
                loss=loss,
                norm=gradient_norm(models.modules),
                first=watch.first(loss),
            )


def replayed_example(
    failure: Failure, models: ReplayModels, batch: PackedBatch, place: int, rows: Mapping[int, str], device: torch.device
) -> ReplayedExample:
    """One example of a micro-batch by itself."""
    example = example_at(batch, place)
    multiple = batch.input_ids.shape[1] if batch.layout == "packed" else 1
    alone = move_data_to_device(collate([[example]], batch.layout, multiple), device)
    models.modules.zero_grad()
    with Watch().over(models.modules) as watch:
        loss = backward(models.loss(alone))
    norm = gradient_norm(models.modules)
    with torch.no_grad():
        forward = Forward(models.parts, alone)
        logps = forward.policy.logps.tolist()
        reference = [] if models.parts.reference is None else forward.reference.logps.tolist()
    key = shown_key(failure, example.key)
    return ReplayedExample(
        key=key,
        row=rows.get(int(key)) if key.isdigit() else None,
        prompt=models.decode(example.prompt_ids),
        tokens=example.packed_tokens,
        loss=loss,
        logps=logps,
        reference_logps=reference,
        norm=norm,
        first=watch.first(loss),
    )


def example_at(batch: PackedBatch, place: int) -> EncodedExample:
    """An example of a micro-batch as it was before it was packed."""
    prompt, completions = examples_of(batch)[place]
    first = sum(batch.completion_counts[:place])
    own = slice(first, first + len(completions))
    return EncodedExample(
        key=batch.example_keys[place],
        prompt_ids=tuple(prompt),
        completion_ids=tuple(map(tuple, completions)),
        margin=batch.margins[place],
        ranks=batch.ranks[own],
        desirable=batch.desirable[own],
        ratings={name: values[own] for name, values in batch.ratings.items()},
        source=batch.sources[place],
    )


def shown_key(failure: Failure, key: int) -> str:
    """The example that a key means, which for samples is their prompt's."""
    if failure.prompts:
        return str(-1 - key) if key < 0 else str(failure.prompts[key]) if key < len(failure.prompts) else "earlier"
    return str(key)


def backward(loss: Tensor) -> float:
    """Add its gradient and tell its value."""
    if loss.requires_grad:
        loss.backward()
    return float(loss.detach())


def gradient_norm(models: nn.Module) -> float:
    """Of everything that is trained."""
    squares = [float(parameter.grad.double().square().sum()) for parameter in models.parameters() if parameter.grad is not None]
    return math.sqrt(sum(squares)) if squares else 0.0


def set_random(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Draw what the step drew."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"])


def tensors_in(output: Any) -> Iterator[Tensor]:
    """The numbers that a layer puts out, in whatever they are wrapped."""
    if isinstance(output, Tensor):
        yield from [output] * output.is_floating_point()
    elif isinstance(output, Mapping):
        yield from tensors_in(list(output.values()))
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for inner in output:
            yield from tensors_in(inner)
