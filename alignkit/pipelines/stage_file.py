"""One stage of a pipeline file, as the file has it: a command, and overrides as a user types them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

from alignkit.config_checks import check_keys, check_line
from alignkit.errors import UserError

TRAIN = "train"
"""The command of a stage that names none."""
GENERATE = "generate"
EVALUATE = "evaluate"
LABEL = "label"
STAGE_NAME = re.compile(r"[a-z]\w{0,40}", re.ASCII)
KEYS = ("command", "options", "from")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """What ends the rounds of a pipeline early: a result of a round's evaluation that is too low."""

    result: str
    """Its name in `results.json` of the stage."""
    at_most: float
    """The rounds after this one are not run where the result is at most so much."""

    def holds(self, results: Mapping[str, Any]) -> bool:
        """Whether these results end the rounds. One that is missing or no number does not."""
        value = results.get(self.result)
        return isinstance(value, (int, float)) and not isinstance(value, bool) and value <= self.at_most


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class StageFile:
    """One stage."""

    name: str
    command: str
    """A key of `alignkit.pipelines.stage_kinds.STAGE_KINDS`."""
    options: tuple[str, ...]
    """Overrides that give way to all that a user types."""
    wiring: tuple[str, ...]
    """The key `from`: overrides that tie the stage to earlier ones and give way to `stages.<name>.` alone."""
    family: str = ""
    """Of a repeated stage its name without the number of the round: `dpo` of `dpo_2`. Empty for others."""
    meanings: Mapping[str, str] = field(default_factory=dict)
    """Stages that names stand for here: in round 2 `previous` may be `dpo_1`, and `labels` is `labels_2`."""
    seed_step: int = 0
    """What is added to `seed`, unless that is typed for this very stage."""
    stop: Stop | None = None
    """What ends the rounds after this stage."""

    @property
    def names(self) -> tuple[str, ...]:
        """What it is called after `stages.` on a command line, the name that counts more last."""
        return (self.family, self.name) if self.family else (self.name,)

    def meaning(self, names: Mapping[str, str]) -> StageFile:
        """The stage after rounds: names of their stages mean those of the last round."""
        return replace(self, meanings=dict(names)) if names else self


def read_stage(place: str, name: str, given: Mapping[str, Any] | None) -> StageFile:
    """One stage of a file.

    Raises:
        UserError: naming the file and the key that is wrong.
    """
    where = f"{place}.{name}"
    check_stage_name(where, name)
    values = {} if given is None else given
    if not isinstance(values, Mapping):
        raise UserError(f"{where} = {values!r}; must hold some of {', '.join(KEYS)}.")
    check_keys(where, values, KEYS)
    return StageFile(
        name=name,
        command=str(values.get("command", TRAIN)),
        options=read_lines(f"{where}.options", values.get("options")),
        wiring=read_lines(f"{where}.from", values.get("from")),
    )


def check_stage_name(where: str, name: str) -> None:
    """Refuse a name that can be no directory, and none in `{}`.

    Raises:
        UserError: naming the place.
    """
    if not STAGE_NAME.fullmatch(name):
        raise UserError(f"{where}: a stage's name becomes a directory; must be lower-case letters, digits and '_', at most 41.")


def read_lines(where: str, given: object) -> tuple[str, ...]:
    """A list of overrides; none where nothing is given.

    Raises:
        UserError: when it is something else, or one of them is for a command line alone.
    """
    lines = given or []
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise UserError(f"{where} = {lines!r}; must be a list of overrides, e.g. [loss=dpo, steps=200].")
    for line in lines:
        check_line(where, line)
    return tuple(lines)
