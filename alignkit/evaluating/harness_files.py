"""Task files for lm-evaluation-harness that came from elsewhere: what they may hold while they are only data.

To the harness a YAML file is a program: `!function` imports Python, templates of Jinja reach into it, a metric is a script of the hub, and
settings handed on to a task of its own, to `generate` or to `datasets` may name code. So a file passes that holds nothing but what is
listed here, and its templates are rendered in Jinja's sandbox; a folder that is trusted, as `allow_code` says, may hold anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from jinja2.sandbox import SandboxedEnvironment

from alignkit.errors import UserError
from alignkit.foreign_files import check_events

INCLUDE = "include"
MEMBERS = "task"
"""The key with a task's name, or with the members of a group."""
GROUP_KEYS = frozenset(("group", "group_alias", MEMBERS, "task_alias", "tag", "num_fewshot", "aggregate_metric_list", "metadata"))
"""Of groups and of their members: they may name tasks of the harness, whose code is not to meet another's data or settings."""
TASK_KEYS = frozenset(
    (
        *(MEMBERS, "task_alias", "tag", "metadata", "description", "num_fewshot", "repeats", "output_type"),
        *("dataset_path", "dataset_name", "dataset_kwargs", "training_split", "validation_split", "test_split", "fewshot_split"),
        *("doc_to_text", "doc_to_target", "doc_to_choice", "gen_prefix", "target_delimiter", "fewshot_delimiter", "fewshot_config"),
        *("metric_list", "filter_list", "generation_kwargs", "should_decontaminate", "doc_to_decontamination_query"),
    )
)
INNER_KEYS: Mapping[str, frozenset[str]] = {
    "metadata": frozenset(("version", "num_fewshot")),
    "dataset_kwargs": frozenset(("data_files", "data_dir", "revision", "field", "delimiter", "sep", "column_names", "encoding")),
    "fewshot_config": frozenset(
        (
            *("sampler", "split", "samples", "fewshot_indices", "gen_prefix", "target_delimiter", "fewshot_delimiter"),
            *("doc_to_text", "doc_to_target", "doc_to_choice"),
        )
    ),
    "generation_kwargs": frozenset(
        (
            *("until", "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "num_beams"),
            *("max_gen_toks", "max_new_tokens", "max_tokens", "max_length"),
        )
    ),
}
"""What a mapping may hold under a key."""
BUILDERS = ("json", "csv", "parquet", "text", "arrow")
"""Readers of `datasets` that a file may name; others read pickles, data bases and more."""


def check_files(folder: Path, metrics: Collection[str], allow_code: Sequence[str]) -> bool:
    """Refuse a folder with a task file that can run code. Returns whether it is trusted: `allow_code` has the folder's name.

    Args:
        metrics: names that the harness knows itself.

    Raises:
        UserError: naming the file and what it holds, with what to type when the folder is trusted.
    """
    name = folder.resolve().name
    if name in allow_code:
        return True
    for file in sorted(folder.rglob("*.yaml")):
        try:
            config = read(file, folder.resolve())
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            reasons = [f"cannot be read as plain YAML ({' '.join(str(error).split())})"]
        except ValueError as error:
            reasons = [str(error)]
        else:
            reasons = [] if config is None else list(complaints(config, metrics))
        if reasons:
            raise UserError(
                f"evaluation.include_path: {file}: {reasons[0]}, so that it may run code. If you trust the folder: allow_code=[{name}]."
            )
    return False


def read(file: Path, folder: Path, within: tuple[Path, ...] = ()) -> dict[str, Any] | None:
    """What a file says with all that it includes; None where it holds no mapping, which the harness passes over.

    Raises:
        ValueError: where it includes a file from outside the folder, or itself.
        YAMLError: where it has a tag that makes more of a value than data.
    """
    resolved = file.resolve()
    if resolved in within:
        raise ValueError(f"includes itself through {file.name}")
    if not resolved.is_relative_to(folder):
        raise ValueError(f"includes {file}, which is outside the folder")
    text = resolved.read_text(encoding="utf-8")
    check_events(file, text)
    own = yaml.safe_load(text)
    if not isinstance(own, dict):
        return None
    named = own.pop(INCLUDE, [])
    merged: dict[str, Any] = {}
    for place in named if isinstance(named, list) else [named]:
        merged |= read(resolved.parent / str(place), folder, (*within, resolved)) or {}
    return {**merged, **own}


def complaints(config: Mapping[str, Any], metrics: Collection[str], *, member: bool = False) -> Iterator[str]:
    """What is wrong with the config of a task, of a group or of one of its members."""
    is_group = member or "group" in config or isinstance(config.get(MEMBERS), list)
    for key, value in config.items():
        if key not in (GROUP_KEYS if is_group else TASK_KEYS):
            yield f"has the key {key!r}" + (" in a group" if is_group else "")
        elif key == MEMBERS and isinstance(value, list):
            for one in value:
                if isinstance(one, Mapping):
                    yield from complaints(one, metrics, member=True)
        elif key in INNER_KEYS and isinstance(value, Mapping):
            yield from (f"has the key {inner!r} in {key}" for inner in value if inner not in INNER_KEYS[key])
        elif key == "metric_list":
            yield from metric_complaints(value, metrics)
        elif key == "dataset_path" and value not in BUILDERS and "/" not in str(value):
            yield f"has dataset_path {value!r}, which is neither owner/name nor one of {', '.join(BUILDERS)}"


def metric_complaints(value: object, metrics: Collection[str]) -> Iterator[str]:
    """What is wrong with a list of metrics; one that the harness does not know is a script, of the hub or of a folder."""
    for entry in value if isinstance(value, list) else []:
        if not isinstance(entry, Mapping):
            continue
        if str(entry.get("metric")) not in metrics:
            yield f"has the metric {entry.get('metric')!r}, which the harness does not know itself"
        if entry.get("hf_evaluate"):
            yield "has a metric of the hub (hf_evaluate)"


@contextmanager
def sandboxed(wanted: bool) -> Iterator[None]:
    """Render the harness's templates in Jinja's sandbox, where that is wanted."""
    from lm_eval import utils

    before = utils.env
    if wanted:
        utils.env = SandboxedEnvironment(
            loader=before.loader, undefined=before.undefined, keep_trailing_newline=before.keep_trailing_newline
        )
        utils.env.filters.update(before.filters)
    try:
        yield
    finally:
        utils.env = before
