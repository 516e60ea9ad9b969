"""What running a command of alignkit as a stage of a pipeline takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from omegaconf import DictConfig

from alignkit.composition import Composer
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class StageSettings:
    """What a stage runs on."""

    run: RunSettings
    own: Any = None
    """The record of the keys that its command has beside those of a run, and None where it has none."""


class StageKind(ABC):
    """One command."""

    __slots__ = ()

    @property
    def own_keys(self) -> frozenset[str]:
        """What is typed for it and for no run: keys and groups, without what follows their first dot."""
        return frozenset()

    def rewrite(self, line: str, composer: Composer) -> list[str]:
        """An override as Hydra is given it. Raises UserError on an option that does not exist."""
        return [composer.rewrite(line)]

    @abstractmethod
    def read(self, cfg: DictConfig) -> StageSettings:
        """The settings that a config means, checked as far as that is possible without torch.

        Raises:
            UserError: on the first mistake.
        """

    @abstractmethod
    def check_places(self, settings: StageSettings) -> None:
        """Refuse files and models that are not there. Without torch.

        Raises:
            UserError: naming the key.
        """

    @abstractmethod
    def check_values(self, settings: StageSettings) -> None:
        """Refuse what only the classes that are named can judge. May import torch.

        Raises:
            UserError: naming the key.
        """

    @abstractmethod
    def config_yaml(self, settings: StageSettings) -> str:
        """`config.yaml` of a run with these settings, as `carry_out` writes it."""

    @abstractmethod
    def carry_out(self, settings: StageSettings, run: RunDir) -> dict[str, Scalar]:
        """Run, leave every file of a run behind and return what `results.json` holds.

        Raises:
            UserError, DivergedError, KeyboardInterrupt, SystemExit: as a run does.
        """

    def can_go_on(self, run: RunDir) -> bool:
        """Whether a run that was stopped left something to go on from."""
        return False

    def go_on(self, settings: StageSettings, run: RunDir) -> dict[str, Scalar]:
        """Finish a run that `can_go_on`. Returns and raises what `carry_out` does."""
        raise NotImplementedError

    @abstractmethod
    def label(self, settings: StageSettings) -> str:
        """What the stage does, in a word or three: its loss."""

    @abstractmethod
    def headline(self, settings: StageSettings) -> tuple[str, str]:
        """The result that says whether it worked, and the one that it is compared with: what was before."""

    @abstractmethod
    def is_complete(self, settings: StageSettings, results: Mapping[str, Scalar]) -> bool:
        """Whether results are those of a run that came to its end; an interrupted one may leave results as well."""
