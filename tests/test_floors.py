"""Who may import whom: design.md section 2, read from the source itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "alignkit"
FILES = sorted(PACKAGE.rglob("*.py"))
TOP = 4
FLOORS = {
    0: (
        "errors",
        "foreign_files",
        "markdown",
        "terminal",
        "settings",
        "divergence_settings",
        "loss_settings",
        "model_settings",
        "optimizer_settings",
        "rollout_settings",
        "generate_settings",
        "evaluation_settings",
        "judge_settings",
        "label_settings",
        "metrics",
        "run_dir",
        "row_files",
        "ledger_file",
        "manifests",
        "batches",
    ),
    1: ("ranks", "logps", "vocabulary", "advantages", "trust_region", "best_of_n", "rejection", "losses"),
    2: ("models", "data", "scorers", "sampling", "caches", "rollout", "judges", "hub", "lab", "evaluation.tasks"),
    3: ("modules", "callbacks", "evaluation", "quality", "optim", "hardware"),
}
"""The rest of the top level is floor 4. `lab` is a side tower that stands on floor 2; `analysis` is one that stands on floor 0."""
LOWEST_FLOOR_OF = {
    "torch": 1,
    "transformers": 2,
    "tokenizers": 2,
    "datasets": 2,
    "peft": 2,
    "safetensors": 2,
    "huggingface_hub": 2,
    "filelock": 2,
    "openai": 2,
    "datasketch": 3,
    "sklearn": 3,
    "lightning": 3,
    "torchmetrics": 3,
    "hydra": 4,
    "omegaconf": 4,
}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base"}


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


def floor_of(module: str) -> int:
    parts = module.split(".")
    if len(parts) == 1:
        return 0  # alignkit/__init__.py holds the version
    # The name of a package within another says more than that of the outer one.
    places = (".".join(parts[1:3]), parts[1])
    return next((floor for place in places for floor, names in FLOORS.items() if place in names), TOP)


@cache
def imports(file: Path) -> tuple[str, ...]:
    """Every module that a file imports, lazily or for types too; `from alignkit.losses import dpo` names `alignkit.losses.dpo`."""
    return tuple(imported(file))


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide their floor"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


@cache
def own_imports(module: str) -> set[str]:
    return {name for name in imports(MODULES[module]) if name == "alignkit" or name.startswith("alignkit.")}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    too_high = [name for name in own_imports(module) if floor_of(name) > floor_of(module)]
    assert not too_high, f"{module} (floor {floor_of(module)}) imports {too_high}"


@pytest.mark.parametrize("module", MODULES)
def test_libraries_stay_on_their_floors(module: str) -> None:
    floor = floor_of(module)
    libraries = {name.partition(".")[0] for name in imports(MODULES[module])}
    allowed = {"torch"} if module == "alignkit.batches" else set()
    too_low = [library for library in libraries - allowed if LOWEST_FLOOR_OF.get(library, 0) > floor]
    assert not too_low, f"{module} (floor {floor}) imports {too_low}"


def test_analysis_reads_files_and_knows_no_models() -> None:
    for module in (module for module in MODULES if module.startswith("alignkit.analysis")):
        inside = [name for name in own_imports(module) if floor_of(name) > 0 and not name.startswith("alignkit.analysis")]
        assert not inside, f"{module} imports {inside}"
        assert "torch" not in {name.partition(".")[0] for name in imports(MODULES[module])}, module


def test_below_the_shell_only_the_sources_of_worlds_know_the_lab() -> None:
    knowing = {module for module in MODULES if any(name.startswith("alignkit.lab") for name in own_imports(module))}
    below = {module for module in knowing if floor_of(module) < TOP and not module.startswith("alignkit.lab")}
    assert below <= {"alignkit.data.sources.imdb", "alignkit.data.sources.reviews"}


def test_there_are_no_cycles() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"cycle: {' -> '.join((*path[path.index(module) :], module))}"
        if module in done:
            return
        for name in own_imports(module) & MODULES.keys():
            visit(name, (*path, module))
        done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("file", [file for file in FILES if file.name == "__init__.py"], ids=module_of)
def test_init_files_reexport_nothing(file: Path) -> None:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_version = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
        assert is_docstring or is_version, ast.unparse(node)


def test_files_are_called_after_what_they_hold() -> None:
    assert not [file for file in FILES if file.stem in FORBIDDEN_NAMES or file.parent.name in FORBIDDEN_NAMES]


def test_a_module_imports_from_where_a_thing_is_defined() -> None:
    for module, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in MODULES:
                defined = names_defined(MODULES[node.module])
                for alias in node.names:
                    assert alias.name in defined or f"{node.module}.{alias.name}" in MODULES, f"{module}: {alias.name} from {node.module}"


@cache
def names_defined(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names
