"""The parts of a model card that are tables and lists: data, objective, results, certificate, versions. No path of this machine."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from alignkit.data.dropping import REASONS
from alignkit.markdown import code, escaped, fenced
from alignkit.metrics import VALIDATION, metric
from alignkit.models.location import BUILTIN, is_here
from alignkit.rollout_settings import NO_SCORER
from alignkit.run_dir import START, Scalar
from alignkit.settings import DatasetSettings, RunSettings

CERTIFICATE = "certificate/"
DATA = "data/"
COUNTS: Mapping[str, str] = {
    "train": "examples to train on",
    "validation": "examples held out",
    "trimmed_prompts": "prompts lost their oldest tokens",
    "cut_completions": "completions were cut",
    "boundary_merges": "completions start a few tokens earlier, where the tokenizer merges across the boundary",
}
LIBRARIES = ("alignkit", "torch", "transformers", "tokenizers", "peft", "lightning")


def name_of_model(path: str) -> str:
    """A model's name without the folders of this machine: `gpt2`, `owner/name`, or a run's own name for its `model/`."""
    return code(without_folders(path))


def without_folders(value: str) -> str:
    """A path by its own name; what is no path of this machine as it is."""
    if value.startswith(BUILTIN) or not is_here(value):
        return value
    local = Path(value).expanduser().absolute()
    return local.parent.name if local.name == "model" and local.parent.name else local.name


def hub_data_sets(settings: DatasetSettings) -> list[str]:
    """Ids of the data sets that were read from the hub, each part of a mixture its own."""
    parts = settings.options.get("parts")
    given: list[Mapping[str, Any]] = [asdict(settings), *(parts.values() if isinstance(parts, Mapping) else [])]
    return list(dict.fromkeys(str(part["hub"]) for part in given if part.get("hub") and not part.get("path")))


def data_section(settings: RunSettings, results: Mapping[str, Scalar]) -> str:
    """Where the data are from, how many there are, and what was left out."""
    data = settings.dataset
    parts = data.options.get("parts")
    sources = {name: part for name, part in parts.items()} if isinstance(parts, Mapping) else {data.name: asdict(data)}
    lines = [f"- {code(str(name))}: {origin(part)}" for name, part in sources.items()]
    counts = {name.removeprefix(DATA): value for name, value in results.items() if name.startswith(DATA) and value}
    lines += [f"- {counts[name]:,} {words}" for name, words in COUNTS.items() if name in counts]
    lines += [f"- {counts[name]:,} left out: {words}" for name, words in REASONS.items() if name in counts]
    lines.append(f"- at most {data.max_length} tokens of a prompt with one completion")
    return "\n".join(["## Data", "", *lines])


def origin(part: Mapping[str, Any]) -> str:
    """Format of a data set, and the file or hub id that it was read from."""
    source = escaped(str(part["source"]))
    if part.get("path"):
        return f"{source}, from the file {code(Path(str(part['path'])).name)}"
    if part.get("hub"):
        named = ", ".join(str(part[key]) for key in ("subset", "split") if part.get(key))
        hub = str(part["hub"])
        return f"{source}, [{escaped(hub)}](https://huggingface.co/datasets/{quote(hub)}) ({escaped(named)})"
    return f"{source}, generated"


def objective_section(settings: RunSettings, results: Mapping[str, Scalar]) -> str:
    """The formula, and every number that was chosen."""
    formula = str(results.get("formula", settings.loss.name))
    chosen = yaml.safe_dump(hyper_parameters(settings), sort_keys=False, allow_unicode=True, width=120)
    return f"## Objective\n\n{fenced(formula)}\n\n{fenced(chosen.rstrip(), 'yaml')}"


def hyper_parameters(settings: RunSettings) -> dict[str, Any]:
    """What decides the weights, in the shape in which it is typed; where a path stands, its name."""
    values = asdict(settings)
    options = values["loss"].pop("options")
    chosen: dict[str, Any] = {"loss": {**values["loss"], **options}}
    chosen["model"] = {key: values["model"][key] for key in ("path", "train", "frozen_layers", "adapter", "quantize")}
    if settings.model.adapter is not None:
        chosen["model"]["lora"] = values["model"]["lora"]
    for group in ("optimizer", "schedule", "batch", "reference", "precision"):
        chosen[group] = values[group]
    if settings.scorer.name != NO_SCORER:
        chosen["scorer"] = {"name": settings.scorer.name, **settings.scorer.options}
        chosen |= {group: values[group] for group in ("rollout", "reward")}
    chosen["hardware"] = {key: values["hardware"][key] for key in ("strategy", "devices", "nodes")}
    chosen |= {"seed": settings.seed, "steps": settings.steps}
    named: dict[str, Any] = nameless(chosen)
    return named


def nameless(value: Any) -> Any:
    """The same tree with every path by its own name."""
    if isinstance(value, Mapping):
        return {key: nameless(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [nameless(inner) for inner in value]
    return without_folders(value) if isinstance(value, str) and ("/" in value or value.startswith("~")) else value


def results_section(results: Mapping[str, Scalar], *, steps: int) -> str:
    """Held-out metrics before the first and after the last step, with what they mean."""
    rows = [
        (name, shown(results.get(START + name)), shown(value), *meaning(name.removeprefix(VALIDATION)))
        for name, value in results.items()
        if name.startswith(VALIDATION)
    ]
    if not rows:
        return ""
    done = results.get("steps")
    stopped = f" The run was stopped before the last of its {steps} steps." if isinstance(done, int) and done < steps else ""
    head = f"Held-out examples, before the first step and after step {done}.{stopped}" if done is not None else "Held-out examples."
    return "\n".join(["## Results", "", head, "", *table(("metric", "start", "end", "better", "meaning"), rows)])


def meaning(name: str) -> tuple[str, str]:
    """Direction and meaning of a metric; nothing of one that no version of alignkit knows."""
    try:
        known = metric(name)
    except KeyError:
        return "", ""
    return known.better.replace("neither", ""), f"{known.meaning} ({known.unit})"


def certificate_section(results: Mapping[str, Scalar]) -> str:
    """What was checked before the first update or in it."""
    rows = [(name.removeprefix(CERTIFICATE), shown(value)) for name, value in results.items() if name.startswith(CERTIFICATE)]
    if not rows:
        return ""
    said = "Measured before the first update or in it; a run whose numbers break one of these rules does not begin."
    return "\n".join(["## Certificate", "", said, "", *table(("check", "measured"), rows)])


def versions_section(results: Mapping[str, Scalar]) -> str:
    """What the model was made with, and the fingerprints of what it started from."""
    lines = [f"- {name} {version}" for name in LIBRARIES if (version := installed(name))] + [f"- Python {platform.python_version()}"]
    for key, words in (("policy_fingerprint", "weights before the first step"), ("reference_fingerprint", "weights of the reference")):
        if results.get(key):
            lines.append(f"- {words}: {code(str(results[key]))}")
    return "\n".join(["## Versions", "", *lines])


def installed(name: str) -> str:
    """The version of a library; empty where it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def shown(value: Scalar, *, sign: bool = False) -> str:
    """Four significant digits; nothing for what is absent or not finite."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:{'+' if sign else ''}.4g}" if isinstance(value, float) else str(value)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of Markdown."""
    return [line(headings), line(["---"] * len(headings)), *map(line, rows)]


def line(cells: Sequence[str]) -> str:
    """One row."""
    return "| " + " | ".join(map(escaped, cells)) + " |"
