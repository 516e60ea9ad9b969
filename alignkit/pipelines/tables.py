"""The tables that a pipeline and a sweep of pipelines end with."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from alignkit.pipelines.records import SKIPPED, StageRecord
from alignkit.run_dir import Scalar
from alignkit.summary import SWEEP_METRICS, number
from alignkit.sweeping.sweep import JobRecord
from alignkit.terminal import visible


def stages_table(records: Sequence[StageRecord]) -> Table:
    """One line a stage: what it cost, and its headline before the first and after the last step."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("stage", "loss", "steps", "seconds", "peak_memory", "metric", "start", "end"):
        table.add_column(heading, justify="left" if heading in ("stage", "loss", "metric") else "right")
    for record in records:
        results = record.results
        costs = (number(results.get("steps")), number(record.seconds), gibibytes(results.get("peak_memory_bytes")))
        end = SKIPPED if record.status == SKIPPED else number(results.get(record.headline))
        reached = (record.headline, number(results.get(record.before)), end)
        table.add_row(*(Text(visible(told)) for told in (record.stage, record.label, *costs, *reached)))
    return table


def jobs_table(jobs: Sequence[JobRecord], headlines: Sequence[str], skipped: Sequence[int]) -> Table:
    """One line a job: its arm where it has one, the overrides that set it apart, how it ended, how many stages were skipped where some
    were, and what its last stage reached. `headlines` are those of the jobs' last stages."""
    changes = [dict(change.split("=", 1) for change in job.overrides) for job in jobs]
    keys = list(dict.fromkeys(key for change in changes for key in change))
    metrics = [name for name in dict.fromkeys([*headlines, *SWEEP_METRICS]) if any(name in job.results for job in jobs)]
    table = Table(box=box.SIMPLE_HEAD)
    arms = ["arm"] if any(job.arm for job in jobs) else []
    skips = [SKIPPED] if any(skipped) else []
    for heading in ("job", *arms, *keys, "status", *skips, *metrics):
        table.add_column(Text(visible(heading)), justify="left" if heading in ("arm", "status") else "right")
    for job, change, count in zip(jobs, changes, skipped, strict=True):
        status = (job.status, *([number(count)] if skips else []))
        told = (*(change.get(key, "") for key in keys), *status, *(number(job.results.get(name)) for name in metrics))
        table.add_row(*(Text(visible(word)) for word in (str(job.job), *([job.arm] if arms else []), *told)))
    return table


def gibibytes(value: Scalar) -> str:
    """A size in memory."""
    return f"{value / 2**30:.2f} GiB" if isinstance(value, (int, float)) else ""
