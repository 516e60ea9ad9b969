"""From a composed Hydra config to `RunSettings`. What a user mistypes ends here, in one message, before torch is imported.

A `DictConfig` goes no further than this file and the shell around it.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alignkit.config_checks import check_harmless, check_keys, check_name, check_no_secret, check_text, check_top_keys
from alignkit.data.parts import DATASET_KEYS, checked_parts
from alignkit.errors import UserError, check_choice
from alignkit.evaluation.tasks.catalogue import find_task
from alignkit.loss_settings import LossSettings
from alignkit.optimizer_settings import OPTIMIZER_SETTINGS, OptimizerSettings
from alignkit.resolution import ENSEMBLES, PART_KEYS, PARTS, build_source, check_allowed, check_code, loss_fields, loss_parts, to_record
from alignkit.rollout_settings import NO_SCORER, ScorerSettings
from alignkit.scorers.parts import checked_parts as scorer_parts
from alignkit.settings import DatasetSettings, RunSettings

AUTHORS_BETA = 0.1
"""Strength of a joint cDPO term that is on while `loss.beta` is null (arXiv:2405.20053)."""

LABEL = re.compile(r"\w[\w.+-]{0,99}")


def conf_dir() -> Path:
    """The packaged YAML files: inside the installed package, or beside it in a checkout.

    Raises:
        RuntimeError: when alignkit was installed without them.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise RuntimeError(f"alignkit is incomplete: no conf/train.yaml in {package} or beside it. Install it again.")


def check_config(cfg: DictConfig) -> RunSettings:
    """The settings of a run, checked as far as that is possible without torch: `build_losses` checks the ranges of the loss's own fields.

    Raises:
        UserError: one message with the dotted path as typed, the value that came and what is allowed.
    """
    raw = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(raw, dict)
    for path, value in nodes(raw):
        check_harmless(path, value)
    groups, scalars = run_fields()
    check_top_keys(raw, groups, scalars)
    for group in groups:
        if not isinstance(raw.get(group), dict):
            raise UserError(f"{group} = {raw.get(group)!r}; must name or hold its settings. See --help for what there is.")
    values = resolved(cfg)
    for path, value in nodes(values):
        check_no_secret(path, value)
        check_text(path, value)
    run = to_record(scalar_record(), {key: values[key] for key in scalars if key in values}, "")
    settings = RunSettings(**build_groups(groups, values, run.allow_code), **vars(run))
    for task in settings.validation.benchmarks:
        find_task(task, "validation.benchmarks", listed=None)
    if settings.validation.gold is not None:
        check_choice("validation.gold", settings.validation.gold, [name for name in packaged("scorer") if name != NO_SCORER])
    return settings


def build_groups(groups: Mapping[str, type], values: Mapping[str, Any], allow_code: Sequence[str]) -> dict[str, Any]:
    """One record a config group."""
    records: dict[str, Any] = {
        "loss": loss_settings(values["loss"], allow_code),
        "dataset": dataset_settings(values["dataset"], allow_code),
        "optimizer": optimizer_settings(values["optimizer"]),
        "scorer": scorer_settings(values["scorer"], allow_code),
    }
    for group, record in groups.items():
        if group not in records:
            records[group] = to_record(record, values[group], group)
    for group, built in records.items():
        # Labels become parts of file names, except a dotted one, which is a module's path.
        label = getattr(built, "name", "label")
        if not LABEL.fullmatch(label):
            raise UserError(f"{group}.name = {label!r}; must be letters, digits, '.', '_', '+' or '-', at most 100.")
    return records


def loss_settings(given: Mapping[str, Any], allow_code: Sequence[str]) -> LossSettings:
    """`loss=`, with the options of its module checked and `loss.beta` of a joint term filled in.

    Raises:
        UserError: on an unknown name, a module that does not fit, or an option that the loss does not have.
    """
    known = {str(option["name"]): option for option in packaged("loss").values() if "name" in option}
    name, module = str(given.get("name")), str(given.get("module"))
    if "." in name:
        check_allowed(name, allow_code)
    else:
        check_name("loss", name, known)
        check_keys("loss", given, known[name], known, name)
    modules = sorted({str(option["module"]) for option in known.values()})
    if "." in module:
        check_allowed(module, allow_code)
    elif module not in modules or (name in known and module != known[name]["module"]):
        allowed = known[name]["module"] if name in known else ", ".join(modules)
        raise UserError(f"loss.module = {module!r}; {name} is trained by {allowed}.")
    named = {key: given[key] for key in ("name", "module", "monitor") if key in given}
    options = {key: value for key, value in given.items() if key not in named}
    # Null means the authors' strength exactly where there is a joint term to give it to.
    if options.get("beta", 0) is None and options.get("dpo_weight", 0) != 0:
        options["beta"] = AUTHORS_BETA
    if PARTS in options:
        options[PARTS] = composite_parts(options[PARTS], known, allow_code)
    settings = to_record(LossSettings, {**named, "options": options}, "loss")
    loss_parts(settings)
    return settings


def composite_parts(parts: object, known: Mapping[str, Mapping[str, Any]], allow_code: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`loss.parts`, each with the values of its loss's own file where none was typed.

    Raises:
        UserError: when there are none, one names no loss, or has an option that its loss does not have.
    """
    example = "'loss.parts={dpo: {loss: dpo, beta: 0.1}, nll: {loss: sft, weight: 0.1}}'"
    if not isinstance(parts, Mapping) or not parts:
        raise UserError(f"loss.parts = {parts!r}; must name the terms of the sum. Try {example}.")
    filled = {}
    for name, given in parts.items():
        where = f"loss.parts.{name}"
        if not re.fullmatch(r"[A-Za-z]\w*", str(name)):
            raise UserError(f"{where}: a part's name must be letters, digits and '_': it becomes a part of metric names.")
        if not isinstance(given, Mapping) or "loss" not in given:
            raise UserError(f"{where} = {given!r}; must say which loss it is. Try {example}.")
        loss = str(given["loss"])
        defaults: Mapping[str, Any] = {}
        if "." in loss:
            check_allowed(loss, allow_code)
        else:
            check_name("loss", loss, [option for option in known if PARTS not in known[option] and option not in ENSEMBLES])
            own = {*loss_fields(known[loss]), *PART_KEYS} - {"name", "module", "monitor"}
            defaults = {key: value for key, value in known[loss].items() if key in own}
            check_keys(where, given, own, known, loss)
            for key, what in (("head", "head"), ("attribute", "rating")):
                if given.get(key) is not None and key not in defaults:
                    raise UserError(f"{where}.{key}: {loss} reads no {what}. Leave it out.")
        head = {**(defaults.get("head") or {}), **(given.get("head") or {})}
        filled[str(name)] = {**defaults, **given, **({"head": head} if head else {})}
    return filled


def dataset_settings(given: Mapping[str, Any], allow_code: Sequence[str]) -> DatasetSettings:
    """`dataset=`, the source's own options apart.

    Raises:
        UserError: on an unknown source or an option that it does not have.
    """
    known = {name: option for name, option in packaged("dataset").items() if option.get("source") == name}
    source = str(given.get("source"))
    if "." in source:
        check_allowed(source, allow_code)
    else:
        check_name("dataset source", source, known)
        check_keys("dataset", given, known[source], known, source)
    own, options = ({key: given[key] for key in given if (key in DATASET_KEYS) == of_all} for of_all in (True, False))
    if PARTS in options:
        options[PARTS] = checked_parts(options[PARTS], given, known, dataset_settings, build_source, allow_code)
    return to_record(DatasetSettings, {**own, "options": options}, "dataset")


def scorer_settings(given: Mapping[str, Any], allow_code: Sequence[str], where: str = "scorer") -> ScorerSettings:
    """`scorer=`, or a part of one at `where`, with the options of its class apart.

    Raises:
        UserError: on an unknown name, an option that the scorer does not have, one that it lacks, or code that is not allowed.
    """
    known = packaged("scorer")
    name = str(given.get("name"))
    if "." in name:
        check_allowed(name, allow_code)
    else:
        check_name("scorer", name, known)
        check_keys(where, given, known[name], known, name)
    options = {key: value for key, value in given.items() if key != "name"}
    for key, value in options.items():
        if value == MISSING:
            raise UserError(f"{where}.{key} is missing. Type {where}.{key}=VALUE.")
    check_code(options, allow_code)
    if PARTS in options:
        options[PARTS] = scorer_parts(options[PARTS], known, scorer_settings, allow_code)
    return to_record(ScorerSettings, {"name": name, "options": options}, where)


def optimizer_settings(given: Mapping[str, Any]) -> OptimizerSettings:
    """`optimizer=`, as the record of its name.

    Raises:
        UserError: on an unknown name or an option that the optimizer does not have.
    """
    name = str(given.get("name"))
    check_name("optimizer", name, OPTIMIZER_SETTINGS)
    known = {option: [field.name for field in dataclasses.fields(record)] for option, record in OPTIMIZER_SETTINGS.items()}
    check_keys("optimizer", given, known[name], known, name)
    return to_record(OPTIMIZER_SETTINGS[name], given, "optimizer")


def nodes(node: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Dotted path and value of everything in a tree of mappings and lists, the tree itself first."""
    yield path, node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from nodes(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from nodes(value, f"{path}[{index}]")


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """Plain values, interpolations followed.

    Raises:
        UserError: naming the key whose interpolation leads nowhere.
    """
    try:
        values = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        line = str(error).partition("\n")[0]
        reason = line.rpartition("while resolving interpolation: ")[2]
        raise UserError(f"{error.full_key or 'config'}: the ${{...}} in its value leads nowhere. {reason}.") from None
    except RecursionError:
        raise UserError("config: a ${...} leads back to itself.") from None
    return typing.cast(dict[str, Any], values)


def check_values(path: str, cfg: DictConfig) -> dict[str, Any]:
    """Plain values of a node at `path` that is no group of a run.

    Raises:
        UserError: when it holds more than names and values, or a secret.
    """
    for inner, value in nodes(OmegaConf.to_container(cfg, resolve=False), path):
        check_harmless(inner, value)
    values = resolved(cfg)
    for inner, value in nodes(values, path):
        check_no_secret(inner, value)
        check_text(inner, value)
    return values


@functools.cache
def packaged(group: str) -> Mapping[str, Mapping[str, Any]]:
    """The options of a packaged config group, as their files say. Tests hold these files equal to the classes that they feed."""
    return {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted((conf_dir() / group).glob("*.yaml"))}


@functools.cache
def root_file() -> Mapping[str, Any]:
    """The packaged `train.yaml`."""
    return typing.cast(Mapping[str, Any], yaml.safe_load((conf_dir() / "train.yaml").read_text(encoding="utf-8")))


@functools.cache
def run_fields() -> tuple[Mapping[str, type], Mapping[str, Any]]:
    """The fields of a run: those that are records, and the rest."""
    hints = typing.get_type_hints(RunSettings)
    groups = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    return typing.cast(Mapping[str, type], groups), {name: hint for name, hint in hints.items() if name not in groups}


@functools.cache
def scalar_record() -> type[Any]:
    """A record of the run's own keys, `seed`, `steps` and so on, so that they are converted like all others."""
    return dataclasses.make_dataclass("Run", list(run_fields()[1].items()))


def config_yaml(settings: RunSettings) -> str:
    """`config.yaml`: the settings in the shape in which they were typed, nothing left to resolve."""
    values = dataclasses.asdict(settings)
    for group in ("loss", "dataset", "scorer"):
        values[group] |= values[group].pop("options")
    return OmegaConf.to_yaml(OmegaConf.create(values))
