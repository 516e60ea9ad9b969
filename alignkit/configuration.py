"""From a composed Hydra config to `RunSettings`. What a user mistypes ends here, in one message, before torch is imported.

A `DictConfig` goes no further than this file and the shell around it.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alignkit.errors import UserError, check_choice, did_you_mean
from alignkit.metrics import METRICS, VALIDATION
from alignkit.optimizer_settings import OPTIMIZER_SETTINGS, OptimizerSettings
from alignkit.resolution import check_allowed, option_records, to_record
from alignkit.settings import DatasetSettings, LossSettings, RunSettings

AUTHORS_BETA = 0.1
"""Strength of a joint cDPO term that is on while `loss.beta` is null (arXiv:2405.20053)."""

SECRETS = re.compile(r"\bhf_[A-Za-z0-9]{30,}|\bsk-[A-Za-z0-9_-]{20,}|\bAKIA[A-Z0-9]{16}\b|^[0-9a-f]{40}$|://[^/\s:@]+:[^/\s@]+@")
"""Access tokens of the hub, of model vendors, of AWS and of W&B, and passwords in URLs."""
SECRET_VARIABLES = re.compile(r"oc\.env:\s*\w*(TOKEN|KEY|SECRET|PASSWORD)", re.IGNORECASE)
LABEL = re.compile(r"\w[\w.+-]{0,99}")

Siblings = Mapping[str, Collection[str]]
"""The legal keys of each option of a group, by the option's name."""
NO_SIBLINGS: Siblings = types.MappingProxyType({})


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
    """The settings of a run, checked as far as that is possible without torch: `build_loss` checks the ranges of the loss's own fields.

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
    run = to_record(scalar_record(), {key: values[key] for key in scalars if key in values}, "")
    return RunSettings(**build_groups(groups, values, run.allow_code), **vars(run))


def build_groups(groups: Mapping[str, type], values: Mapping[str, Any], allow_code: Sequence[str]) -> dict[str, Any]:
    """One record a config group."""
    records: dict[str, Any] = {
        "loss": loss_settings(values["loss"], allow_code),
        "dataset": dataset_settings(values["dataset"], allow_code),
        "optimizer": optimizer_settings(values["optimizer"]),
    }
    for group, record in groups.items():
        if group not in records:
            records[group] = to_record(record, values[group], group)
    for group, built in records.items():
        # Labels become parts of file names, except a dotted loss, which is a module's path.
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
    for key, record in option_records(options).items():
        options |= {key: dataclasses.asdict(record)} if key in options else dataclasses.asdict(record)
    if "monitor" in named:
        check_choice("loss.monitor", str(named["monitor"]), [VALIDATION + metric for metric in METRICS])
    return to_record(LossSettings, {**named, "options": options}, "loss")


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
    fields = {field.name for field in dataclasses.fields(DatasetSettings)} - {"options"}
    own = {key: value for key, value in given.items() if key in fields}
    return to_record(DatasetSettings, {**own, "options": {key: given[key] for key in given if key not in fields}}, "dataset")


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


def check_name(what: str, name: str, known: Collection[str]) -> None:
    """Refuse a name that is not one of `known`."""
    if name not in known:
        raise UserError(f"unknown {what} {name!r}; {', '.join(sorted(known)) or 'none'} exist.{did_you_mean(name, known)}")


def check_keys(where: str, given: Collection[str], legal: Collection[str], siblings: Siblings = NO_SIBLINGS, owner: str = "") -> None:
    """Refuse a key that is not legal here, saying whose key it is or which one is near."""
    for key in given:
        if key in legal:
            continue
        path = f"{where}.{key}" if where else key
        others = sorted(name for name, keys in siblings.items() if key in keys)
        if others:
            raise UserError(f"{path}: {owner} has no option {key!r}; {', '.join(others)} {'has' if len(others) == 1 else 'have'} it.")
        raise UserError(f"{path}: no such key.{did_you_mean(key, legal)} {owner or where or 'alignkit'} has {', '.join(legal)}.")


def check_top_keys(raw: Mapping[Any, Any], groups: Collection[str], scalars: Collection[str]) -> None:
    """Refuse a key that no run has; one that belongs inside a group, `beta` for `loss.beta`, is answered with its place."""
    for key in raw:
        homes = [f"{group}.{key}" for group in groups if isinstance(raw.get(group), dict) and key in raw[group]]
        if key not in groups and key not in scalars and homes:
            raise UserError(f"{key}: no such key. Did you mean {' or '.join(homes)}?")
    check_keys("", raw, [*groups, *scalars])


def check_harmless(path: str, value: object) -> None:
    """Refuse what would make a config more than names and values."""
    if "_target_" in path:
        raise UserError(f"{path}: configs hold names and values, never code. For your own code see allow_code.")
    if isinstance(value, str) and SECRET_VARIABLES.search(value):
        raise UserError(f"{path}: would read a secret into the config, which is saved. Leave it out: tokens are found in the environment.")


def check_no_secret(path: str, value: object) -> None:
    """Refuse access tokens, without repeating them: what is in a config is saved and logged."""
    if isinstance(value, str) and SECRETS.search(value):
        raise UserError(
            f"{path}: this looks like an access token or password, and configs are saved and logged. Tokens are read from HF_TOKEN and "
            "WANDB_API_KEY, or after `hf auth login` and `wandb login`. If it was real, revoke it: it is in your shell's history."
        )


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


@functools.cache
def packaged(group: str) -> Mapping[str, Mapping[str, Any]]:
    """The options of a packaged config group, as their files say. Tests hold these files equal to the classes that they feed."""
    return {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted((conf_dir() / group).glob("*.yaml"))}


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
    for group in ("loss", "dataset"):
        values[group] |= values[group].pop("options")
    return OmegaConf.to_yaml(OmegaConf.create(values))
