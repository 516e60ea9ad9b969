"""One measured PPO run of alignkit: `python alignkit_ppo_worker.py JOB.json`. Started by `versus_ppo.py`.

It is the run that `python -m alignkit.train` makes, with one more callback and a sampler that never meets the terminator. The job has
`overrides`, `dump` (a folder, or null), `started` (when the parent started this process, seconds since 1970) and `result`, the file to
write.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
import transformers
from lightning import Callback, LightningModule, Trainer

import alignkit.training
from alignkit.command_line import precheck
from alignkit.data.steps import Steps
from alignkit.job import carry_out
from alignkit.metrics import KL, SCORES, TRAIN
from alignkit.run_dir import RunDir, read_jsonl
from alignkit.sampling.sampler import Sample
from alignkit.sampling.trunk_sampler import TrunkSampler


@final
class Clock(Callback):
    """When each update ended, on the wall and in processor seconds of all threads."""

    def __init__(self, dump: str | None, updates: int) -> None:
        self.dump, self.updates = dump, updates
        self.began = 0.0
        """Seconds since 1970, like `started` of the job."""
        self.ends: list[float] = []
        self.cpu: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.dump is not None:
            dump_prompts(trainer.datamodule.steps, self.updates, Path(self.dump))  # type: ignore[attr-defined]
        self.began = time.time()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())


@final
class Sampling:
    """When the sampler was called: the time it ended, as the clock tells it, and its seconds."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, float]] = []

    def within(self, start: float, end: float) -> float:
        """Seconds of the calls that ended between two times: those of validation end outside of updates."""
        return sum(seconds for ended, seconds in self.calls if start < ended <= end)


def dump_prompts(steps: Steps, count: int, folder: Path) -> None:
    """Token ids of prompts in the order of training, one a line.

    Raises:
        SystemExit: when an update is smaller than the others.
    """
    with (folder / "examples.jsonl").open("w") as file:
        for step in range(count):
            indices = steps.global_batch(step)
            if len(indices) != steps.pairs:
                raise SystemExit(f"{len(steps.examples)} prompts are no whole number of updates: take fewer updates or more data.")
            for index in indices:
                file.write(json.dumps({"prompt": steps.examples[index].prompt_ids}) + "\n")


def sample_without_end(sampling: Sampling) -> None:
    """FOR THE BENCHMARK ALONE: patch the sampler so that every completion has its full length, as TRL's have without a stop token.

    It is told that the last token of the vocabulary ends completions, which models hardly ever draw; where one did, the run fails.
    """
    initialise, call = TrunkSampler.__init__, TrunkSampler.__call__

    def endless(self: TrunkSampler, *args: Any, **kwargs: Any) -> None:
        initialise(self, *args, **kwargs)
        self.terminator = self.backbone.lm.config.vocab_size - 1

    def timed(self: TrunkSampler, prompts: Sequence[Sequence[int]], **kwargs: Any) -> list[list[Sample]]:
        started = time.perf_counter()
        answers = call(self, prompts, **kwargs)
        ended = time.perf_counter()
        sampling.calls.append((ended, ended - started))
        lengths = {len(sample.ids) for samples in answers for sample in samples}
        assert lengths == {self.max_tokens}, f"completions of {lengths} tokens"
        return answers

    TrunkSampler.__init__, TrunkSampler.__call__ = endless, timed  # type: ignore[method-assign]


def column(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    """A metric of the training rows that have it."""
    return [row[key] for row in rows if key in row]


def main(job: dict[str, Any]) -> None:
    (settings,) = precheck(job["overrides"])
    sampling, clock = Sampling(), Clock(job["dump"], settings.steps)
    sample_without_end(sampling)
    build_trainer = alignkit.training.build_trainer

    def timed_trainer(*args: Any, **kwargs: Any) -> Trainer:
        trainer = build_trainer(*args, **kwargs)
        trainer.callbacks.append(clock)  # type: ignore[attr-defined]  # last: after the certificate's own start
        return trainer

    alignkit.training.build_trainer = timed_trainer
    run = RunDir.create(settings.run_dir)
    carry_out(settings, run)
    rows = list(read_jsonl(run.metrics))
    spans = list(zip(clock.ends, clock.ends[1:], strict=False))
    result = {
        "step_seconds": [end - start for start, end in spans],
        "cpu_seconds": [end - start for start, end in zip(clock.cpu, clock.cpu[1:], strict=False)],
        "sampling_seconds": [sampling.within(start, end) for start, end in spans],
        "episodes": settings.batch.pairs * settings.rollout.samples,
        "scores": column(rows, TRAIN + SCORES),
        "kls": column(rows, TRAIN + KL),
        "startup_seconds": clock.began - job["started"],
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "settings": {"precision": settings.precision.lightning, "response": settings.rollout.max_tokens},
    }
    Path(job["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
