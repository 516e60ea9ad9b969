"""`alignkit.label` as a stage of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from omegaconf import DictConfig

from alignkit.command_line import check_paths
from alignkit.composition import JUDGE, Composer
from alignkit.generation.config import SHORT
from alignkit.labelling import config as labelling_config
from alignkit.labelling import work
from alignkit.labelling.config import Labelling
from alignkit.labelling.resumption import has_begun
from alignkit.pipelines.stage_kind import StageKind, StageSettings
from alignkit.run_dir import RunDir, Scalar
from alignkit.run_lock import only_here


@final
class LabelStage(StageKind):
    """`alignkit.label`."""

    @property
    def own_keys(self) -> frozenset[str]:
        return frozenset((*labelling_config.OWN, JUDGE, *SHORT))

    def rewrite(self, line: str, composer: Composer) -> list[str]:
        return labelling_config.rewrite(line, composer)

    def read(self, cfg: DictConfig) -> StageSettings:
        labelling = labelling_config.labelling_of(cfg)
        return StageSettings(run=labelling.settings, own=labelling.own)

    def check_places(self, settings: StageSettings) -> None:
        check_paths(settings.run)
        work.check_places(self.labelling(settings))

    def check_values(self, settings: StageSettings) -> None:
        work.check_buildable(self.labelling(settings))

    def config_yaml(self, settings: StageSettings) -> str:
        return labelling_config.labelling_yaml(self.labelling(settings))

    def carry_out(self, settings: StageSettings, run: RunDir) -> dict[str, Scalar]:
        return work.carry_out(self.labelling(settings), run)

    def can_go_on(self, run: RunDir) -> bool:
        return has_begun(run)

    def go_on(self, settings: StageSettings, run: RunDir) -> dict[str, Scalar]:
        with only_here(run.path):
            return work.carry_on(self.labelling(settings), run)

    def label(self, settings: StageSettings) -> str:
        return f"{settings.own.form} by {settings.own.judge.options.get('scorer', settings.own.judge.name)}"

    def headline(self, settings: StageSettings) -> tuple[str, str]:
        return "labels", "prompts"

    def is_complete(self, settings: StageSettings, results: Mapping[str, Scalar]) -> bool:
        return True

    def labelling(self, settings: StageSettings) -> Labelling:
        """What the command calls its settings."""
        return Labelling(settings=settings.run, own=settings.own)
