"""The notebooks: prose and calls, in step with their text, with outputs of the runs that their first cells tell how to make.

`tests/stored_runs/NOTEBOOK` holds such runs without their weights; `notebooks/README.md` says how both are made anew.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
import yaml
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
STORED = ROOT / "tests" / "stored_runs"
NAMES = (
    "01_first_run",
    "02_beta_epsilon_sweep",
    "03_reward_kl_frontier",
    "04_heads_versus_implicit_rewards",
    "05_ppo_dpo_dph",
)
CALLS = "python -m alignkit."
STATEMENTS = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)
OWN_WORK = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.IfExp, ast.BinOp, ast.AugAssign, ast.NamedExpr)
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|tmp|Users|work|var|private|mnt|opt|usr)/|[A-Za-z]:\\\\?Users")
LARGEST_NOTEBOOK, LARGEST_STORE = 400_000, 1_200_000  # bytes


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def run_on(name: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The notebook after all of its cells have run in a kernel of their own. It raises what a cell raises."""
    monkeypatch.setenv("ALIGNKIT_RUNS", str(runs))
    notebook = read(name)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    return notebook


def shown(notebook: Any) -> list[list[list[str]]]:
    """The kinds of each code cell's outputs: text, HTML, pictures."""
    return [[sorted(output.get("data", {"stream": ""})) for output in cell.outputs] for cell in code_cells(notebook)]


def commands(name: str) -> Iterator[list[str]]:
    """The words of each command of a notebook's first cell, after the module's name."""
    fence = re.search(r"```console\n(.*?)```", read(name).cells[0].source, re.DOTALL)
    assert fence is not None
    for line in fence.group(1).replace("\\\n", " ").splitlines():
        assert line.startswith(CALLS)
        yield shlex.split(line.removeprefix(CALLS))


def stored_configs(folder: Path, stage: str = "") -> list[dict[str, Any]]:
    """The configs of all runs below a folder, or of those that were one stage of a pipeline."""
    return [yaml.safe_load(file.read_text()) for file in sorted(folder.rglob("config.yaml")) if stage in ("", file.parent.name)]


def value_at(config: dict[str, Any], key: str) -> object:
    """`loss.beta` of a config; of a group (`loss=dpo`) its option's name."""
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value["name"] if isinstance(value, dict) else value


def test_every_notebook_has_its_text_and_its_stored_runs():
    for suffix in ("ipynb", "md"):
        assert {file.stem for file in NOTEBOOKS.glob(f"*.{suffix}")} - {"README"} == set(NAMES)
    assert {folder.name for folder in STORED.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_and_its_text_are_in_step(name):
    text = jupytext.read(NOTEBOOKS / f"{name}.md")
    assert [(cell.cell_type, cell.source) for cell in text.cells] == [(cell.cell_type, cell.source) for cell in read(name).cells]


@pytest.mark.parametrize("name", NAMES)
def test_the_command_comes_first_and_then_one_path(name):
    prose, path = read(name).cells[:2]
    assert (prose.cell_type, path.cell_type) == ("markdown", "code")
    assert list(commands(name))
    default = re.search(r'^RUNS = os\.environ\.get\("ALIGNKIT_RUNS", "\.\./(runs/\w+)"\)', path.source, re.MULTILINE)
    assert default is not None
    made = [word.removeprefix("run_dir=") for words in commands(name) for word in words if word.startswith("run_dir=")]
    assert made
    assert all(place == default[1] or place.startswith(f"{default[1]}/") for place in made)


@pytest.mark.parametrize("name", NAMES)
def test_cells_call_and_do_no_work_of_their_own(name):
    for cell in code_cells(read(name)):
        tree = ast.parse(re.sub(r"^%.*$", "", cell.source, flags=re.MULTILINE))
        assert all(isinstance(statement, STATEMENTS) for statement in tree.body), cell.source
        assert not [node for node in ast.walk(tree) if isinstance(node, OWN_WORK)], cell.source


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_there_without_errors_or_warnings(name):
    notebook = read(name)
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    for cell in code_cells(notebook):
        last = ast.parse(re.sub(r"^%.*$", "", cell.source, flags=re.MULTILINE)).body[-1]
        kinds = [output.output_type for output in cell.outputs]
        assert kinds == (["execute_result"] if isinstance(last, ast.Expr) else []), cell.source
    assert any("image/png" in kind for cell in shown(notebook) for kind in cell)


@pytest.mark.parametrize("name", NAMES)
def test_no_path_of_a_machine_is_left_and_sizes_are_modest(name):
    file = NOTEBOOKS / f"{name}.ipynb"
    assert file.stat().st_size < LARGEST_NOTEBOOK
    assert not MACHINE_PATH.search(file.read_text(encoding="utf-8"))
    for stored in (STORED / name).rglob("*"):
        if stored.is_file():
            assert stored.suffix in (".json", ".jsonl", ".yaml")
            found = MACHINE_PATH.search(stored.read_text(encoding="utf-8"))
            assert found is None, f"{stored}: {found}"


def test_a_path_of_a_machine_is_known_as_one():
    for path in ("run_dir: /home/ada/x", '"/tmp/runs"', "file:///Users/ada", r"C:\\Users\\ada"):
        assert MACHINE_PATH.search(path)
    assert not MACHINE_PATH.search("runs/home/x and val/rewards/margins, 1/tmp/2")


def test_storing_leaves_out_weights_drawn_samples_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "sweep" / "0"
    (run / "model").mkdir(parents=True)
    (run / "model" / "model.safetensors").write_bytes(b"\0")
    (run / "config.yaml").write_text(f"run_dir: {run}\n")
    (run / "samples.jsonl").write_text('{"prompt": "p", "completions": ["c"]}\n')
    (run.parent / "sweep.json").write_text('[{"job": 0, "run": "0", "results": {"val/loss": 1.0}}]')
    (tmp_path / "stored").mkdir()
    (tmp_path / "stored" / "old").touch()
    runpy.run_path(str(NOTEBOOKS / "store_runs.py"))["main"](["runs/sweep", "stored"])
    kept = {file.relative_to("stored").as_posix(): file.read_text() for file in Path("stored").rglob("*") if file.is_file()}
    assert kept.keys() == {"sweep.json", "0/config.yaml"}
    assert kept["0/config.yaml"] == "run_dir: runs/sweep/0\n"
    assert json.loads(kept["sweep.json"]) == [{"job": 0, "run": "0"}]


def test_stored_runs_are_small():
    assert sum(file.stat().st_size for file in STORED.rglob("*") if file.is_file()) < LARGEST_STORE


@pytest.mark.parametrize("name", NAMES)
def test_stored_runs_are_those_of_the_command(name):
    """Each key that a command names has exactly the values that it names, among the runs that are stored."""
    for module, *words in commands(name):
        typed = dict(word.split("=", 1) for word in words if "=" in word)
        root = re.search(r'"\.\./(runs/\w+)"', read(name).cells[1].source)
        assert root is not None
        folder = STORED / name / Path(typed.pop("run_dir")).relative_to(root[1])
        if module == "pipeline":
            record = json.loads((folder / "experiment.json").read_text())
            assert (record["experiment"], record["size"]) == (typed.pop("experiment"), typed.pop("size"))
        typed.pop("experiment", None)
        configs = stored_configs(folder)
        assert configs
        for key, values in typed.items():
            named = re.fullmatch(r"stages\.(\w+)\.(.+)", key)  # of one stage of each job
            own = stored_configs(folder, named[1]) if named else configs
            assert {value_at(config, named[2] if named else key) for config in own} == set(map(yaml.safe_load, values.split(","))), key
        if module == "train":
            combinations = itertools.product(*(values.split(",") for values in typed.values()))
            assert len(configs) == len(list(combinations))


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_on_its_stored_runs_and_shows_what_it_shows_in_the_repository(name, monkeypatch):
    assert shown(run_on(name, STORED / name, monkeypatch)) == shown(read(name))


@pytest.mark.parametrize(("name", "runs"), [(NAMES[1], NAMES[3]), (NAMES[2], NAMES[1])], ids=["other losses and keys", "a plain sweep"])
def test_a_notebook_runs_on_another_s_runs(name, runs, monkeypatch):
    notebook = run_on(name, STORED / runs, monkeypatch)
    assert any("image/png" in kind for cell in shown(notebook) for kind in cell)
