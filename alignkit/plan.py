"""`python -m alignkit.plan`: peak memory and time of a config of `alignkit.train`. Loads no weights and writes nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from alignkit.command_line import check_buildable, check_models, is_question, read_command, read_flags
from alignkit.errors import UserError
from alignkit.job import DONE, answer
from alignkit.planning.devices import DEVICES, HERE, PlanSettings, read_own
from alignkit.planning.page import lines
from alignkit.settings import RunSettings

HELP = f"""\
alignkit-plan says what a run will need before it runs: peak memory by what it is for, the micro-batches of a step, seconds a step,
and what to change if it does not fit. It reads the data, the tokenizer and the model's config.json, no weights, and writes nothing.
Memory is counted in a rehearsal of the step without values; time is measured here, on shallow models of the same width.
Of several ranks (hardware=ddp|fsdp|tensor_parallel) it tells what each holds and what they send each other. For a device that is not
here (device=) time is estimated: operations are counted, and what is assumed of the device is printed.

  python -m alignkit.plan [group=option ...] [key=value ...]

Examples
  python -m alignkit.plan                                           the defaults of alignkit.train
  python -m alignkit.plan loss=dpo model=gpt2 dataset=hh_rlhf       what that run would need
  python -m alignkit.plan loss=dpo model=gpt2 dataset=hh_rlhf model.checkpointing=full batch.tokens=2048
  python -m alignkit.plan hardware=fsdp hardware.nodes=4 hardware.devices=8 device=h100 model=gpt2 precision=bf16 batch.pairs=256

Keys of its own
  device={HERE}        {", ".join((HERE, *DEVICES))}: what the run computes on; {HERE} is this machine's own, where time is measured
  network=12.5       GB/s of a node to the others, in one direction; null takes what the device's maker builds in
  utilisation=0.4    share of the device's best matrix products that is reached; not used where time is measured

All groups and keys of a run: python -m alignkit.train --help
"""


def main() -> int:
    """The command.

    Returns:
        The exit code: 0 done, 1 a crash, 2 wrong input, 130 and 143 interrupted.
    """
    return answer(lambda argv: plan(*read_own(argv)), sys.argv[1:])


def plan(own: PlanSettings, argv: Sequence[str]) -> int:
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
    from alignkit.forecast import forecast
    from alignkit.hardware import keep_freed_memory
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
    memory = memory_of_a_rank(settings, own)
    result = forecast(settings, inputs, plan_packing, own)
    if settings.model.checkpointing == "auto" and result.peak_bytes > memory:
        settings = replace(settings, model=replace(settings.model, checkpointing="full"))
        result = forecast(settings, inputs, plan_packing, own)
    print("\n".join(lines(settings, result, memory, own)), flush=True)
    return DONE


def memory_of_a_rank(settings: RunSettings, own: PlanSettings) -> int:
    """Bytes that each process of a run may take: of its own GPU, or of the memory that the processes of a node share."""
    from alignkit.forecast import resident_bytes
    from alignkit.hardware import device_kind, free_memory

    if own.device != HERE:
        return DEVICES[own.device].memory_bytes
    device = device_kind(settings.hardware.accelerator)
    return free_memory(device) if device == "cuda" else (free_memory(device) + resident_bytes()) // settings.hardware.devices


if __name__ == "__main__":
    sys.exit(main())
