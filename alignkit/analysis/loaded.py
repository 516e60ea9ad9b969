"""One run as it was read, from whatever place: the record that readers fill and frames are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import pyarrow as pa  # type: ignore[import-untyped]

STEP, EPOCH, TIME = "step", "epoch", "time"
CLOCKS = (STEP, EPOCH, TIME)
"""Columns of a history that are no metrics: optimiser steps, passes over the data, seconds since 1970."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedRun:
    """A run: a directory, or one of W&B's."""

    name: str
    """Its directory, absolute; of W&B its name there."""
    path: str | None
    """Its directory; None where W&B's server told of it."""
    config: Mapping[str, Any]
    """Flat, by dotted key; lists as tuples."""
    results: Mapping[str, Any]
    """`results.json`; empty where a run has none yet."""
    history: pa.Table
    """`CLOCKS`, then one float64 column a metric; a row a logged row."""
    samples: Sequence[Mapping[str, Any]]
    """Rows of `samples.jsonl`."""
    status: str
    stage: str | None = None
    """Its name in a pipeline."""
    job: int | None = None
    """Its number in a sweep."""
    folder: str | None = None
    """The sweep, or else the pipeline, that it is part of."""
