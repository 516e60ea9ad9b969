"""What a stage of a pipeline can be: a command of alignkit, in the few functions that running it as a stage takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import final

from omegaconf import DictConfig

from alignkit.command_line import Job, check_buildable, check_models, check_paths
from alignkit.composition import Composer
from alignkit.configuration import check_config, config_yaml
from alignkit.evaluating import config as evaluating_config
from alignkit.evaluating.config import Evaluation
from alignkit.generation import config as generation_config
from alignkit.generation.config import Generation
from alignkit.job import carry_out
from alignkit.pipelines.label_stage import LabelStage
from alignkit.pipelines.stage_file import EVALUATE, GENERATE, LABEL, TRAIN
from alignkit.pipelines.stage_kind import StageKind, StageSettings
from alignkit.run_dir import RunDir, Scalar
from alignkit.run_lock import only_here
from alignkit.summary import START


@final
class TrainStage(StageKind):
    """`alignkit.train`."""

    def read(self, cfg: DictConfig) -> StageSettings:
        return StageSettings(run=check_config(cfg))

    def check_places(self, settings: StageSettings) -> None:
        check_paths(settings.run)
        check_models([Job(changes=(), settings=settings.run)])

    def check_values(self, settings: StageSettings) -> None:
        check_buildable([Job(changes=(), settings=settings.run)])
        from alignkit.objectives import build_objective, check_combination

        check_combination(settings.run, build_objective(settings.run.loss, settings.run.allow_code)[0])

    def config_yaml(self, settings: StageSettings) -> str:
        return config_yaml(settings.run)

    def carry_out(self, settings: StageSettings, run: RunDir) -> dict[str, Scalar]:
        return carry_out(settings.run, run)

    def can_go_on(self, run: RunDir) -> bool:
        return run.last_checkpoint.exists()

    def go_on(self, settings: StageSettings, run: RunDir) -> dict[str, Scalar]:
        from alignkit.training import train

        with only_here(run.path):
            return train(dataclasses.replace(settings.run, run_dir=str(run.path)), run, resume=True)

    def label(self, settings: StageSettings) -> str:
        return settings.run.loss.name

    def headline(self, settings: StageSettings) -> tuple[str, str]:
        return settings.run.loss.monitor, START + settings.run.loss.monitor

    def is_complete(self, settings: StageSettings, results: Mapping[str, Scalar]) -> bool:
        return results.get("steps") == settings.run.steps


@final
class GenerateStage(StageKind):
    """`alignkit.generate`."""

    @property
    def own_keys(self) -> frozenset[str]:
        return frozenset((*generation_config.OWN, *generation_config.SHORT, generation_config.RANK_BY))

    def read(self, cfg: DictConfig) -> StageSettings:
        generation = generation_config.generation_of(cfg)
        return StageSettings(run=generation.settings, own=generation.own)

    def check_places(self, settings: StageSettings) -> None:
        check_paths(settings.run)
        generation_config.check_places(self.generation(settings))

    def check_values(self, settings: StageSettings) -> None:
        generation_config.check_buildable(self.generation(settings))

    def config_yaml(self, settings: StageSettings) -> str:
        return generation_config.generation_yaml(self.generation(settings))

    def carry_out(self, settings: StageSettings, run: RunDir) -> dict[str, Scalar]:
        return generation_config.carry_out(self.generation(settings), run)

    def label(self, settings: StageSettings) -> str:
        return f"{settings.own.keep} of {settings.run.rollout.samples}"

    def headline(self, settings: StageSettings) -> tuple[str, str]:
        best, one = (f"best_of_{count}/score" for count in (settings.run.rollout.samples, 1))
        return best, one

    def is_complete(self, settings: StageSettings, results: Mapping[str, Scalar]) -> bool:
        return True

    def generation(self, settings: StageSettings) -> Generation:
        """What the command calls its settings."""
        return Generation(settings=settings.run, own=settings.own)


@final
class EvaluateStage(StageKind):
    """`alignkit.evaluate`."""

    @property
    def own_keys(self) -> frozenset[str]:
        return frozenset((*evaluating_config.OWN, *generation_config.SHORT))

    def rewrite(self, line: str, composer: Composer) -> list[str]:
        return evaluating_config.rewrite(line, composer)

    def read(self, cfg: DictConfig) -> StageSettings:
        evaluation = evaluating_config.evaluation_of(cfg)
        return StageSettings(run=evaluation.settings, own=evaluation.own)

    def check_places(self, settings: StageSettings) -> None:
        check_paths(settings.run)
        evaluating_config.check_places(self.evaluation(settings))

    def check_values(self, settings: StageSettings) -> None:
        evaluating_config.check_buildable(self.evaluation(settings))

    def config_yaml(self, settings: StageSettings) -> str:
        return evaluating_config.evaluation_yaml(self.evaluation(settings))

    def carry_out(self, settings: StageSettings, run: RunDir) -> dict[str, Scalar]:
        return evaluating_config.carry_out(self.evaluation(settings), run)

    def label(self, settings: StageSettings) -> str:
        return str(settings.own.evaluation.name)

    def headline(self, settings: StageSettings) -> tuple[str, str]:
        return evaluating_config.headline(settings.own)

    def is_complete(self, settings: StageSettings, results: Mapping[str, Scalar]) -> bool:
        return True

    def evaluation(self, settings: StageSettings) -> Evaluation:
        """What the command calls its settings."""
        return Evaluation(settings=settings.run, own=settings.own)


STAGE_KINDS: Mapping[str, StageKind] = {TRAIN: TrainStage(), GENERATE: GenerateStage(), EVALUATE: EvaluateStage(), LABEL: LabelStage()}
"""By the `command` of a stage."""
