"""A sweep of twelve jobs, beta by epsilon, against twelve runs of TRL: the wall time of whole commands, as a user pays it.

    python tests/bench/sweep_versus_trl.py [model=DIR] [dataset=FILE] [pairs=8] [steps=4] [max_length=512] [precision=bf16]
        [trl_precision=bf16] [trl_micro=1] [trl_jobs=12] [threads=2] [betas=0.05,0.1,0.2,0.5] [epsilons=0,0.1,0.2] [out=FILE]

alignkit: one `python -m alignkit.train -m loss=cdpo loss.beta=... loss.epsilon=...`. TRL: a process a job, the same betas. TRL 1.16 has no
epsilon for its sigmoid loss (it takes label_smoothing and ignores it), so its jobs are plain DPO, which costs the same.

Both sides train the same steps on the same token ids and save the model. TRL computes the reference before training, is not timed for
tokenising, validates nothing and is run as `trl_precision` and `trl_micro` say: take what `versus_trl.py` found to be the fastest. alignkit
reads the text, validates and checks its certificate within its time, and starts with an empty cache. With `trl_jobs` below twelve, the
median of those made is multiplied, and the output says so.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

from contest import Contest, Precision, Training, Variant, WorkerError
from measure import Child, append_record, machine, median, parse_arguments, run_child, say
from trl_environment import trl_python


@final
@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """The arguments."""

    betas: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5)
    epsilons: tuple[float, ...] = (0.0, 0.1, 0.2)
    trl_precision: Precision = "bf16"
    trl_micro: int = 1
    """Pairs of a forward pass of TRL."""
    trl_jobs: int = 12
    """Runs of TRL that are really made."""

    @property
    def jobs(self) -> list[float]:
        """The beta of each job, in the sweep's order."""
        return [beta for beta in self.betas for _ in self.epsilons]


def run_sweep(contest: Contest, options: Options) -> Child:
    """alignkit's whole command.

    Raises:
        WorkerError: when a job of the sweep fails.
    """
    taken = ("loss=", "loss.beta=", "logger.every=")
    shared = [line for line in contest.overrides(options.precision, options.steps) if not line.startswith(taken)]
    swept = [f"loss.{name}={','.join(map(str, values))}" for name, values in (("beta", options.betas), ("epsilon", options.epsilons))]
    log = contest.folder / "sweep.log"
    command = [sys.executable, "-m", "alignkit.train", "-m", "loss=cdpo", *swept, *shared, f"run_dir={contest.folder / 'sweep'}"]
    child = run_child(command, log, threads=options.threads)
    if child.exit_code != 0:
        raise WorkerError(f"the sweep ended with {child.exit_code}:\n" + "\n".join(log.read_text().splitlines()[-25:]))
    return child


def compare(contest: Contest, options: Options) -> dict[str, Any]:
    """Run both sides, print the comparison and return it."""
    contest.run_alignkit(options.precision, 1, dump_steps=options.steps)  # not timed: writes the token ids for TRL
    ours = run_sweep(contest, options)
    say(f"alignkit, {len(options.jobs)} jobs in one command: {ours.seconds:.1f} s, peak {ours.peak_bytes / 2**30:.2f} GiB")
    variant = Variant(precision=options.trl_precision, micro=options.trl_micro, layout="padded")
    made = []
    for beta in options.jobs[: options.trl_jobs]:
        made.append(contest.run_trl(variant, options.steps, beta=beta, save=True))
        say(f"TRL, beta {beta:g}: {made[-1].command_seconds:.1f} s, peak {made[-1].peak_bytes / 2**30:.2f} GiB")
    seconds = [run.command_seconds for run in made]
    whole = len(made) == len(options.jobs)
    total = sum(seconds) if whole else median(seconds) * len(options.jobs)
    how = "all made" if whole else f"the median of the {len(made)} made, times {len(options.jobs)}"
    say(f"TRL, {len(options.jobs)} jobs: {total:.1f} s ({how}); TRL / alignkit {total / ours.seconds:.2f}")
    return {
        "alignkit_seconds": ours.seconds,
        "alignkit_peak_bytes": ours.peak_bytes,
        "trl_seconds": seconds,
        "trl_peak_bytes": max(run.peak_bytes for run in made),
        "trl_total_seconds": total,
        "trl_total_is": how,
        "ratio": total / ours.seconds,
        "trl_versions": made[0].versions,
    }


def main() -> None:
    options = parse_arguments(Options, sys.argv[1:])
    if not 1 <= options.trl_jobs <= len(options.jobs):
        raise SystemExit(f"trl_jobs = {options.trl_jobs}; must be in 1..{len(options.jobs)}, the jobs of the sweep.")
    if options.pairs % options.trl_micro:
        raise SystemExit(f"trl_micro = {options.trl_micro}; must divide pairs = {options.pairs}.")
    before = machine()
    python = trl_python(options.env)
    with tempfile.TemporaryDirectory(prefix="alignkit-bench-") as folder:
        try:
            result = compare(Contest(options, "dpo", python, Path(folder)), options)
        except WorkerError as error:
            raise SystemExit(str(error)) from None
    versions = {name: version(name) for name in ("alignkit", "torch", "transformers", "lightning")}
    record = {"benchmark": "sweep_versus_trl", "options": dataclasses.asdict(options), "machine": before, "versions": versions, **result}
    append_record(options.out, record)


if __name__ == "__main__":
    main()
