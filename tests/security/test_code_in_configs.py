"""No config can name code: not a file of a `--config-dir`, a command line, a run's config.yaml, a pipeline, a sweep that is resumed.

The targets are those that got past Hydra's own list of forbidden ones, or past prefixes, in some version.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
import yaml

from alignkit.command_line import precheck, read_command, read_flags
from alignkit.composition import Composer, composing
from alignkit.configuration import check_config, config_yaml
from alignkit.errors import UserError
from alignkit.export import export
from alignkit.pipeline import read_command as read_pipeline_command
from alignkit.pipelines.experiment import unfold
from alignkit.resuming.resumption import run_to_resume
from alignkit.run_dir import RunDir
from alignkit.settings import RunSettings
from alignkit.sweeping.command import read_again, sweep_to_resume

TARGETS = (
    *("os.system", "builtins.eval", "builtins.exec", "builtins.open", "builtins.compile", "pickle.load", "pickle.loads"),
    *("torch.load", "torch.hub.load", "torch.utils.collect_env.run", "pandas.read_pickle", "numpy.load", "joblib.load"),
    *("subprocess.run", "subprocess.Popen", "subprocess.getoutput", "importlib.import_module", "runpy.run_path", "ctypes.CDLL"),
    *("logging.config.dictConfig", "pathlib.Path.write_text", "transformers.AutoConfig.from_pretrained", "shutil.rmtree", "pty.spawn"),
)
BYPASSES = ("torch.optim.optimizer.torch.load", "logging.os.system", "alignkit.job.os.system")
"""Names that begin like something harmless."""
SPELLINGS = ("_target_", "_target_ ", " _target_", "__target_", "_TARGET_", "＿target＿", "_ｔarget_", "a._target_.b")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder for `--config-dir`."""
    (tmp_path / "experiment").mkdir()
    return tmp_path


def overlay(folder: Path, content: object) -> list[str]:
    (folder / "experiment" / "evil.yaml").write_text("# @package _global_\n" + yaml.safe_dump(content))
    return ["-cd", str(folder), "experiment=evil"]


def refusal(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        precheck(argv)
    return str(caught.value)


Begun: TypeAlias = Callable[..., Path]


@pytest.fixture(scope="module")
def config() -> str:
    (settings,) = precheck(["steps=20"])
    return config_yaml(settings)


@pytest.fixture
def begun(tmp_path: Path, config: str) -> Begun:
    """A run's directory with some of its config changed; there is something to go on from."""

    def make(**changes: object) -> Path:
        run = RunDir(tmp_path / "run")
        shutil.rmtree(run.path, ignore_errors=True)
        changed = yaml.safe_load(config)
        for key, value in changes.items():
            group, _, name = key.partition("__")
            if name:
                changed[group][name] = value
            else:
                changed[group] = value
        run.checkpoints.mkdir(parents=True)
        run.config.write_text(yaml.safe_dump(changed))
        run.last_checkpoint.write_bytes(b"")
        return run.path

    return make


@pytest.fixture(scope="module")
def typed() -> Iterator[Callable[[str], RunSettings]]:
    """Checks what an override makes of a config, by one reading of the files for all of them."""
    with composing(None) as hydra:
        composer = Composer(hydra)
        yield lambda line: check_config(composer.compose([composer.rewrite(line)]))


@pytest.mark.parametrize("target", TARGETS + BYPASSES)
def test_no_target_is_accepted_anywhere(target: str, theirs: Path, mark: Path, typed: Callable[[str], RunSettings], begun: Begun) -> None:
    node = {"_target_": target, "_args_": [f"touch {mark}"], "command": f"touch {mark}"}
    for content in ({"loss": node}, {"dataset": {"parts": [{"a": [node]}]}}, {"model": {"lora": {"x": {"y": node}}}}, {"extra": [[node]]}):
        with pytest.raises(UserError, match=r"evil\.yaml:\d+: _target_: configs hold names and values, never code"):
            read_flags(overlay(theirs, content))
    for line in (
        f"+x._target_={target}",
        f"++loss._target_={target}",
        f"+loss.x={{_target_: {target}}}",
        f"loss={{_target_: {target}}}",
        f"+dataset.x=[[{{_target_: {target}}}]]",
        f"+model.a.b.c._target_={target}",
    ):
        with pytest.raises(UserError, match="never code"):
            typed(line)
    with pytest.raises(UserError, match="never code"):
        run_to_resume(read_flags([f"resume={begun(dataset__columns=[node])}"]))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_looks_like_the_key_is_refused_too(spelling: str, theirs: Path, begun: Begun) -> None:
    for content in ({"loss": {spelling: "os.system"}}, {"loss": [{"a": {spelling: "os.system"}}]}, {spelling: "os.system"}):
        with pytest.raises(UserError, match="never code"):
            read_flags(overlay(theirs, content))
    with pytest.raises(UserError, match="never code"):
        run_to_resume(read_flags([f"resume={begun(dataset__columns={spelling: 'os.system'})}"]))


@pytest.mark.parametrize(
    "node",
    [
        {"callbacks": {"x": {"name": "os.system"}}},
        {"job_logging": {"version": 1, "handlers": {"x": {"()": "os.system"}}}},
        {"searchpath": ["pkg://os", "file:///tmp"]},
        {"sweep": {"dir": "/tmp/elsewhere"}},
        {"sweep": {"subdir": "../../elsewhere"}},
        {"job": {"env_set": {"LD_PRELOAD": "x.so"}}},
        {"job": {"env_copy": ["HOME"]}},
        {"mode": "MULTIRUN", "callbacks": {"x": {"_target_": "logging.os.system"}}},
    ],
    ids=str,
)
def test_files_do_not_change_hydra(node: dict[str, object], theirs: Path) -> None:
    assert "hydra" in refusal(*overlay(theirs, {"hydra": node}))


@pytest.mark.parametrize(
    "line",
    [
        "hydra.callbacks.x._target_=os.system",
        "hydra.launcher._target_=os.system",
        "+hydra.sweeper._target_=os.system",
        "hydra.launcher.＿target＿=os.system",
        "hydra/job_logging=custom",
        "hydra.job_logging.handlers.x={'()': os.system}",
        "hydra.searchpath=[pkg://os]",
        "hydra.run.dir=../elsewhere",
        "hydra.sweep.subdir=../elsewhere",
        "hydra.job.env_set.LD_PRELOAD=x",
        "--experimental-rerun=evil.pickle",
        "--config-path=/tmp",
    ],
)
def test_command_lines_do_not_either(line: str) -> None:
    with pytest.raises(UserError):
        read_command(read_flags([line, "-m"]))


def test_a_config_folder_cannot_allow_code(theirs: Path, mark: Path) -> None:
    call = {"scorer": {"name": "python", "callable": "os.system"}}
    told = refusal(*overlay(theirs, {"allow_code": ["os"], **call}))
    assert "evil.yaml:2: allow_code is for the command line alone" in told
    assert "type allow_code=[PACKAGE]" in told
    (theirs / "loss").mkdir()
    for text in (
        "# @package _global_\nallow_code: [os]\n",
        '# @package _global_\n"allow_code": [os]\n',
        "# @package _global_\n? allow_code\n: - os\n",
        "# @package _global_.allow_code\n0: os\n",
        "# @package allow_code\n0: os\n",
        "name: dpo\nallow_code: [os]\n",
    ):
        (theirs / "loss" / "mine.yaml").write_text(text)
        assert "allow_code" in refusal("-cd", str(theirs), "loss=mine"), (
            text
        )  # where the key is not seen in the file, in what is made of it
    (theirs / "loss" / "mine.yaml").unlink()
    (theirs / "experiment" / "evil.yaml").write_text("# @package _global_\nscorer: {name: python, callable: os.getpid}\n")
    assert "allow_code=[os]" in refusal("-cd", str(theirs), "experiment=evil")


@pytest.mark.parametrize("key", ["run_dir", "cache_dir"])
def test_a_config_folder_does_not_say_where_files_go(key: str, theirs: Path) -> None:
    assert f"{key} is for the command line alone" in refusal(*overlay(theirs, {key: "../../elsewhere"}))


@pytest.mark.parametrize("line", ["allow_code=[os]", "+allow_code=[os]", "++allow_code=[os]", " allow_code=[os]", "run_dir=/tmp/elsewhere"])
@pytest.mark.parametrize("key", ["options", "from"])
def test_a_pipeline_file_cannot_either(line: str, key: str, theirs: Path) -> None:
    (theirs / "pipeline").mkdir()
    stage = {key: ["loss=sft", line]}
    (theirs / "pipeline" / "evil.yaml").write_text(yaml.safe_dump({"name": "evil", "stages": {"sft": stage}}))
    with pytest.raises(UserError, match="for the command line alone"):
        read_pipeline_command(read_flags(["-cd", str(theirs), "pipeline=evil"]))


@pytest.mark.parametrize("line", ["allow_code=[os]", "stages.sft.allow_code=[os]", "cache_dir=/tmp/elsewhere"])
def test_an_experiment_of_pipelines_cannot_either(line: str, theirs: Path) -> None:
    content = {"question": "Does it?", "common": [line], "arms": {"a": ["pipeline=dpo"]}, "answer": "comparison"}
    (theirs / "experiment" / "evil.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="for the command line alone"):
        unfold(read_flags(["-cd", str(theirs), "experiment=evil"]))


def test_a_run_that_is_resumed_allows_no_code_by_itself(begun: Begun) -> None:
    code = {"allow_code": ["os"], "scorer": {"name": "python", "callable": "os.system"}}
    folder = begun(**code)
    with pytest.raises(UserError, match=r"a file cannot allow code. If you trust it, type allow_code=\[os\] again"):
        run_to_resume(read_flags([f"resume={folder}"]))
    with pytest.raises(UserError, match="a file cannot allow code"):
        run_to_resume(read_flags([f"resume={folder}", "allow_code=[json]"]))
    with pytest.raises(UserError, match="a file cannot allow code"):
        export([str(folder)])
    resumed = run_to_resume(read_flags([f"resume={folder}", "allow_code=[os,json]"]))
    assert resumed is not None
    assert resumed[1].allow_code == ["os"]


def test_code_that_was_typed_again_must_be_a_list_of_names(begun: Begun) -> None:
    folder = begun(allow_code=["os"])
    for typed in ("allow_code={a: b}", "allow_code=[", "allow_code=[[os]]"):
        with pytest.raises(UserError):
            run_to_resume(read_flags([f"resume={folder}", typed]))


@pytest.mark.parametrize(
    "line",
    [
        "allow_code=[os]",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.setup=['touch x']",
        "++hydra.launcher.python=evil",
        "cache_dir=/tmp/x",
    ],
)
@pytest.mark.parametrize("name", ["study.json", "grid.json"])
def test_a_sweep_that_is_resumed_does_not_decide_it_either(line: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps({"arguments": ["-m", "seed=0,1", line], "directory": str(tmp_path)}))
    (tmp_path / "sweep.json").write_text("[]")
    flags = read_flags([f"resume={tmp_path}"])
    folder = sweep_to_resume(flags)
    assert folder == tmp_path
    with pytest.raises(UserError, match="a file does not decide"):
        read_again(folder, flags)


def test_where_a_sweep_was_begun_does_not_choose_the_server_of_wandb(tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nbase_url = http://127.0.0.1:9\n")
    (tmp_path / "grid.json").write_text(json.dumps({"arguments": ["-m", "seed=0,1"], "directory": str(tmp_path)}))
    with pytest.raises(UserError, match="where W&B has settings"):
        read_again(tmp_path, read_flags([f"resume={tmp_path}"]))


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:HF_TOKEN}",
        "${oc.env:'HF_TOKEN'}",
        '${oc.env:"HF_TOKEN"}',
        "${oc.env: MY_PASSWORD}",
        "${oc.env:${model.name}}",
        "${oc.env:AWS_SECRET_ACCESS_KEY,none}",
        "a${OC.ENV:HF_TOKEN}",
        "${oc.decode:${oc.env:HF_TOKEN}}",
    ],
)
def test_the_environments_secrets_stay_there(
    value: str, theirs: Path, begun: Begun, typed: Callable[[str], RunSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "nobody-may-see-me")
    with pytest.raises(UserError, match="of the environment, which a file may not"):
        read_flags(overlay(theirs, {"logger": {"project": value}}))
    with pytest.raises(UserError) as caught:
        typed(f"logger.project={json.dumps(value)}")
    assert "nobody-may-see-me" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        run_to_resume(read_flags([f"resume={begun(logger__project=value)}"]))
    assert "nobody-may-see-me" not in str(caught.value)


def test_a_strangers_file_reads_what_is_no_secret(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("COLOUR", "red")
    (settings,) = precheck([*overlay(theirs, {"logger": {"project": "job-${oc.env:SLURM_JOB_ID}"}})])
    assert settings.logger.project == "job-17"
    assert "reads 'COLOUR' of the environment" in refusal(*overlay(theirs, {"logger": {"project": "${oc.env:COLOUR}"}}))
    assert precheck(["logger.project=${oc.env:COLOUR}"])[0].logger.project == "red"  # one's own command line may


def test_files_outside_of_a_config_folder_are_not_read(theirs: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "bomb.yaml").write_text("a: &a [x]\nb: [*a]\n")
    (theirs / "loss").symlink_to(elsewhere)
    assert "loss is a link that leads out of it" in refusal("-cd", str(theirs), "loss=bomb")
    (theirs / "loss").unlink()
    for name in ("../../bomb", f"file://{elsewhere}/bomb", {"loss": "../../bomb"}):
        assert "defaults name options of groups" in refusal(*overlay(theirs, {"defaults": [name]}))


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text", [BOMB, "a: " + "[" * 5000, "a: " + "{a: " * 400, "a: [" + "x," * 200_000 + "x]"], ids=["alias", "lists", "maps", "wide"]
)
def test_small_files_that_mean_much_are_not_built(text: str, theirs: Path, begun: Begun) -> None:
    (theirs / "experiment" / "evil.yaml").write_text(f"# @package _global_\n{text}\n")
    with pytest.raises(UserError, match=r"evil\.yaml"):
        read_flags(["-cd", str(theirs), "experiment=evil"])
    folder = begun()
    (folder / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml"):
        run_to_resume(read_flags([f"resume={folder}"]))
