"""The parts of `scorer=weighted`, as typed: checked, and filled with what the files of their scorers say. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alignkit.errors import UserError, check_choice, check_range
from alignkit.rollout_settings import NO_SCORER, ScorerSettings

EXAMPLE = "'scorer.parts={tone: {scorer: vader}, short: {scorer: length, target: 20, weight: 0.1}}'"
OF_THE_PART = ("scorer", "weight")
"""What a part has beside the options of its scorer."""

Settings = Callable[[Mapping[str, Any], Sequence[str], str], ScorerSettings]


def checked_parts(
    parts: object, known: Mapping[str, Mapping[str, Any]], settings: Settings, allow_code: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """`scorer.parts`, each with its weight and the values of its scorer's own file where none was typed.

    `known` are the options of each scorer; `settings` checks the keys of one, given where they were typed.

    Raises:
        UserError: when there are none, one names no scorer, or has an option that its scorer does not have.
    """
    if not isinstance(parts, Mapping) or not parts:
        raise UserError(f"scorer.parts = {parts!r}; must name the scorers of the sum. Try {EXAMPLE}.")
    filled = {}
    single = [name for name, options in known.items() if name != NO_SCORER and "parts" not in options]
    for name, given in parts.items():
        where = f"scorer.parts.{name}"
        if not re.fullmatch(r"[A-Za-z]\w*", str(name)):
            raise UserError(f"{where}: a part's name must be letters, digits and '_': it becomes a part of metric names.")
        if not isinstance(given, Mapping) or "scorer" not in given:
            raise UserError(f"{where} = {given!r}; must say which scorer it is. Try {EXAMPLE}.")
        if "name" in given:
            raise UserError(f"{where}.name: no such key. The part is called {name}; its scorer is {where}.scorer.")
        scorer, weight = str(given["scorer"]), given.get("weight", 1.0)
        if "." not in scorer:
            check_choice(f"{where}.scorer", scorer, single)
        check_range(f"{where}.weight", weight, hint="Below 0 is for what is to be avoided, 0 for what is only watched.")
        own = {key: value for key, value in given.items() if key not in OF_THE_PART}
        checked = settings({**known.get(scorer, {}), **own, "name": scorer}, allow_code, where)
        filled[str(name)] = {"scorer": scorer, "weight": float(weight), **checked.options}
    return filled
