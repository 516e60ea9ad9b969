"""The table of seeded faults fits the tree, and some of them are really caught; `run.py` tries all of them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # the script is run by path and imports its folder's modules

from faults import TREE, Fault, read_faults

FAULTS = read_faults()
TRIED = ("dpo_without_beta", "gae_off_by_one")


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_a_fault_changes_one_place_and_leaves_a_program(fault: Fault) -> None:
    source = (TREE / fault.file).read_text(encoding="utf-8")
    assert source.count(fault.old) == 1, f"{fault.file} has changed: bring faults.yaml up to date"
    changed = source.replace(fault.old, fault.new)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source)), "it must change what runs"
    assert fault.tests
    assert all((TREE / test).is_file() for test in fault.tests)


def test_a_fault_that_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    fault = Fault(name="twice", file="code.py", old="x", new="y", why="", tests=())
    (tmp_path / "code.py").write_text("x = x\n")
    with pytest.raises(ValueError, match=r"twice: `old` stands 2 times in code\.py"):
        fault.put_into(tmp_path)
    assert (tmp_path / "code.py").read_text() == "x = x\n"


def test_faults_are_caught_and_the_tests_that_caught_them_pass_without() -> None:
    before = [(TREE / FAULTS[name].file).read_bytes() for name in TRIED]
    script = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run.py")), *TRIED], capture_output=True, text=True, timeout=600, check=False
    )
    assert script.returncode == 0, script.stdout + script.stderr
    lines = script.stdout.splitlines()
    assert [line.split()[0] for line in lines[: len(TRIED)]] == list(TRIED)
    assert all(f" {FAULTS[name].tests[0]}::test_" in line for name, line in zip(TRIED, lines, strict=False))
    assert lines[-1] == "2 of 2 caught"
    assert [(TREE / FAULTS[name].file).read_bytes() for name in TRIED] == before, "the tree itself is never touched"


def test_a_change_that_breaks_nothing_survives(tmp_path: Path) -> None:
    """The script says so, and its exit code does."""
    (tmp_path / "seeded_faults").mkdir()
    for name in ("run.py", "faults.py"):
        (tmp_path / "seeded_faults" / name).write_text(Path(__file__).with_name(name).read_text().replace("parents[2]", "parents[1]"))
    (tmp_path / "seeded_faults" / "faults.yaml").write_text(
        "harmless: {file: alignkit/__init__.py, old: '1', new: '2', why: nobody reads it, tests: [tests/test_it.py]}\n"
    )
    (tmp_path / "alignkit").mkdir()
    (tmp_path / "alignkit" / "__init__.py").write_text("NUMBER = 1\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text("import alignkit\n\ndef test_it():\n    assert alignkit.NUMBER > 0\n")
    light = "import run; run.IMPORTED = (); raise SystemExit(run.main([]))"
    script = subprocess.run(
        [sys.executable, "-c", light], cwd=tmp_path / "seeded_faults", capture_output=True, text=True, timeout=600, check=False
    )
    assert "SURVIVED" in script.stdout, script.stdout + script.stderr
    assert script.stdout.splitlines()[-1] == "0 of 1 caught"
    assert script.returncode == 1
