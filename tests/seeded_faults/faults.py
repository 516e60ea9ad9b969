"""The table of seeded faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import yaml

TREE = Path(__file__).resolve().parents[2]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A bug, as a change of one place in one file."""

    name: str
    file: str
    """Path in the tree."""
    old: str
    """What stands in the file, once."""
    new: str
    why: str
    """What goes wrong, and who had it."""
    tests: tuple[str, ...]
    """Test files that are to notice, paths in the tree."""

    def put_into(self, tree: Path) -> str:
        """Change the file in a copy of the tree; what it held before.

        Raises:
            ValueError: when `old` does not stand there once.
        """
        file = tree / self.file
        before = file.read_text(encoding="utf-8")
        count = before.count(self.old)
        if count != 1:
            raise ValueError(f"{self.name}: `old` stands {count} times in {self.file}; must be once. Bring faults.yaml up to date.")
        file.write_text(before.replace(self.old, self.new), encoding="utf-8")
        return before


def read_faults() -> Mapping[str, Fault]:
    """All faults by name, in the order of `faults.yaml`."""
    table = yaml.safe_load(Path(__file__).with_name("faults.yaml").read_text(encoding="utf-8"))
    return {name: Fault(name=name, **{**row, "tests": tuple(row["tests"])}) for name, row in table.items()}
