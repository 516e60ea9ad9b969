"""The YAML files hold what the classes take: names, keys and values, never code."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignkit.command_line import precheck
from alignkit.composition import EVALUATION, JUDGE, PIPELINE
from alignkit.configuration import conf_dir
from alignkit.errors import UserError
from alignkit.evaluation.tasks.catalogue import task_kinds
from alignkit.evaluation_settings import KINDS, QuestionsSettings
from alignkit.help_page import head_comment
from alignkit.judge_assembly import JUDGES, PROMPTS, SCORER
from alignkit.loss_settings import HeadSettings
from alignkit.metrics import METRICS, VALIDATION
from alignkit.modules.term_kinds import reads_head
from alignkit.optimizer_settings import OPTIMIZER_SETTINGS
from alignkit.pipelines.experiment import experiment_files
from alignkit.resolution import ENSEMBLE_KEYS, ENSEMBLES, LOSSES, PARTS, SCORERS, SOURCES, build_scorer, loss_fields, resolve, to_record
from alignkit.rollout_settings import NO_SCORER
from alignkit.scorers.scorer import ScorerKind
from alignkit.settings import DatasetSettings, RunSettings

FILES = sorted(conf_dir().rglob("*.yaml"))
OF_PIPELINES = experiment_files(None)
OF_OTHERS = (conf_dir() / PIPELINE, conf_dir() / EVALUATION, conf_dir() / JUDGE)
"""Groups that a run does not have."""
OPTIONS = [
    (file.parent.name, file.stem)
    for file in FILES
    if file.parent not in (conf_dir(), *OF_OTHERS, conf_dir() / "hydra" / "sweeper") and file not in OF_PIPELINES.values()
]
EVALUATIONS = sorted(file.stem for file in FILES if file.parent == conf_dir() / EVALUATION)
JUDGE_OPTIONS = sorted(file.stem for file in FILES if file.parent == conf_dir() / JUDGE)
ALIASES = {"reward": "bradley_terry"}
LABELS = {"reference": "source"}
"""The key that tells an option, where it is not `name`."""
MISSING = {
    "composite": ["loss.parts={a: {loss: dpo}, b: {loss: sft, weight: 0.1}}"],
    "ensemble": ["scorer.path=RUN"],
    "head": ["scorer.path=RUN"],
    "hf": ["model.path=DIR"],
    "http": ["scorer.url=http://127.0.0.1:8000/score"],
    "implicit": ["scorer.path=RUN"],
    "lexicon": [f"scorer.path='{conf_dir() / 'train.yaml'}'"],  # any text file
    "mixture": ["dataset.parts={a: {source: hh_rlhf}}"],
    "python": ["scorer.callable=math.dist", "allow_code=[math]"],
    "regex": ["scorer.pattern=x"],
    "tiny_sft": ["model.path=DIR"],
    "weighted": ["scorer.parts={a: {scorer: vader}}"],
}
"""What an option leaves to the user."""
NOT_LOSSES = {"__init__", "outputs", "families", "rollout_outputs", "rollout_families"}
NOBODY = {NO_SCORER}
"""Of the scorers, the one that has no class."""

HINTS = typing.get_type_hints(RunSettings)
PLAIN_GROUPS = [
    name for name, hint in HINTS.items() if dataclasses.is_dataclass(hint) and name not in ("loss", "dataset", "optimizer", "scorer")
]


def read(group: str, option: str) -> dict[str, Any]:
    loaded = yaml.safe_load((conf_dir() / group / f"{option}.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def options(group: str) -> list[str]:
    return [option for folder, option in OPTIONS if folder == group and option not in ALIASES]


def field_names(record: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(record)}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_passes_all_checks(group: str, option: str) -> None:
    (settings,) = precheck([f"{group}={option}", *MISSING.get(option, [])])
    if group != "experiment":
        assert getattr(getattr(settings, group), LABELS.get(group, "name")) == ALIASES.get(option, option)


@pytest.mark.parametrize("name", OF_PIPELINES)
def test_an_experiment_of_pipelines_is_no_run_and_says_what_to_type(name: str) -> None:
    with pytest.raises(UserError, match=rf"python -m alignkit\.pipeline experiment={name}"):
        precheck([f"experiment={name}"])


LOSS_FILES = [loss for loss in options("loss") if PARTS not in read("loss", loss) and loss not in ENSEMBLES]
"""Those of a loss: a sum has parts instead, an ensemble members."""


@pytest.mark.parametrize("loss", LOSS_FILES)
def test_a_loss_file_has_the_fields_of_its_class(loss: str) -> None:
    own = {key: value for key, value in read("loss", loss).items() if key not in ("name", "module", "monitor")}
    assert set(loss_fields(own)) == field_names(resolve(LOSSES, loss))
    if "head" in own:
        assert set(own["head"]) == field_names(HeadSettings)


@pytest.mark.parametrize(("ensemble", "loss"), ENSEMBLES.items())
def test_the_file_of_an_ensemble_has_the_keys_and_values_of_its_members(ensemble: str, loss: str) -> None:
    own, of_member = read("loss", ensemble), read("loss", loss)
    assert own.keys() - of_member.keys() == ENSEMBLE_KEYS
    assert {key: own[key] for key in of_member if key != "name"} == {key: value for key, value in of_member.items() if key != "name"}


@pytest.mark.parametrize("loss", LOSS_FILES)
def test_a_loss_file_has_a_head_where_its_loss_reads_one(loss: str) -> None:
    assert ("head" in read("loss", loss)) == reads_head(resolve(LOSSES, loss))


@pytest.mark.parametrize("loss", options("loss"))
def test_a_loss_file_watches_a_metric_that_exists(loss: str) -> None:
    monitor = read("loss", loss)["monitor"]
    assert monitor.startswith(VALIDATION)
    assert METRICS[monitor.removeprefix(VALIDATION)].better != "neither"


def test_every_loss_has_a_file() -> None:
    folder = Path(str(inspect.getfile(resolve(LOSSES, "dpo")))).parent
    assert {file.stem for file in folder.glob("*.py")} - NOT_LOSSES == set(LOSS_FILES)


@pytest.mark.parametrize("dataset", options("dataset"))
def test_a_dataset_file_has_the_fields_of_its_source(dataset: str) -> None:
    own = read("dataset", dataset)
    assert own.keys() == (field_names(DatasetSettings) - {"options"}) | field_names(resolve(SOURCES, own["source"]))


@pytest.mark.parametrize("scorer", sorted({*options("scorer")} - NOBODY))
def test_a_scorer_file_has_the_fields_of_its_class(scorer: str) -> None:
    kind = resolve(SCORERS, scorer)
    assert issubclass(kind, ScorerKind)
    assert read("scorer", scorer).keys() == {"name", *field_names(kind)}
    (settings,) = precheck([f"scorer={scorer}", *MISSING.get(scorer, [])])
    assert type(build_scorer(settings.scorer, settings.allow_code)) is kind


def test_every_scorer_has_a_file() -> None:
    folder = Path(str(inspect.getfile(resolve(SCORERS, "vader")))).parent
    names = {file.stem for file in folder.glob("*.py")}
    kinds = {name for name in names if re.search(r"^class \w+\((Text|Model)?Scorer(Kind)?\):", (folder / f"{name}.py").read_text(), re.M)}
    assert kinds - {"scorer"} == set(options("scorer")) - NOBODY


@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_an_optimizer_file_has_the_fields_of_its_record(optimizer: str) -> None:
    assert read("optimizer", optimizer).keys() == field_names(OPTIMIZER_SETTINGS[optimizer])


def test_every_optimizer_has_a_file() -> None:
    assert set(OPTIMIZER_SETTINGS) == set(options("optimizer"))


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_file_has_the_fields_of_its_kind_and_is_called_as_it_is(name: str) -> None:
    own = read(EVALUATION, name)
    record = KINDS[own.pop("kind")]
    assert own.keys() == field_names(record)
    assert own["name"] == name
    assert to_record(record, own, EVALUATION) == record(**own)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_every_task_that_an_evaluation_names_exists(name: str) -> None:
    own = read(EVALUATION, name)
    if KINDS[own["kind"]] is not QuestionsSettings:
        return
    named = [own["tasks"], *own["averages"].values()]
    assert {task for tasks in named for task in tasks} <= task_kinds().keys()
    assert all(set(tasks) <= set(own["tasks"]) for tasks in named)
    assert all(len(set(tasks)) == len(tasks) for tasks in named)


def test_every_task_is_asked_by_an_evaluation_and_every_kind_has_one() -> None:
    files = [read(EVALUATION, name) for name in EVALUATIONS]
    assert {task for own in files if own["kind"] == "questions" for task in own["tasks"]} == task_kinds().keys()
    assert {own["kind"] for own in files} == KINDS.keys()


@pytest.mark.parametrize("name", JUDGE_OPTIONS)
def test_a_judge_file_has_the_fields_of_its_class(name: str) -> None:
    own = read(JUDGE, name)
    fields = field_names(resolve(JUDGES, own.pop("name")))
    if SCORER in own:  # its options stand beside it
        scorer = read(SCORER, own.pop(SCORER))
        assert own.keys() | {"name"} == scorer.keys() or not own
        own = {SCORER: None}
    assert own.keys() == fields


def test_every_judge_has_a_file() -> None:
    folder = Path(str(inspect.getfile(resolve(JUDGES, "vote")))).parent
    kinds = {file.stem for file in folder.glob("*.py") if re.search(r"^class [A-Z]\w+\((Writing)?JudgeKind\):", file.read_text(), re.M)}
    assert kinds - {"writer"} == {read(JUDGE, name)["name"] for name in JUDGE_OPTIONS}


@pytest.mark.parametrize(("name", "same"), [("http", "llm"), ("http_rating", "llm_rating")])
def test_a_server_is_asked_what_a_local_model_is_asked(name: str, same: str) -> None:
    ours, theirs = read(JUDGE, name), read(JUDGE, same)
    assert {key: ours[key] for key in PROMPTS} == {key: theirs[key] for key in PROMPTS}


@pytest.mark.parametrize("group", PLAIN_GROUPS)
def test_the_files_of_a_group_have_the_fields_of_its_record(group: str) -> None:
    files = [read(group, option) for option in options(group)]
    files = files or [yaml.safe_load((conf_dir() / "train.yaml").read_text(encoding="utf-8"))[group]]
    for own in files:
        assert own.keys() == field_names(HINTS[group])


def test_the_top_config_has_the_fields_of_a_run() -> None:
    own = yaml.safe_load((conf_dir() / "train.yaml").read_text(encoding="utf-8"))
    chosen = {next(iter(default)) for default in own["defaults"] if isinstance(default, dict)}
    chosen = {group for group in chosen if not group.startswith("override ")} - {"experiment", EVALUATION, JUDGE}
    assert (own.keys() | chosen) - {"defaults", "hydra"} == field_names(RunSettings)


def test_no_file_names_code() -> None:
    assert not [file for file in FILES if "_target_" in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(conf_dir())))
def test_a_file_begins_with_a_line_that_says_what_it_is(file: Path) -> None:
    first = next(line for line in file.read_text(encoding="utf-8").splitlines() if line != "# @package _global_")
    assert first.startswith("# ")
    assert head_comment(file.read_text(encoding="utf-8")) in first
    assert len(first) > len("# ") + 5
