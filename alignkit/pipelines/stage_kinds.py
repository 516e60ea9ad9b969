"""What a stage of a pipeline can be: a command of alignkit, in the few functions that running it as a stage takes."""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import yaml
from omegaconf import DictConfig

from alignkit.command_line import Job, check_buildable, check_models, check_paths
from alignkit.composition import Composer
from alignkit.configuration import check_config, config_yaml
from alignkit.evaluating import config as evaluating_config
from alignkit.evaluating.config import PATHS, Evaluation
from alignkit.evaluation_settings import EvaluateSettings
from alignkit.foreign_files import check_events
from alignkit.generate_settings import HELD_OUT, GenerateSettings
from alignkit.generation import config as generation_config
from alignkit.generation.config import Generation
from alignkit.job import carry_out
from alignkit.pipelines.files import EVALUATE, GENERATE, TRAIN
from alignkit.run_dir import RunDir, Scalar
from alignkit.run_lock import only_here
from alignkit.settings import RunSettings
from alignkit.summary import START

PLACE = re.compile(r"@stage\.(\w+)@")
"""What stands in settings for the directory of a stage, while that is not known. Unlike `{sft}` it needs no quotes in an override."""
INDIFFERENT = ("run_dir", "logger", "callbacks", "debug", "cache_dir")
"""Keys of a config that leave what a run computes as it is."""


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


STAGE_KINDS: Mapping[str, StageKind] = {TRAIN: TrainStage(), GENERATE: GenerateStage(), EVALUATE: EvaluateStage()}
"""By the `command` of a stage."""


def rehearsal(settings: StageSettings, model: str) -> StageSettings:
    """Settings of a stage whose inputs are not there yet, in which those that are known before stand for them: `model` is that of the
    first stage."""

    def known(path: str | None, otherwise: str | None) -> str | None:
        return otherwise if path is not None and PLACE.search(path) else path

    run, own, data = settings.run, settings.own, settings.run.dataset
    return StageSettings(
        run=dataclasses.replace(
            run,
            dataset=dataclasses.replace(data, path=known(data.path, None), validation_path=known(data.validation_path, None)),
            model=dataclasses.replace(run.model, path=known(run.model.path, model) or model),
            reference=dataclasses.replace(run.reference, path=known(run.reference.path, model)),
        ),
        own=rehearsal_of_own(own),
    )


def rehearsal_of_own(own: Any) -> Any:
    """The same of the keys that a command has of its own."""
    if isinstance(own, GenerateSettings) and PLACE.search(own.prompts):
        return dataclasses.replace(own, prompts=HELD_OUT)
    if isinstance(own, EvaluateSettings):
        # Paths of an evaluation may all be left out.
        paths = [key for key in PATHS if PLACE.search(getattr(own.evaluation, key, None) or "")]
        against = None if PLACE.search(own.against or "") else own.against
        evaluation: Any = own.evaluation
        return dataclasses.replace(own, evaluation=dataclasses.replace(evaluation, **dict.fromkeys(paths)), against=against)
    return own


def fill(node: Any, places: Mapping[str, str]) -> Any:
    """Settings with the directories of the stages in `places` where something stands for them."""
    if isinstance(node, str):
        return PLACE.sub(lambda place: places.get(place[1], place[0]), node)
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return dataclasses.replace(node, **{field.name: fill(getattr(node, field.name), places) for field in dataclasses.fields(node)})
    if isinstance(node, Mapping):
        return {key: fill(value, places) for key, value in node.items()}
    return [fill(value, places) for value in node] if isinstance(node, list) else node


def telling_config(text: str) -> dict[str, Any]:
    """The part of a `config.yaml` that decides what a run computes."""
    check_events(Path("config.yaml"), text)
    values = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {key: value for key, value in values.items() if key not in INDIFFERENT} if isinstance(values, dict) else {}
