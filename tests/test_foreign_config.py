"""A config that somebody else wrote is data: it can be wrong, but it cannot run anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignkit.command_line import precheck
from alignkit.errors import UserError


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    (tmp_path / "loss").mkdir()
    (tmp_path / "experiment").mkdir()
    return tmp_path


def test_a_folder_of_ones_own_adds_options(theirs: Path) -> None:
    (theirs / "loss" / "soft_dpo.yaml").write_text("defaults: [dpo]\nbeta: 0.01\n")
    (theirs / "experiment" / "grid.yaml").write_text(
        "# @package _global_\ndefaults: [{override /loss: soft_dpo}]\nsteps: 7\nschedule: {warmup_steps: 2}\n"
        "hydra: {sweeper: {params: {seed: '1,2'}}}\n"
    )
    jobs = precheck(["-m", "-cd", str(theirs), "experiment=grid"])
    assert [(job.loss.name, job.loss.options["beta"], job.steps, job.seed) for job in jobs] == [("dpo", 0.01, 7, 1), ("dpo", 0.01, 7, 2)]
    with pytest.raises(UserError, match=r"^unknown loss 'soft_dpoo'; .*soft_dpo, .*exist\. Did you mean 'soft_dpo'\?"):
        precheck(["-cd", str(theirs), "loss=soft_dpoo"])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("hydra: {callbacks: {x: {_target_: os.system}}}", r"evil\.yaml:2: _target_: configs hold names and values"),
        ("hydra: {callbacks: {x: {name: mine}}}", r"^hydra\.callbacks: is set by a file of --config-dir"),
        ("hydra: {job: {env_set: {LD_PRELOAD: x}}}", r"^hydra\.job\.env_set: is set by a file"),
        ("hydra: {searchpath: [pkg://os]}", r"searchpath"),
        ("hydra: {sweep: {dir: /tmp/elsewhere}}", r"^hydra\.sweep: is set by a file"),
        ("loss: {_target_: os.system}", r"evil\.yaml:2: _target_: configs hold names and values"),
        ("a: &a [x, x]\nb: [*a, *a]", r"evil\.yaml:3: aliases \(\*a\) are not read"),
        ("loss: [", r"evil\.yaml:\d: "),
        ("\tloss: 3", r"evil\.yaml:2: found character '\\t'"),
        ("x: !!python/object/apply:os.system [ls]", r"python/object"),
        ("steps: 3\nsteps: 4", r"duplicate key"),
        ("loss: {beta: 010x}", r"^loss\.beta = '010x'"),
        ("", r"steps"),
    ],
)
def test_a_strangers_config_is_data(theirs: Path, text: str, answer: str) -> None:
    (theirs / "experiment" / "evil.yaml").write_text(f"# @package _global_\n{text}\n")
    with pytest.raises(UserError, match=answer):
        precheck(["-cd", str(theirs), "experiment=evil", *([] if text else ["steps=0"])])


def test_a_strangers_file_is_small_text(theirs: Path) -> None:
    (theirs / "loss" / "big.yaml").write_text(f"name: {'x' * 2**20}\n")
    with pytest.raises(UserError, match=r"big\.yaml: is larger than 1,048,576 bytes"):
        precheck(["-cd", str(theirs)])
    (theirs / "loss" / "big.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(UserError, match=r"big\.yaml: is not UTF-8 text"):
        precheck(["-cd", str(theirs)])
