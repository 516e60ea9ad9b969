"""Keys of a pipeline that stand for several overrides: `anchor=fixed` gives stages what its option lists, below all that is typed.

    choices:
      anchor:                                  # its first option counts where nothing is typed
        moved: {}
        fixed: {dpo: ["reference.path={start}/model"]}
      judge:                                   # a group too: judge=head reaches stages that an option names, and brings its list along
        gold: {}
        head: {labels: ["judge.path={start}"]}

Where the name is that of a config group, options that are not listed may be typed as well, and `stages.labels.judge=gold` chooses for one
stage.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import final

from alignkit.config_checks import check_name
from alignkit.errors import UserError
from alignkit.pipelines.stage_file import STAGE_NAME, StageFile, read_lines


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceFile:
    """One such key."""

    name: str
    options: Mapping[str, Mapping[str, tuple[str, ...]]]
    """By option, by stage without the number of a round, the overrides; the first option is the default."""

    @property
    def default(self) -> str:
        """The option where nothing is typed."""
        return next(iter(self.options))

    def concerns(self, stage: StageFile) -> bool:
        """Whether an option gives something to a stage."""
        return any(stage.names[0] in lines for lines in self.options.values())

    def lines(self, option: str, stage: StageFile) -> tuple[str, ...]:
        """What an option gives to a stage."""
        return self.options.get(option, {}).get(stage.names[0], ())


def read_choices(where: str, given: object, stages: Collection[str]) -> tuple[ChoiceFile, ...]:
    """The node `choices` of a pipeline file. `stages`: names that stages have without the number of a round.

    Raises:
        UserError: naming the place and what is wrong there.
    """
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        raise UserError(f"{where} = {given!r}; must hold keys with their options, e.g. {{anchor: {{moved: {{}}, fixed: {{dpo: []}}}}}}.")
    return tuple(
        ChoiceFile(name=str(name), options=read_options(f"{where}.{name}", name, options, stages)) for name, options in given.items()
    )


def read_options(where: str, name: object, given: object, stages: Collection[str]) -> dict[str, dict[str, tuple[str, ...]]]:
    """The options of one key.

    Raises:
        UserError: naming the place and what is wrong there.
    """
    if not STAGE_NAME.fullmatch(str(name)):
        raise UserError(f"{where}: is typed as a key; must be lower-case letters, digits and '_', at most 41.")
    if not isinstance(given, Mapping) or not given:
        raise UserError(f"{where} = {given!r}; must hold options, the default first, each with what it gives to stages by name.")
    options = {}
    for option, of_stages in given.items():
        inner = {} if of_stages is None else of_stages
        if not isinstance(inner, Mapping):
            raise UserError(f"{where}.{option} = {inner!r}; must hold lists of overrides by stage, e.g. {{dpo: [loss.beta=0.1]}}.")
        for stage in inner:
            check_name(f"stage ({where}.{option})", str(stage), stages)
        options[str(option)] = {str(stage): read_lines(f"{where}.{option}.{stage}", lines) for stage, lines in inner.items()}
    return options
