"""The suites of `conf/evaluation/` and the tasks that they name."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml

from alignkit.configuration import conf_dir
from alignkit.evaluation.measures import MEASURES
from alignkit.evaluation.tasks.catalogue import find_task, task_kinds
from alignkit.evaluation_settings import QuestionsSettings

GLUE = ["cola", "sst2", "mrpc", "qqp", "qnli", "rte", "mnli", "wnli", "stsb"]
GPT4ALL = ["hellaswag", "openbookqa", "winogrande", "arc_challenge", "arc_easy", "boolq", "piqa"]
OWN = {
    "glue": GLUE,
    "race": ["race"],
    "gpt4all": GPT4ALL,
    "mmlu": ["mmlu"],
    "sciq": ["sciq"],
    "copa": ["copa"],
    "truthfulqa": ["truthfulqa", "truthfulqa_mc2"],
    "dph_paper": [*GLUE, "race", *GPT4ALL],
}
"""Suites of arXiv:2405.20053, and others of one benchmark each."""
TASKS = sorted({task for tasks in OWN.values() for task in tasks})


def suite(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((conf_dir() / "evaluation" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("name", OWN)
def test_a_suite_names_its_tasks(name: str) -> None:
    own = suite(name)
    assert own.pop("kind") == "questions"
    assert own.keys() == {field.name for field in dataclasses.fields(QuestionsSettings)}
    settings = QuestionsSettings(**own)
    assert (settings.name, settings.tasks) == (name, OWN[name])
    assert (settings.path, settings.limit, settings.listed) == (None, None, None)
    assert all(set(tasks) <= set(settings.tasks) for tasks in settings.averages.values())


def test_averages_are_those_of_the_paper() -> None:
    without = [task for task in GLUE if task != "wnli"]
    assert suite("glue")["averages"] == {"glue": GLUE, "glue_without_wnli": without}
    assert suite("gpt4all")["averages"] == {"gpt4all": GPT4ALL}
    assert suite("dph_paper")["averages"] == {"glue": GLUE, "glue_without_wnli": without, "gpt4all": GPT4ALL}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_knows_its_place_and_its_measures(name: str) -> None:
    task = find_task(name, "evaluation.tasks", listed=None)
    assert set(task.MEASURES) <= MEASURES.keys()
    assert task.PLACES
    assert len({place.group for place in task.PLACES}) == len(task.PLACES)
    assert {place.group for place in task.PLACES} - {""} == task.WEIGHTS.keys()
    # what is reported is never what a head could have been trained on
    assert all(place.evaluation != place.train for place in task.PLACES)
    reported = {place.evaluation for place in task.PLACES}
    assert all(split.startswith(task.SPLITS[0]) for split in reported)


def test_test_rows_are_reported_where_their_labels_are_public() -> None:
    tested = {name for name in TASKS if find_task(name, "evaluation.tasks", listed=None).SPLITS[0] == "test"}
    assert tested == {"openbookqa", "arc_challenge", "arc_easy", "race", "mmlu", "sciq"}


def test_parsing_that_tasks_share_is_no_task() -> None:
    assert "multiple_choice" not in task_kinds()
    assert set(TASKS) <= task_kinds().keys()
