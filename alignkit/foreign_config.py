"""Configs that somebody else wrote are data: what could run code, or hang the reader, is refused before Hydra sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from alignkit.errors import UserError, check_choice, did_you_mean

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
LARGEST_FILE = 2**20
"""Bytes of a YAML file."""


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
    elif not key.startswith(OPEN_KEYS) or "_target_" in line:
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
    """Read the YAML files of a `--config-dir` event by event, so that nothing is built before it is known to be small.

    Raises:
        UserError: naming the file and line that cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"--config-dir {folder}: there is no such folder.")
    for file in sorted(folder.rglob("*.yaml")):
        if file.stat().st_size > LARGEST_FILE:
            raise UserError(f"{file}: is larger than {LARGEST_FILE:,} bytes, so it is no config.")
        try:
            for event in yaml.parse(file.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader):
                if isinstance(event, yaml.AliasEvent):
                    # A few nested aliases stand for billions of values.
                    line = event.start_mark.line + 1 if event.start_mark else 1
                    raise UserError(f"{file}:{line}: aliases (*{event.anchor}) are not read. Write the value out.")
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise UserError(f"{file}:{line}: {error.problem}.") from None
        except (UnicodeDecodeError, yaml.YAMLError):
            raise UserError(f"{file}: is not UTF-8 text without control characters.") from None
