"""Weights & Biases: one run a job, offline unless the user is logged in, never a prompt, finished whatever happens."""

from __future__ import annotations

import netrc
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, cast, final, get_args

import wandb
import yaml
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from alignkit.errors import check_choice
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings
from alignkit.tracked_earlier import GLOBAL_STEP, Earlier
from alignkit.tracking_guard import Guard, in_a_line

INIT_TIMEOUT = 20.0
"""Seconds that W&B has to reach its server before a run is logged offline; its own limit is 90. A run waits half of them at most."""
FINISH_TIMEOUT = 25.0
"""Seconds that W&B tries to send what is left at the end; then it keeps it in its file. A run waits a little longer: see `Guard`."""
SERVER = "api.wandb.ai"
Mode: TypeAlias = Literal["online", "offline", "disabled", "shared"]


@final
class GuardedLogger(WandbLogger):
    """Lightning's logger, through a `Guard`."""

    def __init__(self, guard: Guard, earlier: Earlier, *, save_dir: str) -> None:
        super().__init__(save_dir=save_dir)
        self._guard = guard
        self._earlier = earlier

    @property
    def experiment(self) -> Any:
        """The W&B run; None where there is none (yet)."""
        return self._guard.run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._log(step, dict(metrics), lambda values: values)

    @rank_zero_only
    def log_table(
        self,
        key: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        def table(values: dict[str, Any]) -> dict[str, Any]:
            return {key: wandb.Table(columns=cast(Any, columns), data=cast(Any, data), dataframe=dataframe)}

        # It is made where it is logged: to do so writes a file, and may ask the server.
        self._log(step, {key: None}, table, asks=True)

    def summarise(self, results: Mapping[str, Scalar]) -> None:
        """Add to the run's summary."""
        self._guard.do(lambda tracked: tracked.summary.update(dict(results)) or 0, rows=0)

    def _log(
        self, step: int | None, values: dict[str, Any], made: Callable[[dict[str, Any]], dict[str, Any]], *, asks: bool = False
    ) -> None:
        def log(tracked: Any) -> int:
            if self._earlier.has(step, values):
                return 0
            tracked.log({**made(values), **({} if step is None else {GLOBAL_STEP: step})})
            return 1

        self._guard.do(log, asks=asks)


@contextmanager
def wandb_logger(settings: RunSettings, run: RunDir) -> Iterator[GuardedLogger | None]:
    """The logger of one job, or None where `logger.wandb` is false. Whatever becomes of W&B, nothing is raised and none waits for long."""
    if not settings.logger.wandb:
        yield None
        return
    earlier = Earlier(run)
    guard = Guard(lambda: _start(settings, run), truth=run.metrics.name)
    guard.do(earlier.catch_up, rows=0)
    exit_code = 1
    try:
        yield GuardedLogger(guard, earlier, save_dir=str(run.path))
        exit_code = 0
    finally:
        guard.end(exit_code)  # without this the next job of a sweep would log into this run


def mode() -> Mode:
    """`online` when the user is logged in, else `offline`; `WANDB_MODE` decides where it is set."""
    asked = os.environ.get("WANDB_MODE")
    if asked is not None:
        check_choice("WANDB_MODE", asked, get_args(Mode))
        return cast(Mode, asked)
    return "online" if _logged_in() else "offline"


def run_name(settings: RunSettings) -> str:
    """Loss, model and what a sweep varies: `con_dph-tiny-beta0.1-epsilon0.1-seed0`."""
    options = settings.loss.options
    swept = [f"{key}{options[key]:g}" for key in ("beta", "epsilon") if isinstance(options.get(key), int | float)]
    return "-".join([settings.loss.name, settings.model.name, *swept, f"seed{settings.seed}"])


def run_id(run: RunDir) -> str | None:
    """The W&B run of a directory whose training is resumed; None where there is none yet."""
    folders = [*run.path.glob("wandb/run-*-*"), *run.path.glob("wandb/offline-run-*-*")]
    newest = max((folder.name.removeprefix("offline-") for folder in folders), default=None)
    return None if newest is None else newest.split("-")[2]  # run-<time>-<id>, and -1, -2, ... within one second


def _start(settings: RunSettings, run: RunDir, *, name: str | None = None, job_type: str = "train") -> Any:
    # W&B's process waits for the host that it reports its own errors to before it ends, reachable or not.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    # code, machine and arguments stay here: an argument may hold a secret
    quiet = wandb.Settings(init_timeout=INIT_TIMEOUT, silent=True, console="off", disable_code=True, disable_git=True, x_disable_meta=True)
    if "finish_timeout" in wandb.Settings.model_fields:  # older versions have none
        quiet.finish_timeout = FINISH_TIMEOUT
        quiet.finish_timeout_raises = True
    arguments: dict[str, Any] = {
        "project": settings.logger.project,
        "group": settings.logger.group,
        "name": name or run_name(settings),
        "tags": [settings.loss.name, settings.model.name, settings.dataset.name],
        "job_type": job_type,
        "config": yaml.safe_load(run.config.read_text()),
        "dir": str(run.path),
        "settings": quiet,
    }
    before = run_id(run)
    if before is not None:
        arguments |= {"id": before, "resume": "allow"}
    try:
        return wandb.init(mode=mode(), **arguments)
    except wandb.errors.Error as error:
        folder = shlex.quote(str(run.path / "wandb"))
        print(
            f"W&B cannot be reached ({in_a_line(error)}); this run is logged offline. To send it later: wandb sync {folder}/offline-run-*",
            flush=True,
        )
        return wandb.init(mode="offline", **arguments)


def log_outcome(settings: RunSettings, run: RunDir, name: str, results: Mapping[str, Scalar]) -> None:
    """Tell W&B what an evaluation measured, where `logger.wandb` is true: its summary, and a table of all of it."""
    if not settings.logger.wandb:
        return
    numbers = {key: value for key, value in results.items() if isinstance(value, int | float)}
    cells = [[key, float(value)] for key, value in numbers.items()]
    guard = Guard(lambda: _start(settings, run, name=f"{name}-{settings.model.name}", job_type="evaluate"), truth=run.results.name)

    def log(tracked: Any) -> int:
        tracked.log({**numbers, "results": wandb.Table(columns=["name", "value"], data=cast(Any, cells))})
        return 1

    guard.do(log, asks=True)
    guard.end(0)


def _logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(SERVER) is not None
    except (OSError, netrc.NetrcParseError):
        return False
