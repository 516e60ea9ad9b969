"""Directories of runs with something wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alignkit.command_line import precheck
from alignkit.configuration import config_yaml


def run(
    path: Path,
    *,
    changes: Mapping[str, str] | None = None,
    more: str = "",
    config: str | None = None,
    files: Mapping[str, str] | None = None,
) -> None:
    """A run of DPO that was stopped: its `config.yaml`, in which texts are changed or to which lines are added, or another text in its
    place, and texts of other files."""
    path.mkdir(parents=True)
    text = config_yaml(precheck(["loss=dpo", "steps=20", "hardware=cpu", "logger=jsonl"])[0]) if config is None else config
    for old, new in (changes or {}).items():
        assert old in text, old
        text = text.replace(old, new)
    (path / "config.yaml").write_text(text + more, encoding="utf-8")
    for name, content in (files or {}).items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(content, encoding="utf-8")
