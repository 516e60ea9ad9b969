"""Tasks of the harness by name: found, with their data, or refused before weights are loaded."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from alignkit.errors import UserError
from alignkit.evaluating import harness_tasks
from alignkit.evaluating.harness_tasks import check_installed, hub_places, load, loaded_tasks
from alignkit.evaluation_settings import LmEvalSettings

manager_module = pytest.importorskip("lm_eval.tasks")
SHARED = """\
dataset_path: {path}
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["yes", "no"]
doc_to_target: gold
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tasks `one` and `two` with a tag, a group of both, and `far`, whose data are on the hub."""
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": "1 < 2?", "gold": 0}) + "\n")
    own = tmp_path / "mine"
    own.mkdir()
    for name in ("one", "two"):
        (own / f"{name}.yaml").write_text(f"task: {name}\ntag: numbers\n" + SHARED.format(path="json", file=file))
    (own / "far.yaml").write_text("task: far\n" + SHARED.format(path="nobody/no-such-rows", file="x.jsonl"))
    (own / "both.yaml").write_text("group: both\ntask: [one, {task: two}]\naggregate_metric_list: [{metric: acc}]\n")
    (own / "mixed.yaml").write_text("group: mixed\ntask: [both, far]\n")
    return own


def settings(folder: Path, *tasks: str) -> LmEvalSettings:
    return LmEvalSettings(name="lm_eval", tasks=list(tasks), include_path=str(folder), limit=None, shots=None)


def test_own_tasks_are_loaded_once_each(folder):
    with loaded_tasks(settings(folder, "two", "one", "two"), []) as harness:
        assert list(harness.tasks) == ["two", "one"]
        assert [len(task.eval_docs) for task in harness.asked] == [1, 1]


def test_a_group_stays_whole_and_a_tag_is_its_tasks(folder):
    import datasets

    manager = manager_module.TaskManager(include_path=folder, include_defaults=False)
    (group,) = load(manager, "both", datasets)
    assert group.name == "both"
    assert [task.task_name for task in load(manager, "numbers", datasets)] == ["one", "two"]
    assert list(hub_places(manager.task_index, "mixed")) == ["nobody/no-such-rows"]
    assert list(hub_places(manager.task_index, "numbers")) == []


def test_data_that_cannot_be_had_are_one_message(folder):
    with (
        pytest.raises(UserError, match=r"'far': the hub cannot be reached \(HF_HUB_OFFLINE is set\) and the cache"),
        loaded_tasks(settings(folder, "far"), []),
    ):
        pass


def test_a_template_that_reaches_into_python_is_refused_where_the_folder_is_not_trusted(folder):
    reaching = (folder / "one.yaml").read_text().replace("{{question}}", "{{ ''.__class__.__mro__ }}")
    (folder / "one.yaml").write_text(reaching)
    with pytest.raises(UserError, match="'one': could not be loaded: SecurityError"), loaded_tasks(settings(folder, "one"), []):
        pass
    with loaded_tasks(settings(folder, "one"), ["mine"]) as harness:
        assert "object" in harness.tasks["one"].doc_to_text({"question": "1 < 2?"})


def test_a_task_that_runs_what_the_model_writes_is_refused_even_where_its_folder_is_trusted(folder):
    with (folder / "one.yaml").open("a") as file:
        file.write("unsafe_code: true\n")
    with pytest.raises(UserError, match="one runs code that the model writes"), loaded_tasks(settings(folder, "one"), ["mine"]):
        pass


def test_a_package_that_a_task_needs_is_named(folder):
    with (folder / "one.yaml").open("a") as file:
        file.write("process_docs: !function no_such_package.process\n")
    with (
        pytest.raises(UserError, match="'one': needs no_such_package, which is not installed"),
        loaded_tasks(settings(folder, "one"), ["mine"]),
    ):
        pass


def test_a_mistyped_name_is_told_the_nearest_ones(folder, monkeypatch):
    whole = manager_module.TaskManager
    part = Path(manager_module.__file__).parent / "hellaswag"  # a part of the harness's own tasks: all of them take ten seconds to read
    monkeypatch.setattr(
        manager_module, "TaskManager", lambda include_path, include_defaults=True: whole(include_path=[part], include_defaults=False)
    )
    with pytest.raises(UserError, match=r"'helaswag'.*Did you mean 'hellaswag'"), loaded_tasks(settings(folder, "helaswag"), []):
        pass


def test_without_the_harness_it_is_said_what_to_type(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(harness_tasks.importlib.util, "find_spec", lambda name: None if name == "lm_eval" else found(name))
    with pytest.raises(UserError, match=r"lm_eval is not installed. Type pip install 'alignkit\[lm_eval\]'"):
        check_installed()
