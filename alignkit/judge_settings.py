"""The settings of whoever judges answers. See `settings` for those of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeSettings:
    """`judge=`: who says which answers are better."""

    name: str
    """`llm` is the one public class of `alignkit/judges/llm.py`; a dotted name is a module of an `allow_code` package."""
    options: dict[str, Any]
    """The fields of that class, as typed by the user."""
