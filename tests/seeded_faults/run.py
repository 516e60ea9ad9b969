"""`python tests/seeded_faults/run.py [NAMES...] [--whole]`: does the suite notice bugs?

Puts the faults of `faults.yaml` (or those that are named) one at a time into a copy of the working tree, runs the test files that are to
notice, or with `--whole` all fast tests, and prints which test did. Exit code 0: each fault was caught. 1: one survived. 2: a test that
failed fails without the fault too, or a fault does not fit the tree.

A fault counts as caught when a test fails, and not when the tree can no longer be imported. Each run is a fork of this process, which has
imported torch and has not imported alignkit.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

sys.path.append(str(Path(__file__).parent))  # a script, run by path

from faults import TREE, Fault, read_faults

COPIED = ("alignkit", "conf", "tests", "notebooks", ".ci", "pyproject.toml", "README.md")
FAST = "not slow and not gpu and not real"
NOT_HERE = "tests/seeded_faults"
"""These tests run this script."""
FAILED = "FAILED_TESTS"
IMPORTED = (
    "_hypothesis_pytestplugin",
    "hydra.core.hydra_config",
    "hypothesis.strategies",
    "lightning.pytorch",
    "pytest",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.tokenization_utils_fast",
)
"""Nothing of ours, and no test: what each run would spend seconds on."""
ALREADY_IMPORTED = "ignore::pytest.PytestAssertRewriteWarning"
"""By libraries, of which pytest would rewrite some."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a run of the tests came to."""

    code: int
    """Of pytest: 0 all passed, 1 a test failed, 2 and above it could not run. Minus the number of a signal that ended it."""
    failed: tuple[str, ...]
    """The tests that failed, in order."""
    seconds: float
    output: str

    @property
    def caught(self) -> bool:
        return self.code == 1 and bool(self.failed)


def copy_tree(folder: Path) -> None:
    """The working tree, without what tests do not read."""
    for name in COPIED:
        source = TREE / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        elif source.exists():
            shutil.copy2(source, folder / name)


def run_tests(tree: Path, tests: Sequence[str], *, until_one_fails: bool = True) -> Outcome:
    """Run tests of a tree in a process that dies with them."""
    begun, log, failed = time.perf_counter(), tree / "pytest.log", tree / FAILED
    failed.write_text("", encoding="utf-8")
    child = os.fork()
    if child == 0:
        _test_and_exit(tree, [*(["-x"] if until_one_fails else []), *tests], log)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Outcome(
        code=code,
        failed=tuple(failed.read_text(encoding="utf-8").splitlines()),
        seconds=time.perf_counter() - begun,
        output=log.read_text(encoding="utf-8", errors="replace"),
    )


def _test_and_exit(tree: Path, arguments: Sequence[str], log: Path) -> None:
    code = 3
    try:
        import pytest

        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(stream, number)
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        os.environ["PYTHONPATH"] = str(tree)  # for processes that tests start
        options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-m", FAST, f"--ignore={NOT_HERE}", "-W", ALREADY_IMPORTED]
        code = int(pytest.main([*options, *arguments], plugins=[_Failures(tree)]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _Failures:
    """A plugin that writes down which tests fail, and sees to it that the copy is what was tested."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    def pytest_sessionfinish(self) -> None:
        import alignkit

        assert alignkit.__file__ is not None
        assert Path(alignkit.__file__).is_relative_to(self.tree), f"{alignkit.__file__} was tested"

    def pytest_runtest_logreport(self, report: object) -> None:
        if getattr(report, "failed", False):
            with (self.tree / FAILED).open("a", encoding="utf-8") as file:
                file.write(f"{getattr(report, 'nodeid', '?')}\n")


def warm() -> None:
    """Import what takes seconds and is not ours."""
    sys.dont_write_bytecode = True  # two versions of a file may have the same size and second
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    for name, value in {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("ALIGNKIT_SHARED", str(TREE.parent / "shared"))
    for module in IMPORTED:
        importlib.import_module(module)


def report(faults: Sequence[Fault], tree: Path, *, whole: bool) -> list[Outcome]:
    """Put in each fault, say who noticed, and take it out again."""
    outcomes = []
    width = max(len(fault.name) for fault in faults)
    for fault in faults:
        before = fault.put_into(tree)
        outcome = run_tests(tree, ["tests"] if whole else fault.tests)
        (tree / fault.file).write_text(before, encoding="utf-8")
        outcomes.append(outcome)
        said = outcome.failed[0] if outcome.caught else "SURVIVED" if outcome.code == 0 else f"COULD NOT RUN (pytest {outcome.code})"
        print(f"{fault.name:{width}}  {outcome.seconds:5.1f} s  {said}", flush=True)
        if not outcome.caught and outcome.code != 0:
            print(outcome.output[-2000:], flush=True)
    return outcomes


def tests_are_sound(outcomes: Sequence[Outcome], tree: Path) -> bool:
    """Whether those tests that failed pass without a fault: else they say nothing."""
    tests = sorted({outcome.failed[0] for outcome in outcomes if outcome.caught})
    if not tests:
        return True
    sound = run_tests(tree, tests, until_one_fails=False)
    print(f"without a fault {len(tests) - len(sound.failed)} of these {len(tests)} tests pass, {sound.seconds:.1f} s", flush=True)
    for test in sound.failed:
        print(f"fails without a fault: {test}", file=sys.stderr)
    if sound.code not in (0, 1):
        print(sound.output[-3000:], file=sys.stderr)
    return sound.code == 0


def main(arguments: Sequence[str] | None = None) -> int:
    known = read_faults()
    parser = argparse.ArgumentParser(description="Put bugs into a copy of the tree and see which test notices.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a fault of faults.yaml; all of them where none is named")
    parser.add_argument("--whole", action="store_true", help="run all fast tests on each fault: minutes each")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in known]
    if unknown:
        print(f"there is no fault {unknown[0]!r}. Known are: {', '.join(known)}", file=sys.stderr)
        return 2
    faults = [known[name] for name in options.names or known]
    warm()
    with tempfile.TemporaryDirectory(prefix="alignkit-faults-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        try:
            outcomes = report(faults, tree, whole=options.whole)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        if not tests_are_sound(outcomes, tree):
            return 2
    survived = sum(not outcome.caught for outcome in outcomes)
    print(f"{len(faults) - survived} of {len(faults)} caught")
    return 1 if survived else 0


if __name__ == "__main__":
    raise SystemExit(main())
