"""Weights & Biases: one run a job, offline unless the user is logged in, never a prompt, finished whatever happens."""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, cast, get_args

import wandb
import yaml
from lightning.pytorch.loggers import WandbLogger

from alignkit.errors import check_choice
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings

INIT_TIMEOUT = 20.0
"""Seconds that a run waits for the server before it goes on offline; the library's own limit is 90."""
SERVER = "api.wandb.ai"
Mode: TypeAlias = Literal["online", "offline", "disabled", "shared"]


@contextmanager
def wandb_logger(settings: RunSettings, run: RunDir) -> Iterator[WandbLogger | None]:
    """The logger of one job, or None where `logger.wandb` is false."""
    if not settings.logger.wandb:
        yield None
        return
    exit_code = 1
    try:
        yield WandbLogger(experiment=_start(settings, run), save_dir=str(run.path))
        exit_code = 0
    finally:
        # Without this the next job of a sweep would log into this run.
        wandb.finish(exit_code=exit_code)


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
    # code, machine and arguments stay here: an argument may hold a secret
    quiet = wandb.Settings(init_timeout=INIT_TIMEOUT, silent=True, console="off", disable_code=True, disable_git=True, x_disable_meta=True)
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
    except wandb.errors.CommError as error:
        print(f"W&B cannot be reached ({error}); this run is logged offline. Later: wandb sync {run.path / 'wandb'}/offline-run-*")
        return wandb.init(mode="offline", **arguments)


def log_outcome(settings: RunSettings, run: RunDir, name: str, results: Mapping[str, Scalar]) -> None:
    """Tell W&B what an evaluation measured, where `logger.wandb` is true: its summary, and a table of all of it."""
    if not settings.logger.wandb:
        return
    exit_code = 1
    try:
        tracked = _start(settings, run, name=f"{name}-{settings.model.name}", job_type="evaluate")
        numbers = {key: value for key, value in results.items() if isinstance(value, int | float)}
        table = wandb.Table(columns=["name", "value"], data=[[key, float(value)] for key, value in numbers.items()])
        tracked.log({**numbers, "results": table})
        exit_code = 0
    finally:
        wandb.finish(exit_code=exit_code)


def _logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(SERVER) is not None
    except (OSError, netrc.NetrcParseError):
        return False
