"""Which benchmarks there are."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil

from alignkit.errors import check_choice
from alignkit.evaluation import tasks
from alignkit.evaluation.tasks.task import Task


def find_task(name: str, where: str, *, listed: bool | None) -> Task:
    """The benchmark of that name; `where` is the dotted path of the setting that has it.

    Raises:
        UserError: when there is none.
    """
    check_choice(where, name, task_kinds())
    return task_kinds()[name](listed=listed)


@functools.cache
def task_kinds() -> dict[str, type[Task]]:
    """The class of each benchmark, by the name of its module."""
    kinds = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(tasks.__path__)):
        module = importlib.import_module(f"{tasks.__name__}.{name}")
        for _, member in inspect.getmembers(module, inspect.isclass):
            if member.__module__ == module.__name__ and issubclass(member, Task) and not inspect.isabstract(member):
                kinds[name] = member
    return kinds
