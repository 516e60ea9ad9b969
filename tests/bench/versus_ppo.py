"""alignkit's PPO against the last one that TRL had: seconds and memory of an episode. The command is

    python tests/bench/versus_trl.py objective=ppo [model=DIR] [dataset=FILE] [prompt_tokens=16,48] [episodes=16] [response=53] [epochs=4]
        [steps=2] [rounds=2] [tuning=1] [precisions=bf16,fp32] [trl_precision=bf16_rollouts,bf16,fp32] [trl_micro=1,4,8,16]
        [trl_rollout=16] [contestants=both|trl] [threads=2] [env=DIR] [out=FILE] [extra=key=value,key=value]

Without a model and data it runs alignkit's tiny model on its reviews. The dataset is a JSONL file (also .gz) whose column `text`, `chosen`
or `prompt` is cut after `prompt_tokens` tokens, from shortest to longest, drawn evenly.

An update samples one completion of `response` tokens for each of `episodes` prompts, scores it with a reward head on a frozen copy of the
model, and takes `epochs` optimiser steps on all of them. An episode is one completion. Completions never end before they are full, on
either side: TRL has no stop token by default, and alignkit's worker hides the terminator from its sampler.

1. TRL is installed into an environment of its own, in the last version with `trl.experimental.ppo` (see `trl_environment.TRL_PPO`).
2. Prompts and a reward head are written, which both sides read; where alignkit runs, TRL is given its token ids in its order.
3. TRL is tuned: each of its variants trains `tuning` measured updates, and the fastest is taken.
4. alignkit and TRL train in turn, A B A B, each one update more than is measured. A cost is divided by TRL's of the same update and
   round; the median of these ratios is the result. Peak memory is that of the process, the largest of all rounds. Processor seconds, of
   all threads, stand beside the others: where something else runs on the machine, they are what can be compared. So that threads which
   wait do not count, type OMP_WAIT_POLICY=passive before the command there.

Not the same on both sides, for neither can be told: TRL clips no gradients, trains a value model of its own on a second trunk, and its
value head starts from other weights. Off in TRL: gradient checkpointing, tables of samples, evaluation, saving, reports.
`contestants=trl` measures TRL alone; rounds=0 ends after tuning.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, final

from contest import Precision, WorkerError
from measure import append_record, job_order, machine, median, parse_arguments, ratios, say
from ppo_contest import PPOContest, PPOMeasured, PPOVariant, TRLPrecision, Updates
from trl_environment import TRL_PPO, trl_python

GIB = 2**30
TINY = Path(__file__).resolve().parents[2] / "alignkit" / "lab" / "pretrained" / "tiny"


@final
@dataclass(frozen=True, kw_only=True)
class PPOOptions:
    """The arguments."""

    objective: Literal["ppo"]
    model: str = ""
    """Folder of a causal language model; empty: alignkit's own tiny one."""
    dataset: str = ""
    """JSONL file; empty: alignkit's reviews."""
    prompt_tokens: tuple[int, ...] = (16, 48)
    """Shortest and longest prompt."""
    episodes: int = 16
    """Of an update."""
    response: int = 53
    """Tokens of every completion; TRL's default."""
    epochs: int = 4
    lr: float = 3e-6
    """TRL's default."""
    kl_coef: float = 0.05
    """TRL's default."""
    steps: int = 2
    """Measured updates; one more comes before them."""
    rounds: int = 2
    """0: tuning alone."""
    tuning: int = 1
    """Measured updates of each variant before the best is chosen."""
    precisions: tuple[Precision, ...] = ("bf16", "fp32")
    """Of alignkit."""
    trl_precision: tuple[TRLPrecision, ...] = ("bf16_rollouts", "bf16", "fp32")
    trl_micro: tuple[int, ...] = (1, 4, 8, 16)
    """Episodes of a forward pass in training."""
    trl_rollout: tuple[int, ...] = ()
    """Episodes that are sampled and scored at once; empty: all."""
    contestants: Literal["both", "trl"] = "both"
    threads: int = 2
    extra: tuple[str, ...] = ()
    """More overrides for alignkit."""
    env: str = ""
    """Folder of TRL's virtual environment; empty: ~/.cache/alignkit-bench/trl-VERSION."""
    out: str = ""
    """File that a JSON record is appended to."""

    def variants(self) -> list[PPOVariant]:
        """All that are tried; TRL wants micro-batches that divide the batch."""
        return [
            PPOVariant(precision=precision, micro=micro, rollout=rollout)
            for precision in self.trl_precision
            for micro in self.trl_micro
            for rollout in self.trl_rollout or (self.episodes,)
            if self.episodes % micro == 0
        ]

    def updates(self) -> Updates:
        return Updates(
            model=str(Path(self.model or TINY).expanduser().absolute()),
            episodes=self.episodes,
            response=self.response,
            epochs=self.epochs,
            lr=self.lr,
            kl_coef=self.kl_coef,
            threads=self.threads,
        )


def tune(contest: PPOContest, options: PPOOptions) -> PPOVariant:
    """The variant of TRL with the lowest seconds per episode; of one alone nothing is measured, unless nothing else is.

    Raises:
        SystemExit: where none can be run.
    """
    costs = {}
    variants = options.variants()
    if len(variants) == 1 and options.rounds > 0:
        return variants[0]
    for variant in variants:
        try:
            measured = contest.run_trl(variant, options.tuning + 1)
        except WorkerError as error:  # a variant that needs more memory than there is cannot win
            say(f"tuning, TRL {variant}: failed, {str(error).splitlines()[0]}")
            continue
        costs[variant] = median(measured.episode_seconds)
        sampling = median([seconds / options.episodes for seconds in measured.sampling_seconds])
        processor, peak = median(measured.episode_cpu_seconds), measured.peak_bytes / GIB
        say(
            f"tuning, TRL {variant}: {costs[variant]:.3f} s an episode, {sampling:.3f} of them sampling, "
            f"{processor:.3f} s of processors, {peak:.2f} GiB"
        )
    if not costs:
        raise SystemExit("no variant of TRL could be run.")
    return min(costs, key=lambda variant: costs[variant])


def compete(contest: PPOContest, options: PPOOptions, variant: PPOVariant) -> dict[str, list[PPOMeasured]]:
    """All contestants in turn, each with one update more than is measured."""
    ours = {f"alignkit {precision}": precision for precision in options.precisions if options.contestants == "both"}
    runs: dict[str, list[PPOMeasured]] = {name: [] for name in (*ours, "trl")}
    for number, name in job_order(list(runs), options.rounds):
        updates = options.steps + 1
        measured = contest.run_alignkit(ours[name], updates, options.extra) if name in ours else contest.run_trl(variant, updates)
        runs[name].append(measured)
        say(f"round {number + 1}, {name}: " + " ".join(f"{seconds:.2f}" for seconds in measured.step_seconds) + " s an update")
    return runs


def summarise(runs: Mapping[str, Sequence[PPOMeasured]]) -> dict[str, dict[str, float]]:
    """Medians of costs, and of the ratios to TRL's."""
    costs = {name: [run.episode_seconds for run in measured] for name, measured in runs.items()}
    processor = {name: [run.episode_cpu_seconds for run in measured] for name, measured in runs.items()}
    peaks = {name: max(run.peak_bytes for run in measured) for name, measured in runs.items()}
    return {
        name: {
            "seconds_per_episode": median([cost for run in costs[name] for cost in run]),
            "cpu_seconds_per_episode": median([cost for run in processor[name] for cost in run]),
            "peak_gib": peaks[name] / GIB,
            "startup_seconds": median([run.startup_seconds for run in measured]),
            "seconds_ratio_to_trl": median(ratios(costs[name], costs["trl"])),
            "cpu_seconds_ratio_to_trl": median(ratios(processor[name], processor["trl"])),
            "peak_ratio_to_trl": peaks[name] / peaks["trl"],
        }
        for name, measured in runs.items()
    }


def report(options: PPOOptions, variant: PPOVariant, runs: Mapping[str, Sequence[PPOMeasured]]) -> dict[str, object]:
    """Print the table and return the record."""
    summary = summarise(runs)
    headings = ("s/episode", "CPU s/episode", "peak GiB", "start-up s", "s / trl", "CPU s / trl", "peak / trl")
    say("\n" + " " * 13 + "".join(f"{heading:>14}" for heading in headings))
    for name, line in summary.items():
        say(f"{name:13}" + "".join(f"{value:>14.3f}" for value in line.values()))
    say(f"trl: the fastest of its variants, {variant}")
    return {
        "benchmark": "versus_ppo",
        "options": dataclasses.asdict(options),
        "versions": {name: version(name) for name in ("alignkit", "torch", "transformers", "lightning")},
        "trl_variant": dataclasses.asdict(variant),
        "summary": summary,
        "runs": {name: [dataclasses.asdict(run) for run in measured] for name, measured in runs.items()},
    }


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(PPOOptions, arguments)
    if len(options.prompt_tokens) != 2 or not 1 <= options.prompt_tokens[0] <= options.prompt_tokens[1]:
        raise SystemExit(f"prompt_tokens = {options.prompt_tokens}; must be two numbers, shortest and longest. Try prompt_tokens=16,48.")
    before = machine()
    say(f"machine: {options.threads} threads, " + ", ".join(f"{key} {value}" for key, value in before.items()))
    python = trl_python(options.env, TRL_PPO)
    with tempfile.TemporaryDirectory(prefix="alignkit-bench-") as folder:
        contest = PPOContest(options.updates(), python, Path(folder))
        updates = max(options.steps, options.tuning) + 1
        try:
            # As many again and validation's 8, because alignkit holds some out and shuffles.
            contest.prepare(options.dataset, 2 * updates * options.episodes + 8, options.prompt_tokens)
            if options.contestants == "both":
                contest.run_alignkit(options.precisions[0], updates, options.extra, dump=True)
            variant = tune(contest, options)
            if options.rounds == 0:
                say(f"trl: the fastest of its variants, {variant}")
                return
            runs = compete(contest, options, variant)
        except WorkerError as error:
            raise SystemExit(str(error)) from None
    append_record(options.out, {**report(options, variant, runs), "machine": before})
