"""`scorer=python`: a function of the user's own."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from alignkit.errors import UserError, did_you_mean
from alignkit.scorers.returned import checked_scores, quoted
from alignkit.scorers.scorer import TextScorer


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Python(TextScorer):
    """Whatever a callable returns for lists of prompts and completions, of equal length: one number for each completion.

    It is imported when the scorer is made, so that a wrong name is known at once. Who makes one from a config has seen to it that the
    user allows that code: `alignkit.resolution.build_scorer`.
    """

    callable: str
    """`my_pkg.rewards.politeness`: a function `(prompts, completions) -> list of numbers`, or a class without arguments that has
    `score(prompts, completions)`; of a class one instance is made in each process."""

    def __post_init__(self) -> None:
        _load(self.callable)

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """Raises:
        UserError: when it does not return as many finite numbers.
        """
        returned = _load(self.callable)(list(prompts), list(completions))
        return checked_scores(f"scorer.callable = {self.callable!r}", returned, len(completions))


@functools.cache
def _load(path: str) -> Callable[[list[str], list[str]], Any]:
    where = f"scorer.callable = {path!r}"
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise UserError(f"{where}; must be the dotted path of a function or class, e.g. my_pkg.rewards.politeness.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise UserError(f"{where}: there is no module {error.name}. Check the name and that the package can be imported.") from None
        raise
    target = getattr(module, name, None)
    if target is None:
        raise UserError(f"{where}: {module_name} has no {name!r}.{did_you_mean(name, vars(module))}")
    scores = getattr(target(), "score", None) if inspect.isclass(target) else target
    if not callable(scores):
        raise UserError(f"{where}: must be a function, or a class with score(prompts, completions); it is {quoted(target)}.")
    function: Callable[[list[str], list[str]], Any] = scores
    return function
