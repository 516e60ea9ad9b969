"""Composing configs with Hydra, as `hydra.main` does it, but with every mistake as one message."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from hydra import version
from hydra._internal.hydra import Hydra

# `hydra.main` is built from these; there is no public way to compose with a `--config-dir` and to list a group's options.
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alignkit.config_checks import TYPED_ONLY, check_name
from alignkit.configuration import conf_dir, root_file
from alignkit.errors import UserError, did_you_mean
from alignkit.foreign_config import check_hydra_override
from alignkit.sweeping.study_settings import StudySettings

CONFIG_NAME = "train"
PIPELINE = "pipeline"
"""A folder of `conf/` that is no group of a run."""
EVALUATION = "evaluation"
"""Another one."""
JUDGE = "judge"
"""Another one."""
EXPERIMENT = "experiment"
QUESTION = "question"
"""The key of an option of `experiment=` that is a sweep over pipelines and no settings of a run."""
VERSION_BASE = "1.3"
SWEEPER_KEYS = "hydra.sweeper."


def parsed(parser: OverridesParser, line: str) -> Override:
    """One override.

    Raises:
        UserError: on a number of more digits than Python reads.
        OverrideParseException: on anything else that is none.
    """
    try:
        return parser.parse_overrides([line])[0]
    except ValueError as error:
        raise UserError(f"cannot read {line[:40]}...: {error}.") from None


class Composer:
    """Configs from overrides. Jobs that choose the same options share one reading of the files."""

    def __init__(self, hydra: Hydra) -> None:
        self.hydra = hydra
        parser = OverridesParser.create(config_loader=hydra.config_loader)
        self.parse: Callable[[str], Override] = functools.cache(functools.partial(parsed, parser))
        self.options: Callable[[str], list[str]] = functools.cache(hydra.config_loader.get_group_options)
        self.groups: Callable[[str], list[str]] = functools.cache(hydra.config_loader.list_groups)
        self.composed: dict[tuple[str, ...], DictConfig] = {}

    def is_choice(self, override: Override) -> bool:
        """Whether it chooses options of a group, rather than setting a key."""
        parent, _, name = override.key_or_group.rpartition("/")
        return name in self.groups(parent) and not isinstance(override.value(), dict)

    def is_of_pipelines(self, experiment: str) -> bool:
        """Whether an option of `experiment=` is a question that pipelines answer."""
        folders = [Path(str(item.path).removeprefix("file://")) for item in self.hydra.config_loader.get_search_path().get_path()]
        files = [file for folder in folders if (file := folder / EXPERIMENT / f"{experiment}.yaml").is_file()]
        return bool(files) and QUESTION in (yaml.safe_load(files[0].read_text(encoding="utf-8-sig")) or {})

    def rewrite(self, line: str) -> str:
        """An override as Hydra is given it: unknown keys are let in, so that `check_config` can say what was meant.

        Raises:
            UserError: on an option that does not exist, a key of Hydra's that is closed, or a pipeline, which is more than one run.
        """
        override = self.parse(line)
        check_typed(override)
        if override.key_or_group == PIPELINE:
            raise UserError(f"{line}: is more than one run. Type python -m alignkit.pipeline {line}")
        if override.key_or_group == EVALUATION:
            raise UserError(f"{line}: measures a model that is there. Type python -m alignkit.evaluate model.path=DIR {line}")
        if override.key_or_group == JUDGE:
            raise UserError(f"{line}: judges answers, and training has none to judge. Type python -m alignkit.label model.path=DIR {line}")
        if override.key_or_group == EXPERIMENT and self.is_of_pipelines(str(override.value())):
            raise UserError(f"{line}: is an experiment of pipelines. Type python -m alignkit.pipeline {line}")
        if override.is_hydra_override():
            check_hydra_override(override, self.options)
            return line
        if override.is_delete():
            return line
        if not self.is_choice(override):
            return f"++{line.lstrip('+')}"
        value = override.value()
        if isinstance(value, list) and override.key_or_group != EXPERIMENT:
            example = value[0] if value else "NAME"
            raise UserError(
                f"{line}: one option at a time; of several the last would hide the others. Type {override.key_or_group}={example}."
            )
        chosen = override.sweep_iterator() if override.is_choice_sweep() else value if isinstance(value, list) else [value]
        for option in chosen:
            check_name(override.key_or_group, "null" if option is None else str(option), self.options(override.key_or_group))
        return line.lstrip("+")

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config of one job, without Hydra's own node."""
        choices: list[Override] = []
        values: list[Override] = []
        for line in overrides:
            override = self.parse(line)
            (values if override.is_force_add() and not override.is_hydra_override() else choices).append(override)
        files = tuple(str(override.input_line) for override in choices)
        if files not in self.composed:
            cfg = composed(self.hydra, files, RunMode.RUN)
            OmegaConf.set_struct(cfg, False)
            del cfg["hydra"]
            check_typed_only(cfg)
            self.composed[files] = cfg
        cfg = copy.deepcopy(self.composed[files])
        for override in values:
            OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True, force_add=True)
        return cfg


def check_typed(override: Override) -> None:
    """Refuse what Hydra's grammar allows and no command of ours has.

    Raises:
        UserError: on a key without a name, and on Hydra's packages, which put an option somewhere else.
    """
    if not override.key_or_group:
        raise UserError(f"cannot read {override.input_line!r}: it names no key. Write key=value.")
    if override.key_or_group == "run_dir" and override.value() == "":
        raise UserError("run_dir is empty; must be a directory. Type run_dir=DIR, or leave it out.")
    if override.package is not None:
        raise UserError(f"{override.input_line}: an option has its one place. Type {override.key_or_group}={override.get_value_string()}.")


def composed(hydra: Hydra, overrides: Sequence[str], run_mode: RunMode) -> DictConfig:
    """Hydra's own composition. Files may hold what Hydra does not expect, such as a list of defaults that is none or that names itself.

    Raises:
        UserError: saying what Hydra stumbled over.
    """
    try:
        return hydra.compose_config(CONFIG_NAME, list(overrides), run_mode=run_mode)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, UserError):
        raise
    except RecursionError:
        raise UserError("a file of --config-dir leads back to itself by its list of defaults. Take it out of that list.") from None
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the files of --config-dir cannot be composed: {reason or type(error).__name__}.") from error


def check_typed_only(cfg: DictConfig) -> None:
    """Refuse what files have made of keys that only a command line may set.

    Raises:
        UserError: naming the key.
    """
    values = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(values, dict)
    for key, why in TYPED_ONLY.items():
        if values.get(key) != root_file()[key]:
            raise UserError(f"{key}: is set by a file of --config-dir: {why}")


@contextmanager
def composing(config_dir: str | None) -> Iterator[Hydra]:
    """Hydra as `hydra.main` sets it up. Its errors and OmegaConf's leave as one message.

    Raises:
        UserError: on anything that cannot be read or composed.
    """
    version.setbase(VERSION_BASE)
    holder = GlobalHydra.instance()
    before, holder.hydra = holder.hydra, None
    search_path = create_config_search_path(str(conf_dir()))
    if config_dir is not None:
        path = f"file://{os.path.abspath(config_dir)}"
        search_path.prepend(provider="command-line", path=path, anchor=SearchPathQuery(provider="schema"))
    try:
        with one_message():
            yield Hydra.create_main_hydra2(task_name=CONFIG_NAME, config_search_path=search_path)
    finally:
        holder.hydra = before


@contextmanager
def one_message() -> Iterator[None]:
    """Hydra's, OmegaConf's and YAML's errors as a UserError."""
    try:
        yield
    except OverrideParseException as error:
        raise UserError(
            f"cannot read {error.override!r}. Write key=value; lists as key=[a,b]; text with spaces, commas or brackets in quotes of its "
            "own: \"key='a, b'\"."
        ) from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        words = [str(error), str(error.__cause__ or "")] if isinstance(error, HydraException) else [str(error)]
        raise UserError(in_our_words(" ".join(" ".join(words).split()))) from error


def in_our_words(message: str) -> str:
    """What Hydra says, without advice that leads nowhere here."""
    if match := re.match(r"Could not (?:override|append to config|delete from config\.) '([^']+)'", message):
        key = match[1]
        known = [field.name for field in dataclasses.fields(StudySettings)] if key.startswith(SWEEPER_KEYS) else []
        return f"{key}: no such key.{did_you_mean(key.removeprefix(SWEEPER_KEYS), known)} See --help for what there is."
    if match := re.match(r"In '([^']+)': Could not (?:find|load) '([^']+)'", message):
        options = re.search(r"Available options in '[^']+': (.*?) Config search path", message)
        near = did_you_mean(match[2].rpartition("/")[2], options[1].split()) if options else ""
        return f"a list of defaults names {match[2]!r}, which is no file of a group.{near}"
    return message.partition(" Config search path:")[0]
