"""alignkit against TRL on this machine: seconds per pair, tokens per second, memory.

    python tests/bench/versus_trl.py objective=dpo|reward|sft [model=DIR] [dataset=FILE] [pairs=8] [steps=4] [rounds=2] [max_length=512]
        [precisions=bf16,fp32] [trl_precision=bf16,fp32] [trl_micro=1,4] [threads=2] [admission=10] [out=FILE] [extra=key=value,key=value]

`objective=ppo` has arguments of its own: see versus_ppo.py.

Without a model and data it runs alignkit's tiny model on embedded reviews. Two more examples:

    python tests/bench/versus_trl.py objective=dpo model=SMOLLM2 dataset=harmless_base_test.jsonl.gz out=results.jsonl
    python tests/bench/versus_trl.py objective=sft model=SMOLLM2 dataset=dolly.jsonl.gz \\
        'extra=dataset.columns={prompt: prompt, chosen: response}'

What happens, every run in a process of its own:

1. TRL is installed into a virtual environment of its own, once (`env=` says where; where the running torch is a CPU build,
   PIP_EXTRA_INDEX_URL can name the index that has it, so that TRL gets the same).
2. Admission: both train `admission` steps in float32 from the same weights on the same token ids, and their losses have to agree at every
   step to 1e-4; otherwise nothing is measured and the exit code is 1. rounds=0 stops here. A larger lr= makes it the sharper test.
3. TRL is tuned: each of its variants (number format, examples a forward pass, layout) trains a few steps, and the fastest is taken.
4. alignkit and TRL train in turn, A B A B. The first optimiser step of a run is left out. A cost is divided by TRL's of the same step
   and round; the median of these ratios is the result.

Not in the seconds: start-up (imports, loading, data, alignkit's certificate and first validation) and the reference log-probs that are
computed before training; both are reported apart, and no run finds those that another one computed. Tokens are those of the prompt, once,
and of the completions, for both.

`objective=sft`: TRL has two lines. `trl` computes what alignkit computes (padded rows, or padding_free where its losses agree).
`trl_packed` is the faster of its packings into rows of max_length tokens, with as many rows a step as hold alignkit's tokens: `wrapped`
cuts rows out of one stream, so that examples see each other and its losses are others; `bfd` packs whole examples, tried where
padding_free was admitted, whose attention it shares. Both fill a step with other examples than alignkit's, so admission can say nothing of
them. Ratios are of seconds per token; a token is a token of a trained row, of prompts and completions alike.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeAlias, final

import versus_ppo
from contest import PACKED, Contest, Layout, Measured, Precision, Training, Variant, WorkerError
from measure import TOLERANCE, append_record, job_order, machine, median, parse_arguments, ratios, say, worst_difference
from trl_environment import trl_python

GIB = 2**30
Runs: TypeAlias = Mapping[str, Sequence[Measured]]
"""By contestant, one a round."""


@final
@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """The arguments."""

    objective: Literal["dpo", "reward", "sft"]
    rounds: int = 2
    """0: admission alone."""
    trl_precision: tuple[Precision, ...] = ("bf16", "fp32")
    trl_micro: tuple[int, ...] = ()
    """Examples of a forward pass that TRL is tried with; empty: one and four, which is about what alignkit's own micro-batches hold."""
    tuning: int = 2
    """Measured steps of each variant before the best is chosen."""
    admission: int = 10
    precisions: tuple[Precision, ...] = ("bf16", "fp32")
    """What alignkit runs in; `precision` is not read here."""

    @property
    def micros(self) -> tuple[int, ...]:
        """`trl_micro`, or what stands for it. All divide `pairs`: TRL averages over forward passes as if they were equally large."""
        return self.trl_micro or tuple(dict.fromkeys((1, math.gcd(self.pairs, 4))))


def admit(contest: Contest, options: Options) -> list[Layout]:
    """Compare losses in float32, write the examples down, and return the layouts that TRL may use.

    Raises:
        SystemExit: where TRL's plain layout trains on other losses.
    """
    steps = max(options.admission, options.steps + 1, options.tuning + 1)
    ours = contest.run_alignkit("fp32", options.admission, dump_steps=steps).losses
    say("admission, alignkit:          " + " ".join(f"{loss:.6f}" for loss in ours))
    layouts: list[Layout] = ["padded", "padding_free"] if options.objective == "sft" else ["padded"]
    admitted = []
    for layout in layouts:
        variant = Variant(precision="fp32", micro=max(options.micros), layout=layout)
        theirs = contest.run_trl(variant, options.admission).losses
        worst = worst_difference(ours, theirs)
        say(f"admission, TRL {layout:12}:  " + " ".join(f"{loss:.6f}" for loss in theirs) + f"   apart by {worst:.1e}")
        if worst <= TOLERANCE:
            admitted.append(layout)
    if "padded" not in admitted:
        raise SystemExit(f"refused: the losses differ by more than {TOLERANCE:g}, so the two do not train the same thing.")
    return admitted


def tune(contest: Contest, options: Options, layouts: Sequence[Layout]) -> Variant:
    """The variant of TRL with the lowest seconds per token."""
    costs = {}
    for layout in layouts:
        for precision in options.trl_precision:
            for micro in options.micros:
                variant = Variant(precision=precision, micro=micro, layout=layout)
                try:
                    measured = contest.run_trl(variant, options.tuning + 1)
                except WorkerError as error:  # a variant that needs more memory than there is cannot win
                    say(f"tuning, TRL {variant}: failed, {str(error).splitlines()[0]}")
                    continue
                costs[variant] = median(token_seconds(contest, measured))
                say(f"tuning, TRL {variant}: {1e6 * costs[variant]:.1f} us a token, {measured.peak_bytes / GIB:.2f} GiB")
    if not costs:
        raise SystemExit("no variant of TRL could be run.")
    return min(costs, key=lambda variant: costs[variant])


def step_tokens(contest: Contest, measured: Measured, layout: str) -> list[float]:
    """Tokens of the measured steps. Packed rows are no examples of ours: the worker counted what is in them."""
    if layout in PACKED:
        return measured.tokens
    return [float(count) for count in contest.step_tokens()[1 : len(measured.step_seconds) + 1]]


def compete(contest: Contest, options: Options, variants: Mapping[str, Variant]) -> dict[str, list[Measured]]:
    """All contestants in turn, each with one step more than is measured."""
    ours = {f"alignkit {precision}": precision for precision in options.precisions}
    runs: dict[str, list[Measured]] = {name: [] for name in (*ours, *variants)}
    for number, name in job_order(list(runs), options.rounds):
        steps = options.steps + 1
        measured = contest.run_trl(variants[name], steps) if name in variants else contest.run_alignkit(ours[name], steps)
        runs[name].append(measured)
        say(f"round {number + 1}, {name}: " + " ".join(f"{seconds:.3f}" for seconds in measured.step_seconds) + " s a step")
    return runs


def token_seconds(contest: Contest, run: Measured) -> list[float]:
    """Seconds a token of each measured step."""
    tokens = step_tokens(contest, run, run.settings["layout"])
    return [seconds / count for seconds, count in zip(run.step_seconds, tokens, strict=True)]


def report(contest: Contest, options: Options, variants: Mapping[str, Variant], runs: Runs) -> dict[str, object]:
    """Print the table and return the record."""
    costs = {name: [token_seconds(contest, run) for run in measured] for name, measured in runs.items()}
    unit = "text" if options.objective == "sft" else "pair"
    headings = (f"s/{unit}", "tokens/s", "peak GiB", "start-up s", "reference s", *(f"/ {name}" for name in variants))
    say("\n" + " " * 13 + "".join(f"{heading:>14}" for heading in headings))
    summary = {}
    for name, measured in runs.items():
        per_token = [cost for costs_of_run in costs[name] for cost in costs_of_run]
        seconds = [step / options.pairs for run in measured for step in run.step_seconds]
        packed = name in variants and variants[name].layout in PACKED
        line = {
            f"seconds_per_{unit}": None if packed else median(seconds),
            "tokens_per_second": 1 / median(per_token),
            "peak_gib": max(run.peak_bytes for run in measured) / GIB,
            "startup_seconds": median([run.startup_seconds for run in measured]),
            "reference_seconds": median([run.reference_seconds for run in measured]),
            **{f"ratio_to_{other}": median(ratios(costs[name], costs[other])) for other in variants},
        }
        summary[name] = line
        cells = ("-" if value is None else f"{value:.3f}" for value in line.values())
        say(f"{name:13}" + "".join(f"{cell:>14}" for cell in cells))
    return {
        "benchmark": "versus_trl",
        "options": dataclasses.asdict(options),
        "machine": machine(),
        "versions": {name: version(name) for name in ("alignkit", "torch", "transformers", "lightning")},
        "trl_variants": {name: dataclasses.asdict(variant) for name, variant in variants.items()},
        "summary": summary,
        "runs": {name: [dataclasses.asdict(run) for run in measured] for name, measured in runs.items()},
    }


def main() -> None:
    if "objective=ppo" in sys.argv[1:]:
        versus_ppo.main(sys.argv[1:])
        return
    options = parse_arguments(Options, sys.argv[1:])
    if any(options.pairs % micro for micro in options.micros):
        raise SystemExit(f"trl_micro = {options.trl_micro}; each must divide pairs = {options.pairs}.")
    before = machine()
    say(f"machine: {options.threads} threads, " + ", ".join(f"{key} {value}" for key, value in before.items()))
    python = trl_python(options.env)
    with tempfile.TemporaryDirectory(prefix="alignkit-bench-") as folder:
        contest = Contest(options, options.objective, python, Path(folder))
        try:
            layouts = admit(contest, options)
            if options.rounds == 0:
                return
            variants = {"trl": tune(contest, options, layouts)}
            if options.objective == "sft":
                packings: list[Layout] = ["wrapped", "bfd"] if "padding_free" in layouts else ["wrapped"]
                variants["trl_packed"] = tune(contest, options, packings)
            runs = compete(contest, options, variants)
        except WorkerError as error:
            raise SystemExit(str(error)) from None
        record = report(contest, options, variants, runs)
    for name, variant in variants.items():
        say(f"{name}: the fastest of its variants, {variant}")
    append_record(options.out, {**record, "machine": before})


if __name__ == "__main__":
    main()
