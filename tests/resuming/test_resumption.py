"""What `resume=DIR` makes of a directory: settings, or a reason why not. `end_to_end/test_resume.py` runs it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from alignkit.command_line import precheck, read_flags
from alignkit.configuration import config_yaml
from alignkit.errors import UserError
from alignkit.manifests import Manifest, step_name
from alignkit.resuming.resumption import read_settings, run_to_resume
from alignkit.run_dir import RunDir
from alignkit.settings import RunSettings


def begun(run: RunDir, *overrides: str) -> RunSettings:
    """What a run began with."""
    (settings,) = precheck([*overrides, "steps=6", "schedule.warmup_steps=1"])
    return dataclasses.replace(settings, run_dir=str(run.path))


def stopped(folder: Path, *overrides: str) -> RunDir:
    """The directory of a run that was stopped after a checkpoint."""
    run = RunDir.create(folder)
    run.config.write_text(config_yaml(begun(run, *overrides)), encoding="utf-8")
    run.append_metrics({"val/loss": 1.0}, step=0, epoch=0)
    run.checkpoints.mkdir()
    run.last_checkpoint.write_bytes(b"")
    return run


def refusal(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        run_to_resume(read_flags(argv))
    return str(caught.value)


MIXTURE = "dataset.parts={a: {source: reviews, pairs: 30}, b: {source: reviews, pairs: 20, world_seed: 5}}"


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("loss=ppo", "scorer=vader", "rollout.reuse=2"),
        ("loss=con_dph", "loss.dpo_weight=0", "model.train=heads"),
        ("loss=con_dph", "loss.beta=0.3"),
        ("loss=composite", "loss.parts={dpo: {loss: dpo, beta: 0.2}, nll: {loss: sft, weight: 0.1}}"),
        ("loss=rloo", "scorer=weighted", "scorer.parts={tone: {scorer: vader}, short: {scorer: length, target: 9, weight: 0.1}}"),
        ("dataset=mixture", MIXTURE),
        ("optimizer=laprop", "reference=moving", "loss=dpo", "model.adapter=lora"),
        ("logger=jsonl", "seed=3", "precision=bf16", "schedule=linear"),
    ],
)
def test_a_config_that_a_run_wrote_is_what_it_began_with(overrides, tmp_path):
    run = stopped(tmp_path / "run", *overrides)
    assert run_to_resume(read_flags([f"resume={run.path}"])) == (run, begun(run, *overrides))


OLDER = [
    ("validation", "kl"),
    ("validation", "benchmarks"),
    ("validation", "benchmark_questions"),
    ("model", "lora", "export"),
    ("dataset", "length_bias"),
    ("loss", "head", "normalize"),
    ("reference",),
]


def without(run: RunDir, *keys: str) -> dict[str, object]:
    """Take a key out of the config that a run wrote."""
    config = inner = yaml.safe_load(run.config.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    run.config.write_text(yaml.safe_dump(config))
    return config


@pytest.mark.parametrize("keys", OLDER, ids=".".join)
def test_a_key_that_came_later_has_its_default(keys, tmp_path, capsys):
    run = stopped(tmp_path / "run")
    without(run, *keys)
    assert run_to_resume(read_flags([f"resume={run.path}"])) == (run, begun(run))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("resume: config.yaml is of an older version;")
    assert line.endswith(".".join(keys))


def test_a_part_of_an_objective_is_not_filled_with_those_of_the_default(tmp_path):
    overrides = ("loss=composite", "loss.parts={only: {loss: dpo, beta: 0.2}}")
    run = stopped(tmp_path / "run", *overrides)
    without(run, "validation", "kl")
    assert run_to_resume(read_flags([f"resume={run.path}"])) == (run, begun(run, *overrides))


def test_what_only_a_users_own_option_can_know_stays_missing(tmp_path):
    run = stopped(tmp_path / "run")
    config = without(run, "model", "path")
    config["model"]["name"] = "mine"
    run.config.write_text(yaml.safe_dump(config))
    assert "model.path is missing" in refusal(f"resume={run.path}")


def test_a_directory_may_be_moved_and_named_in_any_way(tmp_path, monkeypatch):
    run = stopped(tmp_path / "a")
    moved = run.path.rename(tmp_path / "beta=0.1,epsilon=0")
    monkeypatch.chdir(tmp_path)
    for typed in ("beta=0.1,epsilon=0", f"{moved}/", f"'{moved}'"):
        found = run_to_resume(read_flags([f"resume={typed}"]))
        assert found is not None
        assert found[0].path == moved
        assert found[1].run_dir == str(moved)


def test_debug_may_be_typed_beside_it_and_is_not_kept(tmp_path):
    run = stopped(tmp_path / "run", "debug=true")
    for typed, debug in (((), False), (("debug=true",), True), (("debug=True",), True), (("debug=false",), False)):
        found = run_to_resume(read_flags([f"resume={run.path}", *typed]))
        assert found is not None
        assert found[1].debug is debug
    assert "-m and --config-dir have no place here" in refusal("-m", f"resume={run.path}")
    assert refusal(f"resume={run.path}", "debug=maybe") == "debug = 'maybe'; must be true or false."


def test_a_command_without_it_is_another_command():
    assert run_to_resume(read_flags(["loss=dpo", "steps=3"])) is None


def test_no_directory_and_no_run_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal("resume=absent") == f"resume = {tmp_path / 'absent'}: there is no such directory, seen from {tmp_path}."
    (tmp_path / "empty").mkdir()
    assert refusal("resume=empty").endswith("has no config.yaml. Type the directory that a run's last line named.")
    stopped(tmp_path / "sweep" / "0-beta=0.1")
    assert refusal("resume=sweep").endswith(f"Type one of those inside it, such as resume={tmp_path / 'sweep' / '0-beta=0.1'}.")


def test_a_run_without_a_checkpoint_cannot_go_on(tmp_path):
    early, without = stopped(tmp_path / "a"), stopped(tmp_path / "b", "callbacks.checkpoints=false")
    for run in (early, without):
        run.last_checkpoint.unlink()
    assert run_to_resume(read_flags([f"resume={early.path}"])) is not None, "it begins anew, and says so"
    assert "callbacks.checkpoints was false" in refusal(f"resume={without.path}")


def sealed(run: RunDir, step: int) -> None:
    """A checkpoint's manifest, as the run would write it now."""
    path = run.checkpoints / step_name(step)
    path.write_bytes(b"")
    Manifest(step=step, files={}, config=yaml.safe_load(run.config.read_text()), versions={}).write(path)


CHANGES = ("steps=9", "hardware=cpu", "hardware.threads=1", "logger=jsonl", "logger.every=3", "callbacks.progress_bar=false", "cache_dir=c")


def test_what_no_number_depends_on_may_change(tmp_path):
    run = stopped(tmp_path / "run")
    sealed(run, 4)
    found = run_to_resume(read_flags([f"resume={run.path}", *CHANGES]))
    assert found is not None
    expected = dataclasses.replace(begun(run, *[line for line in CHANGES if line != "steps=9"]), steps=9)
    assert found[1] == expected
    run.config.write_text(config_yaml(found[1]))  # as the run does
    assert run_to_resume(read_flags([f"resume={run.path}"])) is not None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("loss.beta=0.5", "loss.beta=0.5 would make another run of it (it began with 0.1)"),
        ("loss=dpo", "loss=dpo would make another run of it"),
        ("seed=1", "seed=1 would make another run of it (it began with 0)"),
        ("batch.pairs=2", "batch.pairs=2 would make another run of it (it began with 16)"),
        ("+optimizer.lr=1", "would make another run"),
        ("betta=1", "betta=1 would make another run of it. Devices"),
        ("run_dir=elsewhere", "run_dir=elsewhere has no place here"),
        ("steps=5,9", "steps=5,9 has no place here"),
        ("~logger", "~logger has no place here"),
        ("steps=", "steps"),
        ("steps", "cannot read 'steps' beside it"),
        ("logger=wandbb", "unknown logger 'wandbb'; jsonl, wandb exist. Did you mean 'wandb'?"),
        ("logger.evry=3", "logger.evry"),
        ("hardware.devices=64", "hardware"),
        ("steps=0", "steps = 0; must be"),
    ],
)
def test_what_would_make_another_run_is_refused(line, words, tmp_path):
    run = stopped(tmp_path / "run")
    before = run.config.read_text()
    assert words in refusal(f"resume={run.path}", line)
    assert run.config.read_text() == before


def test_a_config_that_was_edited_is_refused_with_the_differences(tmp_path):
    run = stopped(tmp_path / "run")
    sealed(run, 2)
    sealed(run, 4)
    config = yaml.safe_load(run.config.read_text())
    config["loss"]["beta"], config["seed"], config["logger"]["every"] = 0.2, 3, 77
    run.config.write_text(yaml.safe_dump(config))
    message = refusal(f"resume={run.path}")
    assert "is not what its checkpoints were made with (loss.beta: 0.1 -> 0.2; seed: 0 -> 3). Put it back" in message
    (run.checkpoints / "step-000004.json").write_text("{")
    assert "(loss.beta: 0.1 -> 0.2; seed: 0 -> 3)" in refusal(f"resume={run.path}"), "of the older one"


def test_a_finished_run_goes_on_when_it_is_given_more_steps(tmp_path):
    run = stopped(tmp_path / "run")
    run.append_metrics({"val/loss": 1.0}, step=6, epoch=1)
    run.write_results({"steps": 6})
    assert "all of its 6 steps are done. Type steps= beside it for more" in refusal(f"resume={run.path}")
    assert run_to_resume(read_flags([f"resume={run.path}", "steps=8"])) is not None


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    run = stopped(tmp_path / "run")
    run.append_metrics({"train/loss": 1.0}, step=6, epoch=1)
    run.write_results({"steps": 6})
    assert run_to_resume(read_flags([f"resume={run.path}"])) is not None, "its last validation is missing"
    run.append_metrics({"val/loss": 1.0}, step=6, epoch=1)
    assert "the run is finished; all of its 6 steps are done." in refusal(f"resume={run.path}")
    run.results.unlink()
    assert run_to_resume(read_flags([f"resume={run.path}"])) is not None, "its model may be missing"


def test_a_run_that_a_signal_stopped_has_results_and_goes_on(tmp_path):
    run = stopped(tmp_path / "run")
    run.append_metrics({"val/loss": 1.0}, step=4, epoch=1)
    run.results.write_text(json.dumps({"steps": 4}))
    assert run_to_resume(read_flags([f"resume={run.path}"])) is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config.yaml is empty: the run was stopped before it began."),
        ("a: [", "its config.yaml cannot be read ("),
        ("- a\n- b\n", "config.yaml is empty"),
    ],
)
def test_a_config_that_is_none_is_refused(text, message, tmp_path):
    run = stopped(tmp_path / "run")
    run.config.write_text(text)
    assert message in refusal(f"resume={run.path}")


def test_a_config_is_checked_like_anything_that_is_typed(tmp_path):
    run = stopped(tmp_path / "run")
    config = yaml.safe_load(run.config.read_text())
    for key, value, message in (
        ("steps", -1, "its config.yaml says: steps = -1; must be a number in [1, inf)"),
        ("_target_", "os.system", "_target_"),
        ("stepps", 3, "stepps"),
    ):
        run.config.write_text(yaml.safe_dump({**config, key: value}))
        with pytest.raises(UserError) as caught:
            read_settings(run)
        assert str(caught.value).startswith(f"resume = {run.path}: ")
        assert message in str(caught.value)


def test_data_that_are_gone_are_named(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    run = stopped(tmp_path / "run", "dataset=local", f"dataset.path={file}")
    found = run_to_resume(read_flags([f"resume={run.path}"]))
    assert found is not None
    assert dataclasses.asdict(found[1].dataset)["path"] == str(file)
    file.unlink()
    assert refusal(f"resume={run.path}").startswith(f"dataset.path = '{file}'; there is no such file")
