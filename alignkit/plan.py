"""`python -m alignkit.plan`: peak memory and time of a config of `alignkit.train`. Loads no weights and writes nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from alignkit.command_line import check_buildable, check_models, is_question, read_command, read_flags
from alignkit.errors import UserError
from alignkit.job import DONE, answer
from alignkit.settings import RunSettings

if TYPE_CHECKING:  # importing it would load torch
    from alignkit.forecast import Forecast

HELP = """\
alignkit-plan says what a run will need before it runs: peak memory by what it is for, the micro-batches of a step, seconds a step,
and what to change if it does not fit. It reads the data, the tokenizer and the model's config.json, no weights, and writes nothing.
Memory is counted in a rehearsal of the step without values; time is measured here, on shallow models of the same width.

  python -m alignkit.plan [group=option ...] [key=value ...]

Examples
  python -m alignkit.plan                                           the defaults of alignkit.train
  python -m alignkit.plan loss=dpo model=gpt2 dataset=hh_rlhf       what that run would need
  python -m alignkit.plan loss=dpo model=gpt2 dataset=hh_rlhf model.checkpointing=full batch.tokens=2048

All groups and keys of a run: python -m alignkit.train --help
"""
GIB = 2**30


def main() -> int:
    """The command.

    Returns:
        The exit code: 0 done, 1 a crash, 2 wrong input, 130 and 143 interrupted.
    """
    return answer(plan, sys.argv[1:])


def plan(argv: Sequence[str]) -> int:
    """Check the config as for training, forecast, and print.

    Raises:
        UserError: what training would say before it loads weights.
    """
    flags = read_flags(argv)
    if flags.help:
        print(HELP, end="")
        return DONE
    if is_question(flags) or flags.multirun:
        raise UserError("alignkit.plan looks at one run. Leave the flags out; for --cfg and the like type python -m alignkit.train.")
    command = read_command(flags)
    check_models(command.jobs)
    check_buildable(command.jobs)
    settings = command.jobs[0].settings
    # The first import of torch's big users: everything that can be wrong without them has been checked. What training imports is
    # imported here too: it is a part of the memory.
    import torch

    from alignkit.assembly import plan_packing, read_inputs
    from alignkit.forecast import forecast, resident_bytes
    from alignkit.hardware import device_kind, free_memory, keep_freed_memory
    from alignkit.modules.rollout_objective import RolloutObjective
    from alignkit.training import hush

    hush()
    keep_freed_memory()
    torch.manual_seed(settings.seed)
    if settings.hardware.threads is not None:
        torch.set_num_threads(settings.hardware.threads)
    inputs = read_inputs(settings)
    if isinstance(inputs.objective, RolloutObjective):
        raise UserError(f"alignkit.plan cannot rehearse loss={settings.loss.name}, which samples. Plan loss=sft on its model and data.")
    device = device_kind(settings.hardware.accelerator)
    memory = free_memory(device) + (resident_bytes() if device == "cpu" else 0)
    result = forecast(settings, inputs, plan_packing)
    if settings.model.checkpointing == "auto" and result.peak_bytes > memory:
        settings = replace(settings, model=replace(settings.model, checkpointing="full"))
        result = forecast(settings, inputs, plan_packing)
    print("\n".join(lines(settings, result, memory)), flush=True)
    return DONE


def lines(settings: RunSettings, forecast: Forecast, memory: int) -> Iterator[str]:
    """The page; `memory` is what the run may take, bytes."""
    on_gpu = forecast.device == "cuda"
    yield f"memory on {'the GPU' if on_gpu else 'the CPU'}, GiB"
    for name, count in sorted(forecast.parts.items(), key=lambda part: -part[1]):
        yield f"  {name:34} {count / GIB:8.2f}"
    yield f"  {'peak':34} {forecast.peak_bytes / GIB:8.2f}"
    yield f"  {'at hand':34} {memory / GIB:8.2f}"
    yield f"a step, checkpointing {'full' if settings.model.checkpointing == 'full' else 'off'}"
    yield f"  {'pairs' if settings.loss.name != 'sft' else 'texts':34} {settings.batch.pairs:8,}"
    yield f"  {f'micro-batches, {forecast.packing.layout}':34} {forecast.micro_batches:8.1f}"
    yield f"  {'positions':34} {forecast.positions:8,.0f}  padding {1 - forecast.filled / forecast.positions:.1%}"
    yield f"  {'largest micro-batch':34} {forecast.largest:8,}  longest example {forecast.longest:,}"
    yield f"  {'seconds, measured here':34} {forecast.seconds_per_step:8.3g}"
    yield f"the run: {duration(forecast.run_seconds)} for {forecast.steps:,} steps{account(forecast)}"
    tokens = forecast.largest_tokens_that_fit(memory)
    if forecast.peak_bytes <= memory and forecast.micro_batches == 1:
        yield "it fits, and every step is one micro-batch already"
    elif forecast.peak_bytes <= memory:
        yield f"it fits: batch.tokens={tokens} is the largest that would"
    else:
        yield f"IT DOES NOT FIT: {forecast.peak_bytes / GIB:.1f} GiB of {memory / GIB:.1f}"
        yield from advice(settings, forecast, tokens)


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


def advice(settings: RunSettings, forecast: Forecast, tokens: int) -> Iterator[str]:
    """What to type for a run that does not fit, the cheapest first."""
    if settings.reference.source == "memory":
        yield "  reference=cache        no second model in memory"
    if tokens:
        yield f"  batch.tokens={tokens:<9} more micro-batches, the same results"
    else:
        yield f"  dataset.max_length=N   less than {settings.dataset.max_length}: the longest example alone does not fit"
    if settings.model.checkpointing != "full":
        yield "  model.checkpointing=full  a third more time, a fraction of the activations"
    if settings.precision.lightning != "bf16-true":
        yield "  precision=bf16_true    half the memory for weights, gradients and optimizer, less accurate small updates"
    if settings.optimizer.weight_decay > 0 and settings.optimizer.decay_towards == "init":
        yield "  optimizer.decay_towards=zero  no copy of the initial weights"


if __name__ == "__main__":
    sys.exit(main())
