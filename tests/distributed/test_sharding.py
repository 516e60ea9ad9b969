"""Two processes check together that cut weights, cut products and their checkpoints are those of one; see `ranks/`."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

RANKS = Path(__file__).parent / "ranks"
MODULES = ("sharding_checks", "tensor_parallel_checks", "checkpoint_checks")


def names(module: str) -> Iterator[str]:
    """The functions that a file marks as checks; it is not imported, for it needs other processes."""
    for node in ast.parse((RANKS / f"{module}.py").read_text()).body:
        if isinstance(node, ast.FunctionDef) and any(
            isinstance(mark, ast.Call) and ast.unparse(mark.func) == "check" for mark in node.decorator_list
        ):
            yield node.name


@pytest.fixture(scope="module")
def results(run_ranks: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[dict[str, Any]]]:
    """Of each check, what its variants said; one pair of processes makes all of them."""
    folder = tmp_path_factory.mktemp("checkpoints")
    first, _ = run_ranks(RANKS / "all_checks.py", *MODULES, timeout=300, environment={"CHECKPOINTS": str(folder)})
    said: dict[str, list[dict[str, Any]]] = {}
    for line in first.splitlines():
        if line.startswith('{"check"'):
            result = json.loads(line)
            said.setdefault(result["check"].partition("[")[0], []).append(result)
    return said


@pytest.mark.parametrize("name", [name for module in MODULES for name in names(module)])
def test_on_two_processes(name: str, results: Mapping[str, list[dict[str, Any]]]) -> None:
    assert results[name], "it ran"
    failed = {result["check"]: [error for error in result["errors"] if error] for result in results[name] if any(result["errors"])}
    assert not failed, "\n".join(f"{check}\n{errors[0]}" for check, errors in failed.items())
