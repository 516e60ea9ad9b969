"""How many examples a property is tried on: in every run of the tests the same few, on request as many others as one likes.

`ALIGNKIT_FUZZ=50 python -m pytest tests/fuzz` tries 50 times as many, other ones each time, and keeps those that fail in `.hypothesis`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

from alignkit.errors import UserError

TIMES = int(os.environ.get("ALIGNKIT_FUZZ", "1"))
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example, HealthCheck.function_scoped_fixture]
"""What hypothesis says of slow properties; fixtures that a property shares with all of its examples are folders that it overwrites."""


def fuzz(examples: int) -> settings:
    """The settings of a property that every run of the tests tries on so many examples."""
    repeatable: dict[str, Any] = {"derandomize": True, "database": None} if TIMES == 1 else {}
    return settings(max_examples=examples * TIMES, deadline=None, suppress_health_check=QUIET, **repeatable)


def outcome(call: Callable[[], Any], *refusals: type[Exception]) -> Any:
    """What a call returns, or the refusal that it raises, a UserError unless others are named. Whatever else it raises fails the test."""
    expected = refusals or (UserError,)
    try:
        return call()
    except expected as refusal:
        return refusal
