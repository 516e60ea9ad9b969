"""What a study is to look for, from what was typed. No optuna."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import final

from alignkit.composition import Composer
from alignkit.errors import UserError
from alignkit.sweeping.search_space import Dimension, dimension
from alignkit.sweeping.study_settings import SWEEPER, StudySettings, study_settings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class StudyPlan:
    """What `hydra/sweeper=optuna_study` is to look for, and where."""

    settings: StudySettings
    space: Mapping[str, Dimension]
    """What may be chosen, by key as Hydra is given it: `++loss.beta`."""
    fixed: tuple[str, ...]
    """Overrides of every job."""
    metric: str
    """The number of `results.json` that is sought."""
    higher: bool
    """Whether more of it is better."""


def read_study(composer: Composer, overrides: Sequence[str], given: object) -> StudyPlan:
    """What a study may choose from; what it seeks is known once its jobs are.

    Raises:
        UserError: when there is nothing to choose, or no optuna.
    """
    assert isinstance(given, dict)
    settings = study_settings(given)
    if find_spec("optuna") is None:
        raise UserError(f"hydra/sweeper = {SWEEPER!r}; needs Optuna, which is not installed: pip install 'alignkit[sweep]'.")
    space: dict[str, Dimension] = {}
    fixed = []
    for override in map(composer.parse, overrides):
        of_key = dimension(override)
        if of_key is None:
            fixed.append(str(override.input_line))
        else:
            space[override.get_key_element()] = of_key
    if not space:
        raise UserError("hydra/sweeper = 'optuna_study': there is nothing to choose. Type e.g. 'loss.beta=tag(log,interval(0.01,1))'.")
    return StudyPlan(
        settings=settings, space=space, fixed=tuple(line for line in fixed if not line.startswith("hydra")), metric="", higher=True
    )
