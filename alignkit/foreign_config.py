"""Configs that somebody else wrote are data: what could run code, or hang the reader, is refused before Hydra sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from alignkit.config_checks import TYPED_ONLY, check_file_value, names_code
from alignkit.configuration import conf_dir
from alignkit.errors import UserError, check_choice, did_you_mean
from alignkit.foreign_files import checked_text, entries, fault_of
from alignkit.terminal import visible
from alignkit.yaml_readings import check_readings

LAUNCHERS = {
    "basic": "hydra-core",
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}
"""Ways to run the jobs of a sweep, and the packages that bring them."""
SWEEPERS = ("basic", "optuna_study")
"""Ways to choose what the jobs of a sweep are."""
OPEN_KEYS = ("hydra.launcher.", "hydra.sweeper.")
"""Keys of Hydra's that a command line may set; its callbacks, logging, search path and environment can all run code."""


def check_hydra_override(override: Override, options: Callable[[str], list[str]]) -> None:
    """Refuse a `hydra.` override that is not known to be harmless.

    Raises:
        UserError: saying what is open.
    """
    key, line = override.key_or_group, str(override.input_line)
    if key == "hydra/launcher":
        name = str(override.value())
        if name not in LAUNCHERS:
            raise UserError(f"{key} = {name!r}; must be one of {', '.join(LAUNCHERS)}.{did_you_mean(name, LAUNCHERS)}")
        if name not in options(key):
            raise UserError(f"{key} = {name!r}; is not installed: pip install {LAUNCHERS[name]}.")
    elif key == "hydra/sweeper":
        check_choice(key, str(override.value()), SWEEPERS)
    elif not key.startswith(OPEN_KEYS) or names_code(line):
        hint = " Type run_dir=DIR." if key.startswith(("hydra.run", "hydra.sweep.")) else ""
        raise UserError(f"{key}: is closed.{hint} Of Hydra's own keys hydra/launcher, hydra/sweeper and {', '.join(OPEN_KEYS)} may be set.")


def check_hydra_node(node: DictConfig, expected: DictConfig) -> None:
    """Refuse files of a `--config-dir` that change Hydra itself, other than by naming what to sweep over.

    `expected` is what the command line makes of Hydra's node without those files.

    Raises:
        UserError: naming the changed key.
    """
    for key in set(node) | set(expected):
        if key not in ("runtime", "overrides", "job", "mode") and plain(node, str(key)) != plain(expected, str(key)):
            raise UserError(f"hydra.{key}: is set by a file of --config-dir. Such files hold alignkit's settings only.")
    for key in ("env_set", "env_copy"):
        if node.job[key]:
            raise UserError(f"hydra.job.{key}: is set by a file of --config-dir. Set environment variables in the shell.")


def plain(node: DictConfig, key: str) -> Any:
    """The values of one of Hydra's keys, as written; `sweeper.params` is data and may differ."""
    values = OmegaConf.to_container(OmegaConf.create({"it": node._get_node(key)}), resolve=False)
    assert isinstance(values, dict)
    if key == "sweeper":
        values["it"].pop("params", None)
    return values["it"]


def check_folder(folder: Path) -> None:
    """Read the YAML files of a `--config-dir` before Hydra does: small text, that asks for nothing that only a command line may. Its
    folders are groups of options; what else lies there, such as runs, is nobody's option.

    Raises:
        UserError: naming the file and line that cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"--config-dir {folder}: there is no such folder.")
    root, groups = folder.resolve(), {path.name for path in conf_dir().iterdir() if path.is_dir()}
    for entry in sorted(entries(root)):
        parts = entry.relative_to(root).parts
        if parts[0] not in groups and (len(parts) > 1 or entry.suffix != ".yaml"):
            continue
        if fault := fault_of(entry, root):
            raise UserError(f"--config-dir {folder}: {entry.relative_to(root)} {fault}. Put the file itself in its place.")
        if entry.suffix == ".yaml" and entry.is_file():
            file = folder / entry.relative_to(root)
            text = checked_text(file)
            check_readings(file, text, whole=file.parent.name != "experiment")
            check_nodes(file, text)


def check_nodes(file: Path, text: str) -> None:
    """Refuse keys and values that would do more than set options.

    Raises:
        UserError: naming the file and line.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())}).") from None
    waiting = [root] if root is not None else []
    while waiting:
        node = waiting.pop()
        where = f"{file}:{node.start_mark.line + 1}"
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                check_key(f"{file}:{key.start_mark.line + 1}", key, value)
                waiting += [key, value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.ScalarNode):
            check_file_value(where, node.value)


def check_key(where: str, key: yaml.Node, value: yaml.Node) -> None:
    """Refuse a key that names code or is for the command line alone, and a list of defaults that names files of other folders."""
    if not isinstance(key, yaml.ScalarNode):
        raise UserError(f"{where}: a key must be a word.")
    name = key.value.strip()
    if names_code(name):
        raise UserError(f"{where}: {visible(name)}: configs hold names and values, never code. For your own code see allow_code.")
    if name in TYPED_ONLY:
        raise UserError(f"{where}: {name} is for the command line alone: {TYPED_ONLY[name]}")
    if name != "defaults" or not isinstance(value, yaml.SequenceNode):
        return
    pairs = [pair for item in value.value for pair in (item.value if isinstance(item, yaml.MappingNode) else [(item, item)])]
    for node in (node for pair in pairs for node in pair if isinstance(node, yaml.ScalarNode)):
        if ".." in node.value or "://" in node.value:
            raise UserError(f"{where}: defaults name options of groups, not {node.value!r}. Copy that file into a group of the folder.")
