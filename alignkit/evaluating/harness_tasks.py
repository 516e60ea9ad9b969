"""Tasks of lm-evaluation-harness by their names: found, allowed, and with their data, before any weights are loaded."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from alignkit.data.hub import offline
from alignkit.data.tables import quiet_datasets
from alignkit.errors import UserError
from alignkit.evaluating.harness_files import check_files, sandboxed
from alignkit.evaluation_settings import LmEvalSettings
from alignkit.hub import ask_hub, first_line

ENVIRONMENT = {"HF_UPDATE_DOWNLOAD_COUNTS": "0", "DISABLE_MULTIPROC": "1"}
"""What the harness and its libraries go by: nobody is told what is loaded, and no process is forked for a standard error."""
NEEDED = ("lm_eval", "accelerate")
NEAREST = 3
"""Names that are told where one is mistyped."""
UNFIT = {
    "UNSAFE_CODE": "runs code that the model writes, which alignkit does not do",
    "MULTIMODAL": "asks about pictures or sound",
}
"""Marks of the harness on tasks that are refused."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessTasks:
    """What is to be evaluated, in the harness's own words."""

    manager: Any
    """`lm_eval.tasks.TaskManager`."""
    asked: list[Any]
    """A task or group for each name, tasks for a tag."""
    tasks: Mapping[str, Any]
    """Every task by its name."""


def check_installed() -> None:
    """Refuse to go on without the harness.

    Raises:
        UserError: saying what to type.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"evaluation = lm_eval: {missing[0]} is not installed. Type pip install 'alignkit[lm_eval]'.")


@contextmanager
def loaded_tasks(evaluation: LmEvalSettings, allow_code: Sequence[str]) -> Iterator[HarnessTasks]:
    """The tasks with their data; they can be evaluated for as long as the context lasts.

    Raises:
        UserError: when a name is not known, a file of one's own may run code, data cannot be had, or a task cannot be evaluated here.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from lm_eval.api import metrics, registry

    assert metrics  # its import makes the metrics known
    trusted = True
    if evaluation.include_path is not None:
        trusted = check_files(Path(evaluation.include_path).expanduser(), list(registry.metric_registry), allow_code)
    manager = index(evaluation)
    with sandboxed(not trusted), quiet_datasets() as datasets:
        asked: list[Any] = []
        for name in dict.fromkeys(evaluation.tasks):
            asked += load(manager, name, datasets)
        try:
            tasks = manager.load(asked)["tasks"]
        except ValueError as error:  # a task is in two groups
            raise UserError(f"evaluation.tasks = {evaluation.tasks}: {first_line(error)}") from None
        for name, task in tasks.items():
            for mark, fault in UNFIT.items():
                if getattr(task, mark, False):
                    raise UserError(f"evaluation.tasks: {name} {fault}. Leave it out.")
        yield HarnessTasks(manager=manager, asked=asked, tasks=tasks)


def index(evaluation: LmEvalSettings) -> Any:
    """The names that there are: only those of one's own where no other is asked for, as the harness's 14,000 files take seconds to read.

    Raises:
        UserError: on a name that is not known, with those that come nearest.
    """
    from lm_eval import __version__
    from lm_eval.tasks import TaskManager

    folder = None if evaluation.include_path is None else Path(evaluation.include_path).expanduser()
    if folder is not None:
        own = TaskManager(include_path=folder, include_defaults=False)
        if set(evaluation.tasks) <= set(own.all_subtasks):
            return own
    manager = TaskManager(include_path=folder)
    for name in evaluation.tasks:
        if name not in manager.task_index:
            near = difflib.get_close_matches(name, manager.all_tasks, n=NEAREST)
            meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise UserError(
                f"evaluation.tasks = {name!r}; lm-evaluation-harness {__version__} has no task of that name.{meant} All names: "
                "lm-eval ls tasks. Tasks of your own: evaluation.include_path=FOLDER."
            )
    return manager


def load(manager: Any, name: str, datasets: Any) -> list[Any]:
    """The task or group of a name, or the tasks of a tag.

    Raises:
        UserError: when its data or a package that it needs cannot be had.
    """
    silence = None
    for place in dict.fromkeys(hub_places(manager.task_index, name)):
        silence = silence or ask_hub("dataset", place, f"evaluation.tasks = {name}: {place}")
    with offline(datasets, silence is not None):
        try:
            found = manager.load([name])
        except Exception as error:  # whatever the hub, the network, the cache, the readers and the task's own code raise
            raise UserError(failure(name, silence, error)) from error
    return [found["groups"][name]] if name in found["groups"] else list(found["tasks"].values())


def hub_places(entries: Mapping[str, Any], name: str) -> Iterator[str]:
    """Data sets of the hub that a task, the members of a group or the tasks of a tag read."""
    entry = entries.get(name)
    if entry is None:
        return
    if entry.cfg is None:  # a tag
        members: list[Any] = sorted(entry.tags)
    elif isinstance(entry.cfg.get("task"), list):
        members = entry.cfg["task"]
    else:
        place = str(entry.cfg.get("dataset_path") or "")
        if place.count("/") == 1 and not Path(place).exists():
            yield place
        return
    for member in members:
        inner = member.get("task", member.get("group")) if isinstance(member, Mapping) else member
        if isinstance(inner, str) and inner != name:
            yield from hub_places(entries, inner)


def failure(name: str, silence: str | None, error: Exception) -> str:
    """What is said of a task that could not be loaded; `silence` is why the hub does not answer, None where it does."""
    opening = f"evaluation.tasks = {name!r}:"
    absent = error if isinstance(error, ModuleNotFoundError) else error.__cause__
    if isinstance(absent, ModuleNotFoundError):
        return f"{opening} needs {absent.name}, which is not installed. Type pip install {absent.name}, or leave the task out."
    if silence is not None:
        return (
            f"{opening} the hub cannot be reached ({silence}) and the cache does not have the data. Type "
            "evaluation.include_path=FOLDER for a task that reads files, or evaluate by alignkit's own tasks: evaluation=gpt4all "
            "evaluation.path=DIR."
        )
    return f"{opening} could not be loaded: {type(error).__name__}: {first_line(error)}"
