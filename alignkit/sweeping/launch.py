"""Handing jobs of a sweep to Hydra's launcher."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode

from alignkit.command_line import Command
from alignkit.composition import CONFIG_NAME, composing
from alignkit.sweeping.jobs import make_ready, run_sweep_job
from alignkit.sweeping.sweep import NOT_RUN, JobRecord, ended, is_left, read, write

NEW_POOLS = 3
"""How often the processes of a launcher are started anew when one of them was killed, which takes the others' jobs with it."""
SETTLING = 1.0
"""Seconds for those jobs to be gone."""

Launch = Callable[[Sequence[tuple[JobRecord, Sequence[str]]]], None]
"""Runs jobs, each with the overrides that it is made of."""


@contextmanager
def launching(command: Command, folder: Path) -> Iterator[Launch]:
    """Hydra's launcher, set up for the jobs of a sweep."""
    with composing(command.config_dir) as hydra:
        place = [f"hydra.sweep.dir={quoted(str(folder))}"]
        cfg = hydra.compose_config(CONFIG_NAME, [*command.overrides, *place], run_mode=RunMode.MULTIRUN)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(cfg))
        launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=run_sweep_job, config=cfg)
        together = cfg.hydra.sweeper.get("max_batch_size")

        def launch(jobs: Sequence[tuple[JobRecord, Sequence[str]]]) -> None:
            size = together or len(jobs)
            for begin in range(0, len(jobs), size):
                some = jobs[begin : begin + size]
                lines = [[*typed, f"hydra.sweep.subdir={quoted(record.run)}"] for record, typed in some]
                for returned in launcher.launch(lines, initial_job_idx=some[0][0].job):
                    _ = returned.return_value  # raises what a job could not leave word of

        yield launch


def quoted(text: str) -> str:
    """A text as the value of an override."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def run_grid(command: Command, folder: Path, left: Sequence[JobRecord]) -> None:
    """Run the jobs of a sweep that are left.

    Raises:
        KeyboardInterrupt, SystemExit: when a job was interrupted.
    """
    with launching(command, folder) as launch:
        for pool in range(NEW_POOLS + 1):
            if not left:
                return
            try:
                launch([(record, command.jobs[record.job].overrides) for record in left])
                return
            except BrokenExecutor:
                if pool == NEW_POOLS:
                    raise
                time.sleep(SETTLING)
                left = [record for record in left if ended(folder, record, still_running=True).status == NOT_RUN]
                for record in left:
                    make_ready(folder, record)
                print(f"a process of the launcher was killed; {len(left)} jobs go on in new ones", file=sys.stderr, flush=True)


def prepare(folder: Path) -> list[JobRecord]:
    """The jobs that are left, all of them the first time. From now on they are not run yet as far as `sweep.json` is concerned.

    Raises:
        UserError: when the directory of one is none of the sweep's.
    """
    records = [ended(folder, record) if record.status == NOT_RUN else record for record in read(folder)]
    left = [record for record in records if is_left(folder, record)]
    for record in left:
        make_ready(folder, record)
    waiting = {record.job: replace(record, status=NOT_RUN, exit_code=None, message="", results={}) for record in left}
    write(folder, [waiting.get(record.job, record) for record in records])
    return list(waiting.values())
