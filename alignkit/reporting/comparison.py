"""What was compared: the keys in which runs differ, which of them name a run's group, and what all runs share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import pandas as pd

from alignkit.analysis.runs import Runs
from alignkit.reporting.numbers import shown

SEED = "seed"
STAGE = "stage"
"""Stands for a run's stage of a pipeline where there are several; no key of a config."""
FIRST = (STAGE, "loss.name", "loss.beta", "loss.epsilon", "model.name", "dataset.name")
"""Keys that name groups before others do, where they vary."""
ABSENT_KEY = "·"
"""The value of a key that a run's config does not have."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What sets runs apart."""

    labels: pd.DataFrame
    """Index `run`; a column a varied key, `seed` last: values as they are shown."""
    keys: tuple[str, ...]
    """Varied keys that name a group: runs that agree in them are seeds of one setting."""
    following: Mapping[str, str]
    """Varied keys that need not be named, since others or the seed fix them; with the keys that do, as words."""
    common: tuple[tuple[str, str], ...]
    """Keys with one value in all runs that have them, and that value."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Varied keys as a table shows them: those that name groups, the seed, those that others fix."""
        return (*self.keys, *((SEED,) if self.has_seeds else ()), *self.following)

    @property
    def has_seeds(self) -> bool:
        """Whether runs differ by seed."""
        return SEED in self.labels

    def group(self, run: str) -> str:
        """The words for a run's group: `loss.name=dpo, loss.beta=0.1`."""
        return named(self.keys, [str(self.labels.at[run, key]) for key in self.keys])


def compare(runs: Runs) -> Comparison:
    """Sort the keys of all configs into those that set runs apart and those that do not."""
    labels = labels_of(runs)
    keys, following = naming_keys(labels)
    return Comparison(labels=labels, keys=keys, following=following, common=tuple(shared(runs, labels)))


def shared(runs: Runs, labels: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Keys with one value in all runs that have them; of some runs only, how many those are."""
    for key, column in runs.config.items():
        values = column.map(_label)
        there = values[values != ABSENT_KEY]
        if key not in labels and there.nunique() == 1:
            yield str(key), there.iloc[0] if len(there) == len(values) else f"{there.iloc[0]} (in {len(there)} of {len(values)} runs)"


def labels_of(runs: Runs) -> pd.DataFrame:
    """The values of varied keys as texts; a key that some runs lack has `·` there."""
    columns = {key: runs.config[key].map(_label) for key in ordered(runs.varied())}
    stages = runs.info["stage"]
    if stages.nunique(dropna=False) > 1:
        columns = {STAGE: stages.map(lambda stage: stage or ABSENT_KEY), **columns}
    labels = pd.DataFrame(columns, index=runs.config.index)
    return labels[[key for key in labels if key != SEED] + [key for key in labels if key == SEED]]


def ordered(keys: Iterable[str]) -> list[str]:
    """Those that people name first, then the loss's, then the rest."""
    return sorted(keys, key=lambda key: (FIRST.index(key) if key in FIRST else len(FIRST), not key.startswith("loss."), key))


def naming_keys(labels: pd.DataFrame) -> tuple[tuple[str, ...], dict[str, str]]:
    """As few of the varied keys as tell settings apart, and what fixes each of the others.

    A key that has one value wherever the keys before it agree need not be named: `loss.monitor` follows from `loss.name`. Paths and
    other seeds come last and also follow where it takes the seed to fix them: a stage's `model.path` lies in its own run.
    """
    candidates = [str(key) for key in labels if key != SEED]
    late = [key for key in candidates if _may_follow_seed(key)]
    keys: list[str] = []
    following: dict[str, str] = {}
    for key in [*(key for key in candidates if key not in late), *late]:
        fixing = _fixing(labels, keys, key)
        if fixing is None and key in late and SEED in labels and is_fixed(labels, [*keys, SEED], key):
            fixing = (*keys, SEED)
        if fixing is None:
            keys.append(key)
        else:
            following[key] = " and ".join(fixing)
    return tuple(keys), following


def is_fixed(labels: pd.DataFrame, by: Sequence[str], key: str) -> bool:
    """Whether runs that agree in `by` agree in `key`."""
    if not by:
        return bool(labels[key].nunique() == 1)
    return bool((labels.groupby(list(by), observed=True)[key].nunique() == 1).all())


def named(keys: Sequence[str], values: Sequence[str]) -> str:
    """`loss.name=dpo, loss.beta=0.1`, without keys that are absent; all runs are one group where no key varies."""
    return ", ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True) if value != ABSENT_KEY) or "all runs"


def sorted_labels(values: Iterable[str]) -> list[str]:
    """Different values, numbers by size and before words."""
    return sorted(set(values), key=label_order)


def label_order(value: str) -> tuple[int, float, str]:
    """Numbers by size, then words by the alphabet, then what is absent."""
    try:
        return (0, float(value), "")
    except ValueError:
        return (2 if value == ABSENT_KEY else 1, 0.0, value)


def _fixing(labels: pd.DataFrame, keys: Sequence[str], key: str) -> tuple[str, ...] | None:
    """The one key that fixes `key`, else all that do; None where they do not."""
    for one in keys:
        if is_fixed(labels, [one], key):
            return (one,)
    return tuple(keys) if keys and is_fixed(labels, keys, key) else None


def _may_follow_seed(key: str) -> bool:
    return key.endswith(("path", "dir", SEED))


def _label(value: object) -> str:
    return ABSENT_KEY if isinstance(value, float) and value != value else shown(value)
