"""What an evaluation leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from rich.table import Table

from alignkit.run_dir import Scalar


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Everything that was measured, three times."""

    results: Mapping[str, Scalar]
    """`results.json`: flat, names with `/`."""
    document: Mapping[str, object]
    """`evaluation.json`: the same as a tree, with intervals and counts."""
    table: Table
    """What is printed."""
