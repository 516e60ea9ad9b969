"""Config folders of strangers and mistyped overrides: settings or one message, soon, and nothing in them is ever run."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from alignkit.command_line import precheck
from alignkit.configuration import conf_dir
from alignkit.errors import UserError
from alignkit.resuming.older_configs import completed
from alignkit.settings import RunSettings

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from hostile import TEXTS, altered, mutated
from trials import fuzz

LONGEST = 10.0
"""Seconds that nothing may take: whatever takes longer hangs."""
OPTION = yaml.safe_load((conf_dir() / "loss" / "con_dph.yaml").read_text(encoding="utf-8"))
RUN = yaml.safe_load((Path(__file__).parents[1] / "stored_runs/01_first_run/config.yaml").read_text(encoding="utf-8"))
OVERLAY = "# @package _global_\ndefaults:\n  - override /loss: dpo\nloss:\n  beta: 0.2\nsteps: 20\n"
HOSTILE = (
    *("_target_: os.system", "&a [1, *a]", "*a", "!!python/object/apply:os.system [x]", "${oc.env:HOME}", "${loss}", "${", "???", "null"),
    *("{{{", "1:30", "010", "0x1F", "1_000", ".nan", "2020-99-99", "? [a]: b", "<<: {a: b}", "---", "%YAML 9.9", "\t", "\x07", "é", "@x"),
    *("hydra: {callbacks: {x: {_target_: os.system}}}", "defaults: [/loss: ../../x]", "defaults: [{a: 1, b: 2}]", "[" * 200, "a: " * 50),
)
KEYS = (
    "loss",
    "loss.beta",
    "loss.parts",
    "model.path",
    "steps",
    "run_dir",
    "dataset.columns",
    "seed",
    "hydra.run.dir",
    "allow_code",
    "x.y",
    "",
)
OVERRIDES = st.builds(
    lambda sign, key, value: f"{sign}{key}={value}",
    st.sampled_from(["", "", "+", "++", "~"]),
    st.sampled_from(KEYS) | TEXTS,
    st.sampled_from(
        [
            "1",
            "-1",
            "nan",
            "1e999",
            "null",
            "[a",
            "{a: 1}",
            "{a: {_target_: os.system}}",
            "1,2",
            "range(0,3)",
            "'",
            '"',
            "${seed}",
            "\\",
            "9" * 400,
        ]
    )
    | TEXTS,
)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that comes to be when a config makes anything run."""
    return tmp_path / "canary"


def checked(argv: Sequence[str], canary: Path) -> list[RunSettings] | str:
    """Settings, or what is said of the command line."""
    began = time.process_time()
    try:
        found: list[RunSettings] | str = precheck(argv)
    except UserError as error:
        found = str(error)
        assert found
    assert time.process_time() - began < LONGEST
    assert not canary.exists(), "code was run"
    return found


@fuzz(6)
@given(data=st.data())
def test_an_option_of_a_strangers_folder_is_settings_or_a_message(data: st.DataObject, tmp_path: Path, canary: Path) -> None:
    folder = tmp_path / "conf"
    (folder / "loss").mkdir(parents=True, exist_ok=True)
    whole = yaml.safe_dump(OPTION).encode()
    put_in = st.sampled_from(HOSTILE).map(lambda text: whole + text.replace("[x]", f"['touch {canary}']").encode() + b"\n")
    content = data.draw(mutated(whole) | put_in | altered(OPTION).map(lambda value: yaml.safe_dump(value).encode()))
    (folder / "loss" / "own.yaml").write_bytes(content)
    for settings in found if isinstance(found := checked(["--config-dir", str(folder), "loss=own"], canary), list) else []:
        assert settings.loss.name == "con_dph", "only this loss takes these options"


@fuzz(6)
@given(data=st.data())
@example(data=None)
def test_an_overlay_of_a_strangers_folder_is_settings_or_a_message(data: st.DataObject | None, tmp_path: Path, canary: Path) -> None:
    folder = tmp_path / "conf"
    (folder / "experiment").mkdir(parents=True, exist_ok=True)
    put_in = st.sampled_from(HOSTILE).map(lambda text: (OVERLAY + text.replace("[x]", f"['touch {canary}']") + "\n").encode())
    (folder / "experiment" / "own.yaml").write_bytes(OVERLAY.encode() if data is None else data.draw(mutated(OVERLAY.encode()) | put_in))
    found = checked(["--config-dir", str(folder), "experiment=own"], canary)
    if data is None:
        assert isinstance(found, list), found
        assert (found[0].loss.name, found[0].steps) == ("dpo", 20)


@fuzz(25)
@given(overrides=st.lists(OVERRIDES | TEXTS, min_size=1, max_size=3), multirun=st.booleans())
@example(overrides=["steps=" + "9" * 5000], multirun=False)
def test_any_override_is_settings_or_a_message(overrides: list[str], multirun: bool, canary: Path) -> None:
    checked(["-m", *overrides] if multirun else overrides, canary)


@fuzz(40)
@given(config=altered(RUN))
def test_an_older_config_is_completed_without_losing_what_it_has(config: object) -> None:
    if isinstance(config, dict):
        whole, lacking = completed(config)
        assert all(str(key) in map(str, whole) for key in config)
        assert len(lacking) == len(set(lacking))


def test_a_target_at_any_depth_is_refused_and_not_run(tmp_path: Path, canary: Path) -> None:
    (tmp_path / "conf" / "loss").mkdir(parents=True)
    node: object = {"_target_": "os.system", "_args_": [f"touch {canary}"], "command": f"touch {canary}"}
    for depth in range(3):
        (tmp_path / "conf" / "loss" / "own.yaml").write_text(yaml.safe_dump({**OPTION, "head": node}), encoding="utf-8")
        typed = yaml.safe_dump(node, default_flow_style=True, width=10**6).strip()
        for argv in (["--config-dir", str(tmp_path / "conf"), "loss=own"], [f"+x={typed}"]):
            assert isinstance(checked(argv, canary), str), argv
        node = {f"a{depth}": [node]} if depth % 2 else {f"a{depth}": node}
