"""The page of `alignkit.plan`. Loads nothing but plain Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from alignkit.planning.devices import DEVICES, HERE, PlanSettings
from alignkit.settings import RunSettings

if TYPE_CHECKING:  # importing them would load torch
    from alignkit.forecast import Forecast
    from alignkit.planning.traffic import Traffic

GIB, MIB = 2**30, 2**20


def lines(settings: RunSettings, forecast: Forecast, memory: int, own: PlanSettings | None = None) -> Iterator[str]:
    """The page; `memory` is what a rank may take, bytes."""
    own = own or PlanSettings()
    hardware = settings.hardware
    several = hardware.processes > 1
    yield f"memory {'of each rank ' if several else ''}on {place(forecast, own)}, GiB"
    for name, count in sorted(forecast.parts.items(), key=lambda part: -part[1]):
        yield f"  {name:34} {count / GIB:8.2f}"
    yield f"  {'peak':34} {forecast.peak_bytes / GIB:8.2f}"
    yield f"  {'at hand':34} {memory / GIB:8.2f}"
    if several:
        yield from communication(settings, forecast)
    yield from step(settings, forecast, own)
    yield f"the run: {duration(forecast.run_seconds)} for {forecast.steps:,} steps{account(forecast)}"
    if several or own.device != HERE:
        yield "assumed"
        yield from (f"  {line}" for line in assumptions(settings, forecast, own))
    yield from verdict(settings, forecast, memory)


def place(forecast: Forecast, own: PlanSettings) -> str:
    """What the run computes on."""
    here = "the GPU" if forecast.device == "cuda" else "the CPU"
    return here if own.device == HERE else own.device.upper()


def communication(settings: RunSettings, forecast: Forecast) -> Iterator[str]:
    """What ranks send, by collective."""
    sent = forecast.communication
    hardware = settings.hardware
    shape = f"{hardware.nodes} {'nodes' if hardware.nodes > 1 else 'node'} x {hardware.devices}"
    yield f"communication of a step, MiB through each rank's link; {hardware.strategy} on {shape} = {hardware.processes} ranks"
    for traffic, seconds in ((sent.hidden, sent.hidden_seconds), (sent.between, sent.between_seconds)):
        if traffic is not None:
            yield from rings(traffic, seconds, computes=traffic is sent.hidden and sent.overlaps)


def rings(traffic: Traffic, seconds: float, *, computes: bool) -> Iterator[str]:
    """One kind of ring."""
    for kind, count in traffic.calls.items():
        if count:
            yield f"  {f'{kind}, {count:,} calls':34} {traffic.passed(kind) / MIB:8,.1f}  rings of {traffic.ranks}"
    yield f"  {'seconds':34} {seconds:8.3g}  {'while it computes' if computes else 'while computing waits'}"


def step(settings: RunSettings, forecast: Forecast, own: PlanSettings) -> Iterator[str]:
    """What a step is made of, and how long it takes."""
    several = settings.hardware.processes > 1
    checkpointing = "full" if settings.model.checkpointing == "full" else "off"
    yield f"a step{' of the rank with most' if several else ''}, checkpointing {checkpointing}"
    yield f"  {('pairs' if settings.loss.name != 'sft' else 'texts') + (', all ranks' if several else ''):34} {settings.batch.pairs:8,}"
    yield f"  {f'micro-batches, {forecast.packing.layout}':34} {forecast.micro_batches:8.1f}"
    yield f"  {'positions':34} {forecast.positions:8,.0f}  padding {1 - forecast.filled / forecast.positions:.1%}"
    yield f"  {'largest micro-batch':34} {forecast.largest:8,}  longest example {forecast.longest:,}"
    how = "measured here" if own.device == HERE else "estimated"
    if several:
        yield f"  {f'seconds of computing, {how}':34} {forecast.computing:8.3g}"
        yield f"  {'seconds, with communication':34} {forecast.seconds_per_step:8.3g}"
    else:
        yield f"  {f'seconds, {how}':34} {forecast.seconds_per_step:8.3g}"
    if several or own.device != HERE:
        ranks = settings.hardware.processes
        rate = forecast.tokens / forecast.seconds_per_step
        yield f"  {'tokens a second':34} {rate:8,.0f}{f'  {rate / ranks:,.0f} a rank' if several else ''}"


def assumptions(settings: RunSettings, forecast: Forecast, own: PlanSettings) -> Iterator[str]:
    """What nobody has measured."""
    hardware, sent = settings.hardware, forecast.communication
    if own.device != HERE:
        device = DEVICES[own.device]
        best = device.flops(settings.precision.lightning) / 10**12
        yield f"{own.device}: {device.source}"
        yield f"{best:g} TFLOP/s in {settings.precision.name}, of which {own.utilisation:.0%} are reached (utilisation=)"
        yield "10 us a kernel at least, which small models and micro-batches wait for"
        yield f"{device.memory_gb:g} * 10^9 bytes of memory at {device.memory_gb_per_second:g} GB/s; an update moves all of a rank twice"
    elif hardware.processes > 1:
        yield "each rank computes as fast as this process does alone; on one CPU ranks share its cores"
    if hardware.processes > 1:
        yield f"links of {sent.hidden_gb_per_second:g} GB/s in one direction, 80% of it reached; a ring takes 3 us a rank"
    if sent.overlaps and sent.hidden is not None:
        yield "gathering, scattering and sums of gradients are hidden behind computing, wholly where that takes longer"
    if hardware.strategy in ("fsdp", "tensor_parallel") and sent.hidden is not None:
        yield "two layers are whole at a time, and every micro-batch gathers and scatters all of them"
    if hardware.tensor_parallel > 1:
        yield "embeddings, norms and the vocabulary's product are whole on every rank"


def verdict(settings: RunSettings, forecast: Forecast, memory: int) -> Iterator[str]:
    """Whether it fits, and what to type."""
    tokens = forecast.largest_tokens_that_fit(memory)
    if forecast.peak_bytes <= memory and forecast.micro_batches == 1:
        yield "it fits, and every step is one micro-batch already"
    elif forecast.peak_bytes <= memory:
        yield f"it fits: batch.tokens={tokens} is the largest that would"
    else:
        yield f"IT DOES NOT FIT: {forecast.peak_bytes / GIB:.1f} GiB of {memory / GIB:.1f}"
        yield from advice(settings, tokens)


def account(forecast: Forecast) -> str:
    """What else than steps takes time."""
    others = {"validation": forecast.seconds.validation, "log-probs or states for the cache": forecast.seconds.looking}
    named = [f"{duration(seconds)} {name}" for name, seconds in others.items() if seconds > 0]
    return f" ({', '.join(named)} included)" if named else ""


def duration(seconds: float) -> str:
    """`12 s`, `3.4 min` or `5.6 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def advice(settings: RunSettings, tokens: int) -> Iterator[str]:
    """What to type for a run that does not fit, the cheapest first."""
    if settings.reference.source == "memory":
        yield "  reference=cache        no second model in memory"
    if tokens:
        yield f"  batch.tokens={tokens:<9} more micro-batches, the same results"
    else:
        yield f"  dataset.max_length=N   less than {settings.dataset.max_length}: the longest example alone does not fit"
    if settings.model.checkpointing != "full":
        yield "  model.checkpointing=full  a third more time, a fraction of the activations"
    if settings.hardware.strategy == "fsdp":
        yield f"  hardware.nodes={2 * settings.hardware.nodes}       half of the weights, gradients and optimizer state on each rank"
    elif settings.hardware.strategy == "ddp":
        yield "  hardware=fsdp          weights, gradients and optimizer state cut between the ranks"
    if settings.precision.lightning != "bf16-true":
        yield "  precision=bf16_true    half the memory for weights, gradients and optimizer, less accurate small updates"
    if settings.optimizer.weight_decay > 0 and settings.optimizer.decay_towards == "init":
        yield "  optimizer.decay_towards=zero  no copy of the initial weights"
