"""A head on a frozen trunk: what an epoch costs once the trunk's hidden states are kept.

    python tests/bench/frozen_trunk.py [model=DIR] [dataset=FILE] [pairs=8] [examples=64] [epochs=3] [max_length=512] [precision=bf16]
        [rounds=2] [out=FILE]

One `python -m alignkit.train loss=con_dph loss.dpo_weight=0 model.train=heads` a round, with an empty cache. The first epoch is the trunk's
run over the training and validation examples, with look-up and writing, and the steps of the epoch; a later one is its steps, logging
included. Then the same command again: its trunk is not run at all.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from contest import Contest, Training
from measure import append_record, machine, median, parse_arguments, run_child, say


@final
@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """The arguments."""

    examples: int = 64
    epochs: int = 3
    rounds: int = 2


def run(contest: Contest, options: Options, name: str) -> dict[str, Any]:
    """One command: seconds of each epoch."""
    steps_per_epoch = -(-options.examples // options.pairs)
    replaced = ("loss=", "loss.beta=", "logger.every=", "validation.every=", "steps=")
    shared = [part for part in contest.overrides(options.precision, steps_per_epoch * options.epochs) if not part.startswith(replaced)]
    steps = steps_per_epoch * options.epochs
    folder, log = contest.folder / name, contest.folder / "frozen.log"
    command = [sys.executable, "-m", "alignkit.train", *shared, "loss=con_dph", "loss.dpo_weight=0", "model.train=heads"]
    own = [f"dataset.train_examples={options.examples}", f"steps={steps}", f"validation.every={steps}", "logger.every=1"]
    child = run_child([*command, *own, f"run_dir={folder}"], log, threads=options.threads)
    if child.exit_code != 0:
        raise SystemExit(f"alignkit ended with {child.exit_code}:\n{log.read_text()[-2000:]}")
    results = json.loads((folder / "results.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    times = {row["step"]: row["time"] for row in rows if "train/loss" in row}
    # Steps of the first epoch after the first one; that one is taken to cost what the others do.
    first_steps = (times[steps_per_epoch] - times[1]) * steps_per_epoch / max(1, steps_per_epoch - 1)
    later = [times[(n + 1) * steps_per_epoch] - times[n * steps_per_epoch] for n in range(1, options.epochs)]
    return {
        "command_seconds": child.seconds,
        "trunk_seconds": results["trunk_seconds"],
        "computed": results["trunk/computed"],
        "first_epoch_seconds": results["trunk_seconds"] + first_steps,
        "later_epoch_seconds": median(later),
    }


def main() -> None:
    options = parse_arguments(Options, sys.argv[1:])
    before = machine()
    runs = []
    with tempfile.TemporaryDirectory(prefix="alignkit-bench-") as path:
        contest = Contest(options, "reward", "", Path(path))
        for number in range(options.rounds):
            shutil.rmtree(contest.folder / "frozen.cache", ignore_errors=True)  # where run_child has the cache be
            fresh, again = run(contest, options, f"fresh{number}"), run(contest, options, f"again{number}")
            assert again["computed"] == 0
            runs.append({"fresh": fresh, "again": again})
            ratio = fresh["later_epoch_seconds"] / fresh["first_epoch_seconds"]
            say(
                f"round {number + 1}: first epoch {fresh['first_epoch_seconds']:.2f} s, later ones {fresh['later_epoch_seconds']:.3f} s, "
                f"ratio {ratio:.4f}; the command {fresh['command_seconds']:.1f} s, again {again['command_seconds']:.1f} s"
            )
    ratio = median([one["fresh"]["later_epoch_seconds"] / one["fresh"]["first_epoch_seconds"] for one in runs])
    say(f"second epoch / first epoch, median: {ratio:.4f}")
    append_record(
        options.out, {"benchmark": "frozen_trunk", "options": dataclasses.asdict(options), "machine": before, "runs": runs, "ratio": ratio}
    )


if __name__ == "__main__":
    main()
