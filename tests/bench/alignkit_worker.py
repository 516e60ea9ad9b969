"""One measured run of alignkit: `python alignkit_worker.py JOB.json`. Started by the other scripts of this folder.

It is the run that `python -m alignkit.train` makes, with one more callback. The job has `overrides`, `dump` (a folder, or null) with
`dump_steps`, `started` (when the parent started this process, seconds since 1970) and `result`, the file to write.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, final

import torch
from lightning import Callback, LightningModule, Trainer
from safetensors.torch import save_file

import alignkit.training
from alignkit.command_line import precheck
from alignkit.data.steps import Steps
from alignkit.job import carry_out
from alignkit.models.location import locate
from alignkit.modules.alignment import AlignmentModule
from alignkit.run_dir import RunDir, read_jsonl


@final
class Clock(Callback):
    """When each optimiser step ended, and what the steps are made of."""

    def __init__(self, dump: str | None, dump_steps: int) -> None:
        self.dump, self.dump_steps = dump, dump_steps
        self.began = 0.0
        """Seconds since 1970, like `started` of the job."""
        self.ends: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, AlignmentModule)
        if self.dump is not None:
            dump_examples(trainer.datamodule.steps, self.dump_steps, Path(self.dump))  # type: ignore[attr-defined]
            dump_head(pl_module, Path(self.dump))
        self.began = time.time()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.ends.append(time.perf_counter())


def dump_examples(steps: Steps, count: int, folder: Path) -> None:
    """Token ids in the order of training, one example a line.

    Raises:
        SystemExit: when a step is smaller than the others: TRL would then cut its batches elsewhere.
    """
    with (folder / "examples.jsonl").open("w") as file:
        for step in range(count):
            indices = steps.global_batch(step)
            if len(indices) != steps.pairs:
                raise SystemExit(f"{len(steps.examples)} examples are no whole number of steps: take fewer steps or pairs, or more data.")
            for example in (steps.examples[index] for index in indices):
                file.write(json.dumps({"step": step, "prompt": example.prompt_ids, "completions": example.completion_ids}) + "\n")


def dump_head(module: AlignmentModule, folder: Path) -> None:
    """The initial weights of the one head, where there is one: TRL's is to start from the same."""
    scores = {name: module.heads.head(name).score.weight.detach().clone() for name in module.heads}
    if scores:
        (weight,) = scores.values()
        save_file({"score.weight": weight}, folder / "head.safetensors")


def main(job: dict[str, Any]) -> None:
    clock = Clock(job["dump"], job["dump_steps"])
    build_trainer = alignkit.training.build_trainer

    def timed_trainer(*args: Any, **kwargs: Any) -> Trainer:
        trainer = build_trainer(*args, **kwargs)
        trainer.callbacks.append(clock)  # type: ignore[attr-defined]  # last: after the certificate's own start
        return trainer

    alignkit.training.build_trainer = timed_trainer
    (settings,) = precheck(job["overrides"])
    run = RunDir.create(settings.run_dir)
    results = carry_out(settings, run)
    reference_seconds = float(results.get("reference_seconds") or 0.0)  # there where reference log-probs are computed before training
    result = {
        "losses": [row["train/loss"] for row in read_jsonl(run.metrics) if "train/loss" in row],
        "step_seconds": [end - start for start, end in zip(clock.ends, clock.ends[1:], strict=False)],
        "tokens": [],
        "startup_seconds": clock.began - job["started"] - reference_seconds,
        "reference_seconds": reference_seconds,
        "threads": torch.get_num_threads(),
        "model_path": locate("model.path", settings.model.path),
        "versions": {"torch": torch.__version__},
        "settings": {"layout": results["layout"], "precision": settings.precision.lightning, "formula": results["formula"]},
    }
    Path(job["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
