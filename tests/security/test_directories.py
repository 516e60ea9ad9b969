"""A directory that somebody else has made: nothing is written or read outside of it, nothing waits for ever, and no process is hit."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from omegaconf import OmegaConf

from alignkit.analysis.runs import load_runs
from alignkit.caches.place import cache_root
from alignkit.caches.store import Store
from alignkit.callbacks.pruning import Pruning
from alignkit.errors import UserError
from alignkit.export import export
from alignkit.foreign_files import MOST_NODES, check_folder_contained
from alignkit.launching.outcomes import Outcomes
from alignkit.pipeline import main as pipeline_main
from alignkit.report import report
from alignkit.run_dir import RunDir
from alignkit.sweeping.sweep import SWEEP, read, slug

WRITTEN = (
    *("metrics.jsonl", "samples.jsonl", "pairs.jsonl", "results.json", "results.json.part", "texts.json", "texts.json.part", "heads.json"),
    *("heads.safetensors", "model", "model/README.md", "model/model.safetensors", "checkpoints", "checkpoints/.last.ckpt.part", "ranks"),
    *("wandb", "wandb/settings", "log.txt", "failure.json", "failures", "trial.json", "pruned.json", ".export"),
)
"""What commands write in a run's directory, or might."""


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder and file of the user's that nobody may touch or show."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "bashrc").write_text('{"step": 0, "prompt": "PRIVATE", "policy": "PRIVATE", "x": 1}\n')
    return folder


def link(run: Path, name: str, target: Path) -> None:
    place = run / name
    place.parent.mkdir(exist_ok=True, parents=True)
    if place.is_dir() and not place.is_symlink():
        place.rename(place.with_name(f"{place.name}.away"))
    place.unlink(missing_ok=True)
    place.symlink_to(target)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """What the readers of runs take for a run."""
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"loss": {"name": "dpo", "monitor": "val/loss"}, "seed": 0, "steps": 2}))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 2, "epoch": 1.0, "time": 1.0, "val/loss": 0.5}) + "\n")
    (folder / "results.json").write_text(json.dumps({"val/loss": 0.5, "steps": 2}))
    return folder


@pytest.mark.parametrize("name", WRITTEN)
def test_a_run_with_a_link_out_of_it_is_neither_resumed_nor_exported_nor_begun(
    name: str, small: Path, outside: Path, tmp_path: Path
) -> None:
    (small / "checkpoints").mkdir(exist_ok=True)
    link(small, name, outside if "." not in Path(name).name else outside / "bashrc")
    before = (outside / "bashrc").read_text()
    with pytest.raises(UserError, match=f"{name} is a link that leads out of it"):
        export([str(small)])
    (small / "config.yaml").unlink()
    with pytest.raises(UserError, match=f"{name} is a link that leads out of it"):
        RunDir.create(small)
    assert (outside / "bashrc").read_text() == before
    assert [file.name for file in outside.iterdir()] == ["bashrc"]


def test_a_command_that_resumes_one_writes_nothing_elsewhere(stopped: Path, outside: Path, commands: Any, tmp_path: Path) -> None:
    before = (outside / "bashrc").read_text()
    for name, target in (("metrics.jsonl", outside / "bashrc"), ("model", outside), ("ranks", outside)):
        link(stopped, name, target)
        assert commands(f"resume={stopped}", log=tmp_path / "log.txt") == 2
        (stopped / name).unlink()
    assert (tmp_path / "log.txt").read_text().count("is a link that leads out of it") == 3
    assert (outside / "bashrc").read_text() == before
    assert [file.name for file in outside.iterdir()] == ["bashrc"]


@pytest.mark.parametrize("target", ["..", ".", "../..", "../../home/bashrc", "/etc/passwd", "/dev/zero", "loop"])
def test_links_are_followed_to_their_end(target: str, small: Path, outside: Path) -> None:
    (small / "loop").symlink_to(target)
    with pytest.raises(UserError, match="loop is a link that leads"):
        check_folder_contained(small, "run")


def test_links_inside_are_as_good_as_files(small: Path) -> None:
    (small / "checkpoints").mkdir()
    (small / "checkpoints" / "step-000002.ckpt").write_bytes(b"x")
    (small / "checkpoints" / "last.ckpt").symlink_to("step-000002.ckpt")
    (small / "latest").symlink_to("checkpoints")
    check_folder_contained(small, "run")


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "samples.jsonl", "pairs.jsonl", "results.json", "failure.json"])
def test_a_pipe_or_a_link_is_not_read_by_a_report(name: str, small: Path, outside: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    (small / name).unlink(missing_ok=True)
    if name == "failure.json":
        (small / "results.json").unlink()
    os.mkfifo(small / name)
    signal.alarm(20)  # a pipe that is opened waits for a writer
    try:
        with pytest.raises(UserError, match=f"{name}: is a link out of its folder, or no file"):
            report([str(small), "-o", str(page)])
    finally:
        signal.alarm(0)
    (small / name).unlink()
    (small / name).symlink_to(outside / "bashrc")
    with pytest.raises(UserError, match=f"{name}: is a link out of its folder, or no file"):
        report([str(small), "-o", str(page)])
    assert not page.exists()


@pytest.mark.parametrize("name", ["answer/figure.svg", "answer/figure.png", "answer/findings.md", "answer/table.csv", "experiment.json"])
def test_an_answer_shows_no_file_of_another_folder(name: str, small: Path, outside: Path, tmp_path: Path) -> None:
    (small.parent / "answer").mkdir()
    (small.parent / "answer" / "findings.md").write_text("# Which?\n\n- one\n")
    link(small.parent, name, outside / "bashrc")
    with pytest.raises(UserError, match="is a link out of its folder"):
        report([str(small.parent), "-o", str(tmp_path / "page.html")])


def test_folders_that_hold_each_other_are_walked_once(small: Path) -> None:
    (small.parent / "again").symlink_to(small.parent)
    assert load_runs(small.parent).names == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
        "[" * 5000,
        "x: " + "[" * 200 + "]" * 200,
        "[" + "1," * (MOST_NODES + 1) + "1]",
        "!!python/name:os.system ''",
    ],
    ids=["aliases", "open", "deep", "wide", "tag"],
)
def test_a_config_that_means_too_much_is_not_loaded(text: str, small: Path) -> None:
    (small / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml"):
        load_runs(small)


def test_numbers_and_objects_without_end_are_no_crash(small: Path) -> None:
    (small / "results.json").write_text("[" * 100_000)
    (small / "metrics.jsonl").write_text('{"step": 1, "a": ' + "[" * 100_000 + "\n")
    (small / "samples.jsonl").write_text("{" * 100_000 + "\n")
    assert load_runs(small).names == ["."] or len(load_runs(small).names) == 1


def test_processes_that_a_directory_names_are_not_signalled(tmp_path: Path) -> None:
    """A directory whose `ranks/1.pid` is that of this very process."""
    run = RunDir(tmp_path)
    outcomes = Outcomes.of(run)
    outcomes.folder.mkdir()
    (outcomes.folder / "1.pid").write_text(str(os.getpid()))
    outcomes.clear()  # what a launcher does before it may send anything
    outcomes.send(signal.SIGTERM)
    assert time.time() > 0  # still here


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/elsewhere", "..", ".", "", "a/b", "a\0b"])
def test_jobs_of_a_sweep_lie_in_its_directory(name: str, tmp_path: Path) -> None:
    (tmp_path / SWEEP).write_text(json.dumps([{"job": 0, "overrides": [], "run": name}]))
    with pytest.raises(UserError, match="which is no name"):
        read(tmp_path)


@pytest.mark.parametrize("storage", ["../study.db", "/tmp/other.db", "study.db?mode=memory", "link.db", "none.db"])
def test_a_trial_reports_to_a_file_beside_it(storage: str, tmp_path: Path, outside: Path) -> None:
    run = RunDir(tmp_path / "sweep" / "job")
    run.path.mkdir(parents=True)
    (run.path.parent / "link.db").symlink_to(outside / "bashrc")
    card = {"storage": storage, "metric": "val/loss", "pruner": "median", "startup_trials": 1, "warmup_steps": 0, "study": "x", "id": 0}
    run.trial.write_text(json.dumps(card))
    with pytest.raises(UserError, match="must be a file beside the run"):
        Pruning(run)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_a_pipeline_is_not_continued_through_a_link(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sft").symlink_to(outside)
    monkeypatch.setattr("sys.argv", ["pipeline", "pipeline=dpo", f"run_dir={tmp_path / 'sweep'}"])
    assert pipeline_main() == 2
    assert "sft is a link that leads out of it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        "loss.beta=../../x",
        "loss.beta=/etc/passwd",
        "a=~root",
        "a=%2e%2e%2f",
        "a=x\0y",
        f"a={'x' * 300}",
        "a=\x1b]0;t\x07",
        "a=..",
        "a=. .",
        "a=é",
    ],
)
def test_names_of_jobs_are_names(change: str) -> None:
    name = f"0{slug([change])}"
    assert Path(name).name == name
    assert len(name.encode()) < 255
    assert not {"/", "\0", "\x1b", "~", "%"} & set(name)


@pytest.mark.parametrize("key", ["model.name", "dataset.name", "loss.name", "optimizer.name"])
@pytest.mark.parametrize("name", ["../x", "/x", "~x", "%2e%2e", "x\0y", "x" * 300, "..", "", "-rf", "a b", "a\nb", "\x1b[31m"])
def test_names_that_become_parts_of_paths_are_plain(key: str, name: str, defaults: Callable[[str, str], None]) -> None:
    with pytest.raises(UserError):
        defaults(key, name)


@pytest.fixture(scope="module")
def defaults() -> Callable[[str, str], None]:
    """Checks the default config with one key changed."""
    from alignkit.command_line import precheck
    from alignkit.configuration import check_config, config_yaml

    (settings,) = precheck([])
    whole = yaml.safe_load(config_yaml(settings))

    def check(key: str, value: str) -> None:
        config = OmegaConf.create(json.loads(json.dumps(whole)))
        OmegaConf.update(config, key, value)
        check_config(config)

    return check


def test_entries_of_a_cache_are_named_by_their_content_alone(tmp_path: Path) -> None:
    import torch

    store = Store(tmp_path / "cache", {"text": "../../x"}, print)
    assert store.write({b"\x00../../../etc/passwd".ljust(32, b"x"): torch.ones(2)})
    assert [len(file.stem) for file in (tmp_path / "cache").glob("*.safetensors")] == [32]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]


def test_a_cache_that_is_a_link_into_a_file_is_not_followed_into_it(tmp_path: Path, outside: Path) -> None:
    import torch

    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "x.safetensors").symlink_to(outside / "bashrc")
    said: list[str] = []
    store = Store(tmp_path / "cache", {}, said.append)
    assert store.read({b"x" * 32: 2}) == {}
    assert store.write({b"x" * 32: torch.ones(2)})
    assert (outside / "bashrc").read_text().startswith('{"step"')


def test_a_cache_root_is_what_was_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALIGNKIT_CACHE", str(tmp_path / "mine"))
    assert cache_root(None) == tmp_path / "mine"
