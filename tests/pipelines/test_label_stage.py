"""Stages that label: what reaches them of what is typed for a whole pipeline, what is known before they run, and going on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from alignkit.composition import Composer, composing
from alignkit.errors import UserError
from alignkit.label_settings import LabelSettings
from alignkit.labelling.files import JUDGED, SOURCES
from alignkit.pipelines.files import pipeline_of
from alignkit.pipelines.label_stage import LabelStage
from alignkit.pipelines.placeholders import fill, rehearsal
from alignkit.pipelines.stages import Stage, StageReader
from alignkit.run_dir import RunDir

Compose: TypeAlias = Callable[..., dict[str, Stage]]
KIND = LabelStage()
STAGES = {
    "sft": {"options": ["loss=sft", "steps=20"]},
    "labels": {
        "command": "label",
        "options": ["judge=gold", "samples=2"],
        "from": ["model.path={sft}/model", "earlier=[old.jsonl,'{sft}/labels.jsonl']"],
    },
    "judged": {"command": "label", "options": ["judge=gold"], "from": ["candidates=['{labels}/judged.jsonl']"]},
    "dpo": {"options": ["loss=dpo", "steps=20"], "from": ["dataset=local", "dataset.path={labels}/labels.jsonl"]},
}


@pytest.fixture(scope="module")
def composed() -> Iterator[Compose]:
    """The stages of a pipeline that labels, with what is typed; calls share a reading of the files."""
    with composing(None) as hydra:
        reader = StageReader(Composer(hydra), None)
        file = pipeline_of("here: stages", "mine", STAGES)

        def compose(*argv: str) -> dict[str, Stage]:
            (typed,) = reader.split(["pipeline=mine", *argv], multirun=False)
            return {stage.name: stage for stage in reader.compose(typed, file, "runs/x")}

        yield compose


def own(stage: Stage) -> LabelSettings:
    settings = stage.settings.own
    assert isinstance(settings, LabelSettings)
    return settings


def test_keys_that_only_labelling_has_reach_only_stages_that_label(composed: Compose) -> None:
    stages = composed("judge=scorer", "judge.scorer=length", "samples=3", "form=rankings")
    assert {name: stage.settings.own is None for name, stage in stages.items()} == {
        "sft": True,
        "labels": False,
        "judged": False,
        "dpo": True,
    }
    assert own(stages["labels"]).judge.options == {"scorer": "length", "target": 20}
    assert (own(stages["labels"]).form, stages["labels"].settings.run.rollout.samples, stages["dpo"].settings.run.rollout.samples) == (
        "rankings",
        3,
        4,
    )
    assert own(composed("stages.judged.form=scores")["judged"]).form == "scores"


def test_its_files_are_those_of_earlier_stages(composed: Compose) -> None:
    stages = composed()
    settings = fill(stages["judged"].settings, {"labels": "/runs/x/labels", "sft": "/runs/x/sft"})
    assert settings.own.candidates == ["/runs/x/labels/judged.jsonl"]
    known = rehearsal(stages["judged"].settings, "builtin:tiny").own
    assert known.candidates == ["dataset"]
    rehearsed = rehearsal(stages["labels"].settings, "builtin:tiny")
    assert (rehearsed.own.earlier, rehearsed.run.model.path) == (["old.jsonl"], "builtin:tiny")
    with pytest.raises(UserError, match=r"earlier names 'old\.jsonl'; there is no such file"):
        KIND.check_places(rehearsed)
    KIND.check_values(stages["labels"].settings)


def test_what_it_is_called_and_what_it_is_judged_by(composed: Compose) -> None:
    settings = composed()["labels"].settings
    assert (KIND.label(settings), KIND.headline(settings)) == ("pairs by vader", ("labels", "prompts"))


def test_a_stage_that_has_begun_goes_on_and_one_at_its_end_does_not(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "labels")
    assert not KIND.can_go_on(run)
    (run.path / SOURCES).write_text("{}")
    assert KIND.can_go_on(run)
    (run.path / JUDGED).write_text("")
    run.write_results({"labels": 0})
    assert not KIND.can_go_on(run)
