"""What is wrong with a data file that could not be read, in the words of its author: the line and what stands there."""

from __future__ import annotations

import errno
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, final

from alignkit.data.lines import FileFault, beginning, numbered_lines, whole_bytes
from alignkit.terminal import visible

_SHOWN = 60
HALF_A_PAIR = "holds half a surrogate pair (\\ud800 to \\udfff), which stands for no character"
UNREADABLE = (OSError, EOFError, zlib.error, FileFault)
"""What a file that cannot be opened or unpacked, or that is out of all bounds, raises."""


def explain(file: Path, builder: str, error: Exception) -> str:
    """The end of a message that starts with the file's name: what was found and what to do.

    `builder` is the reader that failed (`json`, `csv` or `parquet`) and `error` what it said, told when the file itself shows nothing.
    """
    if isinstance(error, FileFault):
        return str(error)
    if isinstance(error, EOFError):
        return ": the gzip data end too early; the file was cut off. Copy it again."
    if isinstance(error, PermissionError):
        return f": cannot be opened ({os.strerror(error.errno or errno.EACCES)}). Allow it with chmod, or copy the file."
    try:
        if builder == "parquet":
            return _parquet(file, error)
        if beginning(file).startswith((b"\xff\xfe", b"\xfe\xff")):
            return f" is UTF-16; must be UTF-8. Try: iconv -f UTF-16 -t UTF-8 {file.name} > utf8-{file.name}"
        return _json(file, error) if builder == "json" else _unknown(error)
    except FileFault as fault:
        return str(fault)
    except (gzip.BadGzipFile, zlib.error):
        return " is not gzip inside, whatever its name says. Rename it without .gz, or compress it anew."
    except EOFError:
        return ": the gzip data end too early; the file was cut off. Copy it again."


def _json(file: Path, error: Exception) -> str:
    if beginning(file).startswith(b"[") or file.name.lower().removesuffix(".gz").endswith(".json"):
        return _whole_json(file, error)
    for number, line, is_last in with_last(numbered_lines(file)):
        complaint = explain_line(line, is_last=is_last)
        if complaint is not None:
            return f", line {number}{complaint}"
    return _unknown(error)


def with_last(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes, bool]]:
    """Numbered lines, and of each whether it is the last one."""
    before = next(lines, None)
    for line in lines:
        assert before is not None
        yield *before, False
        before = line
    if before is not None:
        yield *before, True


def explain_line(line: bytes, *, is_last: bool) -> str | None:
    """How a message goes on that begins with the number of a line in a file of JSON lines; None when nothing is wrong with it."""
    complaint = _line_fault(line)
    if complaint is None:
        return None
    cut = complaint.startswith("is not JSON") and not line.endswith(b"}") and is_last
    advice = "It is the last line: was the file cut off?" if cut else "Correct the line or delete it."
    return f" {complaint}. Each line must hold one JSON object. {advice}"


def _line_fault(line: bytes) -> str | None:
    try:
        text = line.decode()
        value = json.loads(text, object_pairs_hook=distinct, parse_constant=no_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        shown = visible(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")
        return f"is not JSON ({error.msg} at column {error.colno}): {shown}"
    except UnicodeDecodeError as error:
        return f"is not UTF-8 (byte {error.start + 1} of the line is 0x{line[error.start]:02x})"
    except UnicodeEncodeError:
        return HALF_A_PAIR
    except RecursionError:
        return "is nested too deeply"
    except JsonFault as error:
        return str(error)
    except ValueError:  # of Python's own limit
        return "holds a number of more than 4300 digits"
    return None if isinstance(value, dict) else f"is {_kind(value)}, not an object"


@final
class JsonFault(ValueError):  # noqa: N818  becomes part of a message
    """Something that Python's reader lets pass."""


def distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """For `json`: an object none of whose keys stands twice. Raises JsonFault."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise JsonFault(f"has the key {twice!r} twice")
    return made


def no_constant(name: str) -> NoReturn:
    """For `json`, which reads NaN and Infinity by itself. Raises JsonFault."""
    raise JsonFault(f"holds {name}, which is not JSON")


def _kind(value: object) -> str:
    names = {str: "a text", list: "a list", bool: "a truth value", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _whole_json(file: Path, error: Exception) -> str:
    try:
        json.loads(whole_bytes(file).decode(), object_pairs_hook=distinct, parse_constant=no_constant)
    except json.JSONDecodeError as fault:
        return f", line {fault.lineno} is not JSON ({fault.msg} at column {fault.colno}). Correct it there."
    except UnicodeDecodeError as fault:
        return f" is not UTF-8 (byte {fault.start + 1}). Save it as UTF-8."
    except RecursionError:
        return " is nested too deeply."
    except JsonFault as fault:
        return f" {fault}. Correct it there."
    if isinstance(error, UnicodeEncodeError):
        return f" {HALF_A_PAIR}. Correct it there."
    return _unknown(error)


def _parquet(file: Path, error: Exception) -> str:
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        empty = pyarrow.parquet.read_metadata(file).num_rows == 0
    except (OSError, pyarrow.ArrowInvalid, UnicodeDecodeError):  # of what it says of itself
        return " is not a Parquet file, whatever its name says, or it was cut off. Write it anew."
    return " holds no rows." if empty else _unknown(error)


def _unknown(error: Exception) -> str:
    """The innermost cause in one line."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    words = visible(" ".join(str(error).split())) or type(error).__name__
    return f" cannot be read: {words.rstrip('.')}."
