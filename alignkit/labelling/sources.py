"""What decides the rows of a label run: settings, prompts, answers and weights. A run goes on with the same ones only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from alignkit.errors import UserError
from alignkit.judge_assembly import judge_node
from alignkit.label_settings import PATIENCE, LabelSettings
from alignkit.labelling.config import OWN, Labelling, labelling_yaml
from alignkit.labelling.files import SOURCES
from alignkit.labelling.journal import write_whole
from alignkit.resuming.changes import leaves
from alignkit.run_dir import RunDir
from alignkit.settings import RunSettings

DECISIVE = ("model", "dataset", "precision", "seed", "batch", "rollout", "scorer", "judge", *(key for key in OWN if key != "out"))
"""Keys and groups of a config that rows depend on. Devices are not among them: they round differently, and that is all."""
CONFIG = "config"
WEIGHTS = "policy_fingerprint"
WORDS: Mapping[str, str] = {
    "pool": "the prompts, or the answers to them, are not",
    "earlier": "the files of earlier= are not",
    WEIGHTS: "the weights at model.path are not",
}


def decides(path: str) -> bool:
    """Whether rows depend on a setting, given by its dotted path."""
    head, *rest = path.split(".")
    return (head in DECISIVE and not (head == "judge" and rest and rest[-1] in PATIENCE)) or path == "validation.gold"


def decisive(labelling: Labelling) -> dict[str, Any]:
    """The settings that rows depend on, by dotted path."""
    return {path: value for path, value in leaves(yaml.safe_load(labelling_yaml(labelling))) if decides(path)}


def begun_with(run: RunDir) -> dict[str, Any] | None:
    """What a run began with; None for one that has not begun to judge.

    Raises:
        UserError: when its file cannot be read.
    """
    file = run.path / SOURCES
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: cannot be read ({error}). Begin another run.") from None
    return values if isinstance(values, dict) else {}


def check_config(run: RunDir, labelling: Labelling) -> None:
    """Refuse a run whose config is not the one that it began with: somebody has edited config.yaml.

    Raises:
        UserError: with each difference.
    """
    begun = begun_with(run)
    if begun is None:
        return
    then, now = begun.get(CONFIG, {}), decisive(labelling)
    # What a version before this one did not know is not compared.
    if odd := [path for path in sorted(then.keys() & now.keys()) if then[path] != now[path]]:
        changes = "; ".join(f"{path}: {then[path]} -> {now[path]}" for path in odd[:20])
        raise UserError(
            f"resume = {run.path}: its {run.config.name} is not what it began with ({changes}). Put it back, or begin another run."
        )


def check_sources(run: RunDir, found: Mapping[str, str]) -> None:
    """Refuse to go on with other prompts, answers or weights than a run began with.

    Raises:
        UserError: saying which are others.
    """
    begun = begun_with(run)
    for name, value in found.items() if begun is not None else ():
        if begun is not None and begun.get(name) != value:
            raise UserError(
                f"resume = {run.path}: {WORDS[name]} what they were when it began, and its rows would be of both. Put them back, or begin "
                "another run."
            )


def note_sources(run: RunDir, labelling: Labelling, found: Mapping[str, str]) -> None:
    """Write down what a run begins with, unless it goes on."""
    if begun_with(run) is None:
        write_whole(run.path / SOURCES, json.dumps({**found, CONFIG: decisive(labelling)}, indent=2, default=str) + "\n")


def provenance_of_run(settings: RunSettings, own: LabelSettings, fingerprint: str | None) -> dict[str, Any]:
    """What all rows of a run have in common: the model, how it was sampled, the judge without what it may cost, and the seed."""
    rollout = settings.rollout
    sampling = {key: getattr(rollout, key) for key in ("samples", "max_tokens", "temperature", "top_k", "top_p")}
    return {
        "model": None if fingerprint is None else {"path": settings.model.path, "fingerprint": fingerprint},
        "sampling": None if fingerprint is None else sampling,
        "judge": dict(without_patience(judge_node(own.judge))),
        "seed": settings.seed,
    }


def without_patience(node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """A judge's settings, and those of its members, without what never changes what it says."""
    for key, value in node.items():
        if key not in PATIENCE:
            yield key, dict(without_patience(value)) if isinstance(value, Mapping) else value
