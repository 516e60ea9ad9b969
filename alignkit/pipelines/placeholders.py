"""Settings of stages in which something stands for the directories of earlier ones, as long as these are not known."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from alignkit.evaluating.config import PATHS
from alignkit.evaluation_settings import EvaluateSettings
from alignkit.foreign_files import check_events
from alignkit.generate_settings import HELD_OUT, GenerateSettings
from alignkit.judge_settings import JudgeSettings
from alignkit.label_settings import LabelSettings
from alignkit.pipelines.stage_kind import StageSettings

PLACE = re.compile(r"@stage\.(\w+)@")
"""What stands in settings for the directory of a stage, while that is not known. Unlike `{sft}` it needs no quotes in an override."""
INDIFFERENT = ("run_dir", "logger", "callbacks", "debug", "cache_dir")
"""Keys of a config that leave what a run computes as it is."""


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
    if isinstance(own, GenerateSettings | LabelSettings) and PLACE.search(own.prompts):
        return rehearsal_of_own(dataclasses.replace(own, prompts=HELD_OUT))
    if isinstance(own, LabelSettings):
        candidates = [HELD_OUT] if any(map(PLACE.search, own.candidates)) else own.candidates
        earlier = [file for file in own.earlier if not PLACE.search(file)]
        return dataclasses.replace(own, judge=rehearsal_of_judge(own.judge), candidates=candidates, earlier=earlier)
    if isinstance(own, EvaluateSettings):
        # Paths of an evaluation may all be left out.
        paths = [key for key in PATHS if PLACE.search(getattr(own.evaluation, key, None) or "")]
        against = None if PLACE.search(own.against or "") else own.against
        evaluation: Any = dataclasses.replace(own.evaluation, **dict.fromkeys(paths))  # type: ignore[arg-type]
        judge = own.judge and rehearsal_of_judge(own.judge)
        return dataclasses.replace(own, evaluation=evaluation, judge=judge, against=against)
    return own


def rehearsal_of_judge(judge: JudgeSettings) -> JudgeSettings:
    """A judge without what is in directories of stages: a run, a reference, or those of judges that vote."""

    def known(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        return {key: known(value) for key, value in node.items() if not (isinstance(value, str) and PLACE.search(value))}

    return dataclasses.replace(judge, options=known(judge.options))


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
