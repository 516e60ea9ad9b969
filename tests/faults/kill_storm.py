"""`python tests/faults/kill_storm.py --kills 100 --seed 0`: runs are killed at random, resumed, and compared with runs that were not.

Over DPO, a direct preference head, KTO and PPO in turn. SIGKILL comes at a random moment of the clock, or at a random one of the calls that
write a checkpoint, seal it, validate, or log; a run that is resumed may be killed again. When a run has come to its end, its metrics,
samples, held-out pairs, model, heads, newest checkpoint and results must equal, bit for bit, those of the run that nobody killed.

Prints one line a run and a table; exit code 1 where one differs.
"""

from __future__ import annotations

import argparse
import collections
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, final

sys.path.append(str(Path(__file__).parents[1] / "end_to_end"))  # run as a script; what tests share is a module of their folder

from commands import Commands, serving
from equal_runs import check_equal

from alignkit.run_dir import RunDir

SHORT = (
    *("steps=6", "validation.every=2", "validation.samples=1", "validation.sample_tokens=3", "logger=jsonl", "logger.every=1"),
    *("hardware.threads=1", "batch.pairs=2", "dataset.pairs=12", "dataset.validation_examples=2", "schedule.warmup_steps=1"),
    *("callbacks.progress_bar=false", "callbacks.checkpoint_minutes=0.001"),
)
RUNS = {
    "dpo": ("loss=dpo", "reference=memory"),
    "con_dph": ("loss=con_dph", "loss.head.dropout=0.3"),
    "kto": ("loss=kto", "reference=memory"),
    "ppo": ("loss=ppo", "scorer=vader", "rollout.samples=2", "rollout.max_tokens=6", "loss.epochs=2", "loss.minibatches=2"),
}
CALLS = {
    "writing a checkpoint": ("alignkit.callbacks.checkpoint_files:HashingFile.write", 1500),
    "sealing a checkpoint": ("alignkit.manifests:Manifest.write", 9),
    "validating": ("alignkit.models.backbone:Backbone.hidden_states", 60),
    "logging": ("alignkit.run_dir:RunDir.append_metrics", 11),
}
"""Methods, and about how often a run calls them."""
MOST_KILLS = 3
"""Of one run."""


@final
class Storm:
    """Kills, counted."""

    def __init__(self, folder: Path, commands: Commands, seed: int) -> None:
        self.folder = folder
        self.commands = commands
        self.random = random.Random(seed)
        self.kills: collections.Counter[tuple[str, str]] = collections.Counter()
        self.straight: dict[str, tuple[RunDir, float]] = {}
        self.differ: list[str] = []

    def blow(self, kills: int) -> int:
        """Runs in turn until there were so many kills. Returns how many runs."""
        runs = 0
        while (left := kills - self.kills.total()) > 0:
            self.run(runs, list(RUNS)[runs % len(RUNS)], most=min(MOST_KILLS, left))
            runs += 1
        return runs

    def run(self, number: int, name: str, most: int) -> None:
        """One run, killed at most `most` times, and compared."""
        expected, seconds = self.of(name)
        run, log = RunDir(self.folder / str(number)), self.folder / f"{number}.txt"
        argv: tuple[str, ...] = (*SHORT, *RUNS[name], f"run_dir={run.path}")
        moments: list[str] = []
        for _ in range(self.random.randint(1, most)):
            moment, order = self.moment(seconds)
            code = self.commands(*argv, log=log, signal=int(signal.SIGKILL), **order)
            if code != -signal.SIGKILL:
                break  # it was over, or the call never came
            moments.append(moment)
            self.kills[name, moment.partition(" at ")[0]] += 1
            if run.config.is_file() and run.config.stat().st_size > 0:
                argv = (f"resume={run.path}",)
            else:
                shutil.rmtree(run.path, ignore_errors=True)  # killed before it had said what it is
        else:
            code = self.commands(*argv, log=log)
        try:
            assert code == 0, f"exit code {code}: {log.read_text()[-1500:]}"
            check_equal(run, expected)
            verdict = "equal"
            shutil.rmtree(run.path)
        except AssertionError as error:
            verdict = f"DIFFERS ({run.path}): {str(error)[:1500]}"
            self.differ.append(verdict)
        print(f"{number:4} {name:8} {verdict}   {', '.join(moments)}", flush=True)

    def moment(self, seconds: float) -> tuple[str, dict[str, Any]]:
        """When to kill: half of the time by the clock."""
        if self.random.random() < 0.5:
            after = self.random.uniform(0.05, seconds)
            return f"any moment at {after:.2f} s", {"after": after}
        name = self.random.choice(list(CALLS))
        place, calls = CALLS[name]
        call = self.random.randint(1, calls)
        return f"{name} at call {call}", {"at": place, "call": call}

    def of(self, name: str) -> tuple[RunDir, float]:
        """The run that nobody kills, and how long it took."""
        if name not in self.straight:
            run, log = RunDir(self.folder / name), self.folder / f"{name}.txt"
            begun = time.perf_counter()
            code = self.commands(*SHORT, *RUNS[name], f"run_dir={run.path}", log=log)
            assert code == 0, log.read_text()
            self.straight[name] = run, time.perf_counter() - begun
        return self.straight[name]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="alignkit-kills-"))
    with serving(folder) as commands:
        storm = Storm(folder, commands, options.seed)
        runs = storm.blow(options.kills)
    print(f"\n{storm.kills.total()} kills of {runs} runs, seed {options.seed}: {len(storm.differ)} runs differ")
    for (name, moment), count in sorted(storm.kills.items()):
        print(f"  {name:8} {moment:22} {count:4}")
    if not storm.differ:
        shutil.rmtree(folder)
    return 1 if storm.differ else 0


if __name__ == "__main__":
    sys.exit(main())
