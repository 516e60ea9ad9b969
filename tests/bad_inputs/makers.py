"""Files that a table cannot hold. Each function is given the path and the other keys of its entry."""

from __future__ import annotations

import gzip
import importlib.resources
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

sys.path.append(str(Path(__file__).parent))
from cases import good_rows
from model_makers import adapter, model  # noqa: F401  for the tables
from run_makers import run  # noqa: F401


def folder(path: Path, *, files: Sequence[str] = ()) -> None:
    """A directory, with empty files in it."""
    path.mkdir()
    for name in files:
        (path / name).touch()


def fifo(path: Path) -> None:
    """A named pipe that nobody writes to."""
    os.mkfifo(path)


def link(path: Path, *, to: str) -> None:
    """A symbolic link."""
    path.symlink_to(to)


def unreadable(path: Path, *, text: str) -> None:
    """A file that nobody may read."""
    path.write_text(text)
    path.chmod(0)


def repeated(path: Path, *, text: str, times: int, before: str = "", after: str = "", wide: int = 0, packed: bool = False) -> None:
    """One text again and again, of which `~` stands for a long one."""
    text = text.replace("~", "many words " * wide)
    content = (before + text * times + after).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)


def copies(path: Path, *, good: int, of: str = "pair", bad: str, times: int) -> None:
    """Sound pairs, and one line many times."""
    path.write_text("".join(json.dumps(row) + "\n" for row in good_rows(good, of)) + f"{bad}\n" * times)


def gzip_of(
    path: Path, *, good: int, cut: int = 0, keep: int | None = None, twice: bool = False, again: bool = False, damage: bool = False
) -> None:
    """Sound pairs, gzipped: less some bytes, two such files in one, packed again, or with other bytes in the middle."""
    content = gzip.compress("".join(json.dumps(row) + "\n" for row in good_rows(good, "pair")).encode(), mtime=0)
    if damage:
        middle = len(content) // 2
        content = content[:middle] + bytes(byte ^ 0xFF for byte in content[middle : middle + 40]) + content[middle + 40 :]
    content = gzip.compress(content, mtime=0) if again else content * (1 + twice)
    path.write_bytes(content[: len(content) - cut][:keep])


def gzip_cut_csv(path: Path, *, good: int) -> None:
    """A gzipped CSV file without its end."""
    rows = "prompt,chosen,rejected\n" + "".join(f"{number}?,yes {number},no\n" for number in range(good))
    path.write_bytes(gzip.compress(rows.encode(), mtime=0)[:-40])


def parquet_dates(path: Path) -> None:
    """Sound pairs beside dates of the year 292277."""
    table = pyarrow.Table.from_pylist(good_rows(8, "pair"))
    dates = pyarrow.array([2**62] * 8, pyarrow.int64()).view(pyarrow.timestamp("ms"))
    pyarrow.parquet.write_table(table.append_column("when", dates), path)


def parquet(
    path: Path,
    *,
    good: int,
    of: str = "pair",
    bad: Sequence[Mapping[str, Any]] = (),
    types: Mapping[str, str] | None = None,
    cut: int = 0,
    keep: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Sound rows and others behind the third, or the first few of them, columns as other Arrow types; less some bytes at the end."""
    rows = good_rows(good, of)
    table = pyarrow.Table.from_pylist([*rows[:3], *bad, *rows[3:]])[:keep]
    for name, kind in (types or {}).items():
        place = table.column_names.index(name)
        column = table.column(name)
        if kind == "dictionary":
            column = column.dictionary_encode()
        elif kind in ("int64", "float64"):
            column = pyarrow.array(range(len(table)), pyarrow.int64()).cast(kind)
        else:
            column = column.cast(getattr(pyarrow, kind)())
        table = table.set_column(place, name, column)
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path)
    if cut:
        path.write_bytes(path.read_bytes()[:-cut])


def parquet_twice(path: Path) -> None:
    """Two columns of one name."""
    column = pyarrow.array(["a", "b"])
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([column] * 3, names=["prompt", "chosen", "chosen"]), path)


def parquet_not_utf8(path: Path) -> None:
    """Bytes that are no text in a column of texts."""
    wrong = pyarrow.array([b"a", b"\xff\xfe"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"prompt": wrong, "chosen": wrong, "rejected": wrong}), path)


def nested(path: Path, *, depth: int, key: str = "chosen") -> None:
    """A list in a list in a list."""
    rows = [json.dumps(row) for row in good_rows(6, "pair")]
    path.write_text(
        "\n".join([*rows[:3], '{"prompt": "a", "rejected": "b", "' + key + '": ' + "[" * depth + "]" * depth + "}", *rows[3:]]) + "\n"
    )


def utf16(path: Path, *, good: int, bom: bool = True) -> None:
    """Sound pairs as UTF-16."""
    path.write_bytes("".join(json.dumps(row) + "\n" for row in good_rows(good, "pair")).encode("utf-16" if bom else "utf-16-le"))


def tokenizer_of(path: Path, *, template: str | None = None, **changes: object) -> None:
    """The model that ships with alignkit, with a chat template or other settings of its tokenizer."""
    shutil.copytree(Path(str(importlib.resources.files("alignkit"))) / "lab" / "pretrained" / "tiny", path)
    file = path / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, **changes, **({"chat_template": template} if template is not None else {})}))


def long_pair(path: Path, *, good: int) -> None:
    """Sound pairs, and one whose sides differ only at their far ends."""
    same = "the film was slow and the music was loud " * 20
    rows = [*good_rows(good, "pair"), {"prompt": "a", "chosen": f" {same}good", "rejected": f" {same}bad"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def long_prompt(path: Path, *, good: int) -> None:
    """Sound pairs, and one whose prompt goes on and on."""
    rows = [*good_rows(good, "pair"), {"prompt": "why is the film slow? " * 60, "chosen": " It is not.", "rejected": " It is."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
