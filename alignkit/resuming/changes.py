"""What may be another one when a run goes on, and what would make it another run."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from alignkit.config_checks import check_name
from alignkit.configuration import config_yaml, packaged
from alignkit.errors import UserError
from alignkit.manifests import Manifest, step_checkpoints
from alignkit.run_dir import RunDir
from alignkit.settings import RunSettings

GROUPS = ("hardware", "logger", "callbacks")
"""Groups of which all may change: no number that training computes depends on them, but for rounding on other devices."""
KEYS = ("steps", "cache_dir", "debug", "allow_code", "run_dir")
"""Keys that may. `run_dir`, because a directory may be moved; nobody types it."""
DIVERGENCE = "divergence"
"""What is done about steps that diverge: a run that stopped at one may go on by leaving it out."""
WHAT = "Devices (hardware), logging (logger), callbacks, divergence, steps and cache_dir may change; everything else is another run"


def may_change(path: str) -> bool:
    """Whether a setting may be another one when a run goes on."""
    return path.partition(".")[0] in (*GROUPS, DIVERGENCE) or path in KEYS


def with_changes(
    config: Mapping[str, Any], lines: Sequence[str], where: str, may: Callable[[str], bool] = may_change, what: str = WHAT
) -> dict[str, Any]:
    """A run's config with what was typed beside `resume`: `hardware=ddp hardware.devices=2 steps=300`. `may` says which settings can
    change, and `what` does so in words.

    Raises:
        UserError: on what is no override, and on what would make another run of it.
    """
    changed = OmegaConf.create(dict(config))
    parser = OverridesParser.create()
    for line in lines:
        try:
            override = parser.parse_override(line)
            path, value = override.key_or_group.replace("/", "."), override.value()
        except HydraException:
            raise UserError(f"{where}: cannot read {line!r} beside it. Write key=value.") from None
        if override.is_sweep_override() or override.is_delete() or path == "run_dir":
            raise UserError(f"{where}: {line} has no place here: one run goes on, where it was. Type resume=DIR, and what may change.")
        if not may(path):
            then = OmegaConf.select(changed, path)
            began = f" (it began with {then})" if then is not None else ""
            raise UserError(f"{where}: {line} would make another run of it{began}. {what}: begin it anew, without resume.")
        if path in GROUPS:
            check_name(path, str(value), packaged(path))
            changed[path] = {key: own for key, own in packaged(path)[str(value)].items() if key != "defaults"}
        else:
            OmegaConf.update(changed, path, value, force_add=True)
    return typing.cast(dict[str, Any], OmegaConf.to_container(changed, resolve=False))


def check_same(run: RunDir, settings: RunSettings) -> None:
    """Refuse a run whose config is not the one that its newest checkpoint was made with: somebody has edited config.yaml.

    Raises:
        UserError: with each difference.
    """
    then = next(configs_of_checkpoints(run), None)
    if not then:
        return
    now = dict(leaves(yaml.safe_load(config_yaml(settings))))
    before = dict(leaves(then))
    # What a version before this one did not know is not compared.
    odd = [path for path in sorted(now.keys() & before.keys()) if now[path] != before[path] and not may_change(path)]
    if odd:
        changes = "; ".join(f"{path}: {before[path]} -> {now[path]}" for path in odd[:20])
        more = f" and {len(odd) - 20} more" if len(odd) > 20 else ""
        raise UserError(
            f"resume = {run.path}: its {run.config.name} is not what its checkpoints were made with ({changes}{more}). Put it back, or "
            "begin another run."
        )


def configs_of_checkpoints(run: RunDir) -> Iterator[Mapping[str, Any]]:
    """Those in the manifests that can be read, the newest first."""
    for checkpoint in step_checkpoints(run.checkpoints):
        try:
            yield Manifest.read(checkpoint).config
        except ValueError:
            continue


def leaves(values: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every value that is no mapping, by its dotted path."""
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, values
