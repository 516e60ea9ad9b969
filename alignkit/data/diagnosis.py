"""What is wrong with a data file that could not be read, in the words of its author: the line and what stands there."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

_SHOWN = 60


def explain(file: Path, builder: str, error: Exception) -> str:
    """The end of a message that starts with the file's name: what was found and what to do.

    `builder` is the reader that failed (`json`, `csv` or `parquet`) and `error` what it said, told when the file itself shows nothing.
    """
    if isinstance(error, PermissionError):
        return f": cannot be opened ({error.strerror}). Allow it with chmod, or copy the file."
    try:
        if builder == "parquet":
            return _parquet(file, error)
        with file.open("rb") as content:
            if content.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                return f" is UTF-16; must be UTF-8. Try: iconv -f UTF-16 -t UTF-8 {file.name} > utf8-{file.name}"
        return _json(file, error) if builder == "json" else _csv(file, error)
    except (gzip.BadGzipFile, zlib.error):
        return " is not gzip inside, whatever its name says. Rename it without .gz, or compress it anew."
    except EOFError:
        return ": the gzip data end too early; the file was cut off. Copy it again."


def line_number(file: Path, row: int) -> int | None:
    """The line, from 1, of row `row`, from 0, of a file of JSON lines; None when its rows are not lines."""
    for index, (number, line) in enumerate(numbered_lines(file)):
        if index == 0 and line.startswith(b"["):
            return None
        if index == row:
            return number if line.startswith(b"{") and line.endswith(b"}") else None
    return None


def numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that hold something, numbered from 1. Only a line feed ends one: JSON texts may hold Unicode's other separators."""
    opened = gzip.open if file.suffix.lower() == ".gz" else open
    with opened(file, "rb") as content:
        for number, line in enumerate(content, start=1):
            stripped = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if stripped:
                yield number, stripped


def _json(file: Path, error: Exception) -> str:
    first = next(numbered_lines(file), None)
    if first is None or first[1] == b"[]":
        return " holds no rows."
    if first[1].startswith(b"[") or (file.name.removesuffix(".gz").endswith(".json") and first[1] == b"{"):
        return _whole_json(file, error)
    lines = numbered_lines(file)
    for number, line in lines:
        complaint = explain_line(number, line, lines)
        if complaint is not None:
            return complaint
    return _unknown(error)


def explain_line(number: int, line: bytes, rest: Iterator[object]) -> str | None:
    """As `explain`, of one line of a file of JSON lines; None when nothing is wrong with it. `rest` are the lines after it."""
    complaint = _line_fault(line)
    if complaint is None:
        return None
    cut = complaint.startswith("is not JSON") and not line.endswith(b"}") and next(rest, None) is None
    advice = "It is the last line: was the file cut off?" if cut else "Correct the line or delete it."
    return f", line {number} {complaint}. Each line must hold one JSON object. {advice}"


def _line_fault(line: bytes) -> str | None:
    try:
        text = line.decode()
        value = json.loads(text, object_pairs_hook=distinct, parse_constant=no_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        shown = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
        return f"is not JSON ({error.msg} at column {error.colno}): {shown}"
    except UnicodeDecodeError as error:
        return f"is not UTF-8 (byte {error.start + 1} of the line is 0x{line[error.start]:02x})"
    except UnicodeEncodeError:
        return "holds half a surrogate pair (\\ud800 to \\udfff), which stands for no character"
    except RecursionError:
        return "is nested too deeply"
    except ValueError as error:
        return str(error)
    return None if isinstance(value, dict) else f"is {_kind(value)}, not an object"


def distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """For `json`: an object none of whose keys stands twice. Raises ValueError."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"has the key {twice!r} twice")
    return made


def no_constant(name: str) -> NoReturn:
    """For `json`, which reads NaN and Infinity by itself. Raises ValueError."""
    raise ValueError(f"holds {name}, which is not JSON")


def _kind(value: object) -> str:
    names = {str: "a text", list: "a list", bool: "a truth value", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _whole_json(file: Path, error: Exception) -> str:
    opened = gzip.open if file.suffix.lower() == ".gz" else open
    with opened(file, "rb") as content:
        try:
            json.loads(content.read())
        except json.JSONDecodeError as fault:
            return f", line {fault.lineno} is not JSON ({fault.msg} at column {fault.colno}). Correct it there."
        except UnicodeDecodeError as fault:
            return f" is not UTF-8 (byte {fault.start + 1}). Save it as UTF-8."
    return _unknown(error)


def _csv(file: Path, error: Exception) -> str:
    rows = sum(1 for _ in zip(range(2), numbered_lines(file), strict=False))
    if rows == 0:
        return " holds no rows."
    if rows == 1:
        return " holds column names but no rows."
    for number, line in numbered_lines(file):
        try:
            line.decode()
        except UnicodeDecodeError as fault:
            return f", line {number} is not UTF-8 (byte {fault.start + 1} of the line). Save the file as UTF-8."
    return f"{_unknown(error)} Fields are separated by commas; those that hold a comma or a line break stand in double quotes."


def _parquet(file: Path, error: Exception) -> str:
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        empty = pyarrow.parquet.read_metadata(file).num_rows == 0
    except (OSError, pyarrow.ArrowInvalid):
        return " is not a Parquet file, whatever its name says, or it was cut off. Write it anew."
    return " holds no rows." if empty else _unknown(error)


def _unknown(error: Exception) -> str:
    """The innermost cause in one line."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    words = " ".join(str(error).split()) or type(error).__name__
    return f" cannot be read: {words.rstrip('.')}."
