"""What pipelines cost and what they reach, side by side: the table of `experiment=cost_of_alignment`."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

from rich import box
from rich.table import Table
from rich.text import Text

from alignkit.metrics import GOLD, VALIDATION
from alignkit.pipelines.stage_runs import PlacedPipeline, PlacedStage
from alignkit.run_dir import Scalar, read_jsonl
from alignkit.summary import START

COSTS = "costs.json"
RATE = "optimizer.lr"
"""What an experiment varies beside the seed, in the last stage that trains."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One pipeline of the sweep, measured."""

    pipeline: str
    seed: int
    rate: float
    """Learning rate of the last stage that trains."""
    stages: int
    seconds: float
    """Of all stages, those of shared ones too."""
    peak_memory_bytes: int
    models_held: int
    """Language models in memory at once, at most."""
    gold_start: float | None
    gold_end: float | None
    """Gold reward of one sample a held-out prompt, before and after the last stage that trains."""
    samples_to_target: int | None
    """Completions that the last stage has trained on when gold first reached the target: samples of its own for PPO, two a pair else.
    None where it never did."""
    best_of: Mapping[str, float] = field(default_factory=dict)
    """Gold reward of the best of N by the stage that samples, by N."""


def measure(placed: PlacedPipeline, target: float) -> Job:
    """Read what a finished pipeline left."""
    results = [stage.results or {} for stage in placed.stages]
    last, reached = [(stage, own) for stage, own in zip(placed.stages, results, strict=True) if stage.stage.command == "train"][-1]
    sampled = [own for stage, own in zip(placed.stages, results, strict=True) if stage.stage.command != "train"]
    run = last.settings.run
    best = {
        name.removeprefix("best_of_").removesuffix("/gold"): float(value)
        for own in sampled
        for name, value in own.items()
        if name.startswith("best_of_") and name.endswith("/gold") and isinstance(value, (int, float))
    }
    return Job(
        pipeline=placed.pipeline.name,
        seed=run.seed,
        rate=run.optimizer.lr,
        stages=len(placed.stages),
        seconds=sum(number(own, "seconds") or 0.0 for own in results),
        peak_memory_bytes=int(max(number(own, "peak_memory_bytes") or 0 for own in results)),
        models_held=int(max(number(own, "models_held") or 1 for own in results)),
        gold_start=number(reached, START + VALIDATION + GOLD),
        gold_end=number(reached, VALIDATION + GOLD),
        samples_to_target=samples_to_target(last, reached, target),
        best_of=best,
    )


def samples_to_target(stage: PlacedStage, results: Mapping[str, Scalar], target: float) -> int | None:
    """Completions trained on until a validation first shows the target."""
    steps, completions = number(results, "steps"), number(results, "completions")
    if not steps or completions is None:
        return None
    for row in read_jsonl(stage.run.metrics):
        gold, step = row.get(VALIDATION + GOLD), row["step"]
        if isinstance(gold, (int, float)) and isinstance(step, (int, float)) and gold >= target:
            return round(completions * step / steps)
    return None


def number(results: Mapping[str, Scalar], name: str) -> float | None:
    """A result, where it is a number."""
    value = results.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def costs_table(jobs: Sequence[Job], target: float) -> Table:
    """One row a pipeline and learning rate, with means over seeds and, in brackets, the values of all seeds."""
    groups: defaultdict[tuple[str, float], list[Job]] = defaultdict(list)
    for job in jobs:
        groups[job.pipeline, job.rate].append(job)
    table = Table(box=box.SIMPLE_HEAD)
    headings = ("pipeline", "lr", "stages", "models held", "seconds", "peak memory", "gold, start", "gold, end", f"samples to {target:g}")
    for heading in (*headings, "best of N"):
        table.add_column(heading, justify="left" if heading in ("pipeline", "best of N") else "right")
    for (pipeline, rate), own in groups.items():
        counts = [job.samples_to_target for job in own]
        cells = (
            pipeline,
            f"{rate:g}",
            str(own[0].stages),
            str(max(job.models_held for job in own)),
            f"{statistics.mean(job.seconds for job in own):.0f}",
            f"{max(job.peak_memory_bytes for job in own) / 2**30:.2f} GiB",
            spread([job.gold_start for job in own]),
            spread([job.gold_end for job in own]),
            ", ".join("never" if count is None else str(count) for count in counts),
            "  ".join(f"{n}: {statistics.mean(job.best_of[n] for job in own):.2f}" for n in own[0].best_of),
        )
        table.add_row(*map(Text, cells))
    return table


def spread(values: Sequence[float | None]) -> str:
    """`0.61 (0.55, 0.63, 0.65)`: the mean and what it is the mean of."""
    there = [value for value in values if value is not None]
    if not there:
        return ""
    return f"{statistics.mean(there):.2f} ({', '.join(f'{value:.2f}' for value in there)})"


def write_costs(folder: Path, jobs: Sequence[Job], target: float) -> None:
    """`costs.json`, whole or not at all."""
    told: dict[str, Any] = {"target": target, "jobs": [asdict(job) for job in jobs]}
    draft = folder / f"{COSTS}.part"
    draft.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    draft.replace(folder / COSTS)
