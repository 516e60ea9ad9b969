"""`python -m alignkit.pipeline` around its stages: directories, what is not run again, exit codes, sweeps. Training is a stand-in here."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from alignkit import pipeline as shell
from alignkit.errors import DivergedError, UserError
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings

Command = Callable[..., int]

FAST = ("logger=jsonl", "callbacks.progress_bar=false")
DPO = ("pipeline=dpo", *FAST)
ENDINGS = {
    101: (UserError("dataset.path = 'x'; is empty."), 2, "failed"),
    102: (DivergedError("the loss is nan at step 3."), 3, "failed"),
    103: (KeyboardInterrupt("stopped by SIGINT after step 3."), 130, "interrupted"),
    104: (SystemExit(143), 143, "interrupted"),
    105: (RuntimeError("a bug"), 1, "failed"),
}
"""What training raises, its exit code and the stage's status, by `seed=`."""


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[RunSettings]:
    """The settings of every run that the stand-in was asked for, in an empty working directory."""
    asked: list[RunSettings] = []

    def train(settings: RunSettings, run: RunDir, *, resume: bool = False) -> dict[str, Scalar]:
        asked.append(settings)
        monitor, steps = settings.loss.monitor, settings.steps
        results: dict[str, Scalar] = {monitor: 0.75, f"start/{monitor}": 0.5, "seconds": 61.0, "peak_memory_bytes": 3 * 2**30}
        if settings.seed in ENDINGS and not resume:
            error, code, _ = ENDINGS[settings.seed]
            if code in (3, 130, 143):
                run.checkpoints.mkdir()
                run.write_results(results | {"steps": 3})
            raise error
        run.model.mkdir(exist_ok=True)
        run.write_results(results | {"steps": steps, "resumed": resume})
        return json.loads(run.results.read_text())

    stand_in = types.ModuleType("alignkit.training")
    stand_in.train = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "alignkit.training", stand_in)
    monkeypatch.setattr("alignkit.pipelines.stage_runs.let_go", lambda: None)
    monkeypatch.chdir(tmp_path)
    return asked


@pytest.fixture
def command(trained: list[RunSettings], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Calls the command in this process and returns its exit code."""

    def run(*argv: str) -> int:
        monkeypatch.setattr(sys, "argv", ["alignkit-pipeline", *argv])
        return shell.main()

    return run


def names(trained: list[RunSettings]) -> list[str]:
    """Losses of the runs, and an empty list next time."""
    losses = [settings.loss.name for settings in trained]
    trained.clear()
    return losses


def record(folder: Path) -> list[dict[str, object]]:
    stages = json.loads((folder / "pipeline.json").read_text())["stages"]
    assert isinstance(stages, list)
    return stages


def test_stages_run_in_order_each_in_its_directory(
    command: Command, trained: list[RunSettings], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command(*DPO, "run_dir=mine") == 0
    mine = tmp_path / "mine"
    assert [settings.run_dir for settings in trained] == [str(mine / "sft"), str(mine / "dpo")]
    assert trained[1].model.path == str(mine / "sft" / "model")
    assert [settings.logger.group for settings in trained] == ["mine", "mine"]
    assert names(trained) == ["sft", "dpo"]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["stage", "loss", "steps", "seconds", "peak_memory", "metric", "start", "end"] in lines
    assert ["dpo", "dpo", "150", "61", "3.00", "GiB", "val/rewards/accuracies", "0.5", "0.75"] in lines
    assert lines[-1] == ["run:", str(mine)]
    assert {file.name for file in mine.iterdir()} <= {"sft", "dpo", "pipeline.json", "pipeline.lock"}


def test_a_pipeline_that_a_launcher_multiplied_is_refused(
    command: Command, trained: list[RunSettings], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command(*DPO, "run_dir=mine") == 2
    assert "each would run the whole pipeline. Type python -m alignkit.pipeline ... without torchrun" in capsys.readouterr().err
    assert trained == []
    assert not (tmp_path / "mine").exists()


def test_the_record_says_what_each_stage_was_and_reached(command: Command, tmp_path: Path) -> None:
    assert command(*DPO, "run_dir=mine", "steps=200", "stages.dpo.loss.beta=0.2") == 0
    sft, dpo = record(tmp_path / "mine")
    assert (sft["status"], sft["directory"], sft["label"], sft["seconds"]) == ("done", "sft", "sft", 61.0)
    assert dpo["overrides"] == [
        "loss=dpo",
        "logger=jsonl",
        "callbacks.progress_bar=false",
        "steps=200",
        "model.path={sft}/model",
        "loss.beta=0.2",
    ]
    assert dpo["results"] == {
        "val/rewards/accuracies": 0.75,
        "start/val/rewards/accuracies": 0.5,
        "seconds": 61.0,
        "peak_memory_bytes": 3 * 2**30,
        "steps": 200,
    }


def test_a_default_directory_is_named_after_pipeline_and_model(command: Command, tmp_path: Path) -> None:
    assert command(*DPO) == command(*DPO) == 0
    first, second = sorted(tmp_path.glob("runs/*/*"))
    assert first.name.endswith("-dpo-tiny")
    assert second != first


def test_a_finished_stage_is_not_run_again(command: Command, trained: list[RunSettings], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*DPO, "run_dir=mine", "stages.dpo.seed=105") == 1
    assert names(trained) == ["sft", "dpo"]
    assert command(*DPO, "run_dir=mine", "callbacks.progress_bar=true", "debug=true") == 0
    assert names(trained) == ["dpo"]
    assert "stage 1 of 2: sft is finished" in capsys.readouterr().out
    assert command(*DPO, "run_dir=mine") == 0
    assert names(trained) == []


def test_a_finished_stage_with_other_settings_is_refused(
    command: Command, trained: list[RunSettings], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command(*DPO, "run_dir=mine") == 0
    before = (tmp_path / "mine" / "pipeline.json").read_text()
    trained.clear()
    assert command(*DPO, "run_dir=mine", "stages.dpo.loss.beta=0.3") == 2
    message = capsys.readouterr().err
    assert "stage dpo is finished" in message
    assert "loss.beta is 0.1 there and 0.3 here" in message
    assert (trained, (tmp_path / "mine" / "pipeline.json").read_text()) == ([], before)


@pytest.mark.parametrize("seed", ENDINGS)
def test_every_ending_of_a_stage_has_its_exit_code_and_says_how_to_go_on(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path, seed: int
) -> None:
    error, code, status = ENDINGS[seed]
    assert command(*DPO, "run_dir=mine", f"stages.dpo.seed={seed}") == code
    out, message = capsys.readouterr()
    assert ("Traceback" in message) == (code == 1)
    assert f"type the same command with run_dir={tmp_path / 'mine'}" in message
    assert out.splitlines()[-1] == f"run: {tmp_path / 'mine'}"
    sft, dpo = record(tmp_path / "mine")
    assert (sft["status"], dpo["status"], dpo["exit_code"]) == ("done", status, code)
    if code != 143:
        assert str(error) in message
        assert str(error) in str(dpo["message"])


@pytest.mark.parametrize("seed", [102, 103])
def test_a_stage_without_a_checkpoint_is_started_anew(
    command: Command, trained: list[RunSettings], capsys: pytest.CaptureFixture[str], tmp_path: Path, seed: int
) -> None:
    argv = (*DPO, "run_dir=mine", f"stages.dpo.seed={seed}")
    assert command(*argv) == command(*argv) == ENDINGS[seed][1]
    assert names(trained) == ["sft", "dpo", "dpo"]
    assert "dpo was not finished and is started anew" in capsys.readouterr().out


def test_a_stage_with_a_checkpoint_goes_on_from_it(command: Command, trained: list[RunSettings], tmp_path: Path) -> None:
    argv = (*DPO, "run_dir=mine", "stages.dpo.seed=103")
    assert command(*argv) == 130
    (tmp_path / "mine" / "dpo" / "checkpoints" / "last.ckpt").touch()
    assert command(*argv) == 0
    assert names(trained) == ["sft", "dpo", "dpo"]
    assert json.loads((tmp_path / "mine" / "dpo" / "results.json").read_text())["resumed"] is True
    assert [stage["status"] for stage in record(tmp_path / "mine")] == ["done", "done"]


def test_a_stage_that_changed_does_not_go_on_from_a_checkpoint_of_another(command: Command, tmp_path: Path) -> None:
    assert command(*DPO, "run_dir=mine", "stages.dpo.seed=103") == 130
    (tmp_path / "mine" / "dpo" / "checkpoints" / "last.ckpt").touch()
    assert command(*DPO, "run_dir=mine", "stages.dpo.seed=4") == 0
    assert json.loads((tmp_path / "mine" / "dpo" / "results.json").read_text())["resumed"] is False


def test_a_run_that_was_killed_without_a_word_is_told_from_a_finished_one(
    command: Command, trained: list[RunSettings], tmp_path: Path
) -> None:
    assert command(*DPO, "run_dir=mine") == 0
    file = tmp_path / "mine" / "pipeline.json"
    told = json.loads(file.read_text())
    for stage in told["stages"]:
        stage["status"] = "running"
    file.write_text(json.dumps(told))
    trained.clear()
    assert command(*DPO, "run_dir=mine") == 0
    assert names(trained) == []
    results = RunDir(tmp_path / "mine" / "dpo").results
    results.write_text(json.dumps(json.loads(results.read_text()) | {"steps": 7}))
    file.write_text(json.dumps(told))
    assert command(*DPO, "run_dir=mine") == 0
    assert names(trained) == ["dpo"]


def test_a_record_that_cannot_be_read_is_named(command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command(*DPO, "run_dir=mine") == 0
    (tmp_path / "mine" / "pipeline.json").write_text('{"stages": [{"stage": "sft", "colour": "red"}]}')
    assert command(*DPO, "run_dir=mine") == 2
    assert f"{tmp_path / 'mine' / 'pipeline.json'}: cannot be read" in capsys.readouterr().err
    (tmp_path / "mine" / "pipeline.json").unlink()
    assert command(*DPO, "run_dir=mine") == 0


def test_a_mistake_makes_nothing(command: Command, trained: list[RunSettings], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for argv in (["pipeline=dop"], ["pipeline=dpo", "stages.dpo.loss.beta=-1"], ["-m", "pipeline=dpo", "stages.dpo.steps=9,0"], ["--lss"]):
        assert command(*argv) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert (trained, list(tmp_path.iterdir())) == ([], [])


def test_wrong_input_that_the_first_stage_found_leaves_the_directory_free(command: Command, tmp_path: Path) -> None:
    assert command(*DPO, "run_dir=mine", "seed=101") == 2
    assert list(tmp_path.iterdir()) == []
    assert command(*DPO, "run_dir=mine") == 0


def test_what_is_no_pipeline_directory_is_refused(
    command: Command, trained: list[RunSettings], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    RunDir.create(tmp_path / "run")
    (tmp_path / "file").touch()
    for folder, file in (("grid", "sweep.json"), ("mine", "pipeline.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).touch()
    for argv in (["run_dir=run"], ["run_dir=file"], ["run_dir=grid"], ["run_dir=mine", "-m", "seed=1,2"]):
        assert command(*DPO, *argv) == 2
        message = capsys.readouterr().err
        assert ("something else of alignkit's" in message) == (argv != ["run_dir=file"])
    assert trained == []


def test_two_processes_do_not_share_a_directory(command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command(*DPO, "run_dir=mine") == 0
    with FileLock(tmp_path / "mine" / "pipeline.lock"):
        assert command(*DPO, "run_dir=mine") == 2
    assert "another process is at work there" in capsys.readouterr().err


def test_jobs_of_a_sweep_share_the_stages_that_they_have_in_common(
    command: Command, trained: list[RunSettings], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    argv = ("-m", *DPO, "run_dir=grid", "seed=0,1", "stages.dpo.loss.beta=0.1,0.5")
    assert command(*argv) == 0
    assert [(settings.loss.name, settings.seed) for settings in trained] == [
        ("sft", 0),
        ("dpo", 0),
        ("dpo", 0),
        ("sft", 1),
        ("dpo", 1),
        ("dpo", 1),
    ]
    grid = tmp_path / "grid"
    second = grid / "1-seed=0,beta=0.5"
    assert trained[2].model.path == str(grid / "0-seed=0,beta=0.1" / "sft" / "model")
    assert [stage["directory"] for stage in record(second)] == ["../0-seed=0,beta=0.1/sft", "dpo"]
    assert not (second / "sft").exists()
    assert {settings.logger.group for settings in trained} == {"grid"}
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["job", "seed", "stages.dpo.loss.beta", "status", "val/rewards/accuracies"] in rows
    assert ["3", "1", "0.5", "done", "0.75"] in rows
    assert rows[-1] == ["run:", str(grid)]
    trained.clear()
    assert command(*argv) == 0
    assert trained == []


def own_pipelines(folder: Path, **files: str) -> None:
    """Pipelines for `-cd`, by name, each of stages as in YAML's flow style."""
    (folder / "pipeline").mkdir(parents=True)
    for name, stages in files.items():
        (folder / "pipeline" / f"{name}.yaml").write_text(f"{{name: {name}, stages: {{{stages}}}}}", encoding="utf-8")


SFT = "sft: {options: [loss=sft]}"
THEN_DPO = "dpo: {options: [loss=dpo], from: ['model.path={sft}/model']}"
THEN_IPO = "ipo: {options: [loss=ipo], from: ['model.path={sft}/model']}"
BAD = "bad: {options: [loss=reward, seed=105]}"


def test_pipelines_of_a_sweep_share_stages(command: Command, trained: list[RunSettings], tmp_path: Path) -> None:
    own_pipelines(tmp_path / "own", a=f"{SFT}, {THEN_DPO}", b=f"{SFT}, {THEN_IPO}")
    assert command("-cd", "own", "-m", "pipeline=a,b", *FAST, "run_dir=grid") == 0
    assert names(trained) == ["sft", "dpo", "ipo"]


def test_a_sweep_goes_on_after_a_failure_and_says_which_job_failed(
    command: Command, trained: list[RunSettings], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command("-m", *DPO, "run_dir=grid", "stages.dpo.seed=0,105,2") == 1
    jobs = json.loads((tmp_path / "grid" / "sweep.json").read_text())
    assert [job["status"] for job in jobs] == ["done", "failed", "done"]
    assert [job["exit_code"] for job in jobs] == [0, 1, 0]
    assert names(trained) == ["sft", "dpo", "dpo", "dpo"]
    message = capsys.readouterr().err
    assert "job 1 (stages.dpo.seed=105) failed: RuntimeError: a bug" in message
    assert "To go on, type the same command" in message


def test_an_interruption_ends_the_sweep(
    command: Command, trained: list[RunSettings], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command("-m", *DPO, "run_dir=grid", "stages.dpo.seed=0,103,2") == 130
    assert names(trained) == ["sft", "dpo", "dpo"]
    jobs = json.loads((tmp_path / "grid" / "sweep.json").read_text())
    assert [job["status"] for job in jobs] == ["done", "interrupted", "not run"]
    assert "1 of 3 jobs were not run." in capsys.readouterr().err


def test_a_stage_that_another_job_could_not_get_to_is_run_in_its_place(
    command: Command, trained: list[RunSettings], tmp_path: Path
) -> None:
    own_pipelines(tmp_path / "own", long=f"{SFT}, {BAD}, {THEN_DPO}", short=f"{SFT}, {THEN_DPO}")
    assert command("-cd", "own", "-m", "pipeline=long,short", *FAST, "run_dir=grid") == 1
    assert names(trained) == ["sft", "bradley_terry", "dpo"]
    jobs = json.loads((tmp_path / "grid" / "sweep.json").read_text())
    assert [job["status"] for job in jobs] == ["failed", "done"]


def test_help_lists_every_pipeline_with_its_stages(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    page = capsys.readouterr().out
    for words in (
        "  dpo  ",
        "stages: sft dpo\n",
        "  cost_of_alignment  ",
        "size=small|full",
        "stages.ppo.loss.kl_coefficient=0.02",
        "{sft} is the directory of stage sft",
    ):
        assert words in page
    assert max(map(len, page.splitlines())) <= 140
    assert command("--cfg", "job", "pipeline=dpo") == 2
    assert "alignkit.train --cfg job" in capsys.readouterr().err


def test_workers_are_for_sweeps_and_sizes_for_experiments(
    command: Command, trained: list[RunSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    for argv, words in (
        (("workers=2",), "add -m"),
        (("size=small",), "only experiments have sizes"),
        (("workers=x", "-m"), "a whole number"),
    ):
        assert command(*DPO, *argv) == 2
        assert words in capsys.readouterr().err
    assert trained == []


def test_what_jobs_of_a_sweep_print_is_in_their_directories(command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command("-m", *DPO, "run_dir=grid", "stages.dpo.seed=0,105") == 1
    out, errors = capsys.readouterr()
    assert "Traceback" not in out + errors
    assert "Traceback" in (tmp_path / "grid" / "1-seed=105" / "log.txt").read_text()
    assert [line for line in out.splitlines() if "started" in line] == [
        "[1/2] stages.dpo.seed=0: started",
        "[2/2] stages.dpo.seed=105: started",
    ]


def test_an_experiment_without_a_finished_run_says_that_there_is_no_answer(
    command: Command, trained: list[RunSettings], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    text = "# Mine.\nquestion: Does it?\narms: {a: [pipeline=dpo, seed=105, logger=jsonl]}\nanswer: comparison\n"
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(text)
    assert command("-cd", "own", "experiment=mine", "run_dir=mine") == 1
    out, errors = capsys.readouterr()
    assert "job 0 (a) failed: RuntimeError: a bug" in errors
    assert "no answer: " in errors
    assert "type the same command with run_dir=" in errors
    assert out.startswith("Does it?\nmine, size=full: 1 job, 1 at a time\n")
    told = json.loads((tmp_path / "mine" / "experiment.json").read_text())
    assert told == {"experiment": "mine", "question": "Does it?", "size": "full", "arms": ["a"]}


def test_other_commands_say_which_one_a_pipeline_is_for() -> None:
    done = subprocess.run([sys.executable, "-m", "alignkit.train", "pipeline=dpo"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Type python -m alignkit.pipeline pipeline=dpo" in done.stderr


HEAVY = "{'torch', 'transformers', 'lightning', 'datasets', 'wandb', 'pandas'}"


def test_nothing_heavy_is_imported_before_a_mistake_is_told() -> None:
    call = "sys.argv = ['alignkit-pipeline', 'pipeline=rlhf', 'stages.reward.steps=0']; assert alignkit.pipeline.main() == 2; "
    code = f"import sys, alignkit.pipeline; {call}print('heavy:', {HEAVY} & sys.modules.keys())"
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.splitlines()[-1] == "heavy: set()", done.stderr
    assert done.stderr.startswith("steps = 0; must be")


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this system cannot forget a process's peak")
def test_a_stage_forgets_the_peak_of_the_one_before() -> None:
    peak = "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss"
    code = "import resource; from alignkit.pipelines.stage_runs import forget_peak as forget; large = bytearray(2**29); del large; "
    code += f"before = {peak}; forget(); print(before - {peak})"
    # A process begins with the peak of the one that it was forked from: a shell's is small, that of the tests is not.
    shell_line = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}; exit $?"
    done = subprocess.run(["sh", "-c", shell_line], capture_output=True, text=True, check=True)
    kilobytes = int(done.stdout)
    assert kilobytes * 1024 > 2**27
