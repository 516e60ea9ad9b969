"""The generated parts of `--help`: the YAML files' own comments, so that the page cannot be out of date."""

from __future__ import annotations

import re

from omegaconf import OmegaConf

from alignkit.configuration import conf_dir

DEFAULT = re.compile(r"^  - (?P<group>\w+): (?P<option>\w+) +# (?P<purpose>.+)$", re.MULTILINE)


def groups() -> str:
    """Each config group with its purpose, its options and their head comments."""
    lines = []
    for default in DEFAULT.finditer(train_yaml()):
        files = sorted((conf_dir() / default["group"]).glob("*.yaml"))
        lines.append(f"  {default['group']}: {default['purpose']}")
        width = max((len(file.stem) for file in files), default=0)
        for file in files:
            mark = "*" if file.stem == default["option"] else " "
            lines.append(f"    {mark} {file.stem:{width}}  {head_comment(file.read_text(encoding='utf-8'))}")
    return "\n".join(lines)


def head_comment(text: str) -> str:
    """The first line that is no order to Hydra (`# @package`)."""
    return next(line for line in text.splitlines() if not line.startswith("# @")).lstrip("# ")


def keys() -> str:
    """The keys of `train.yaml`, with its comments."""
    body = train_yaml().partition("\n\n")[2].partition("# What follows is about Hydra")[0]
    return "\n".join(f"  {line}".rstrip() for line in body.strip().splitlines())


def train_yaml() -> str:
    """The text of the top config."""
    return (conf_dir() / "train.yaml").read_text(encoding="utf-8")


def section(name: str) -> str:
    """What `${alignkit_help:name}` in `hydra.help.template` stands for; Hydra substitutes `$words` in it, so `$` is doubled."""
    return {"groups": groups, "keys": keys}[name]().replace("$", "$$") + "\n"


def register() -> None:
    """Make the sections known to OmegaConf."""
    OmegaConf.register_new_resolver("alignkit_help", section, replace=True)
