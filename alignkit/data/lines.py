"""Lines of a file, gzipped or not, with limits that no file of examples reaches and no damaged or hostile one gets past."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast, final

MOST_LINE_BYTES = 8 << 20
"""Of one line: eight million characters are no answer to anything."""
MOST_TIMES = 200
"""What is unpacked may be so many times as large as the gzipped file; texts come to 10, a few rows repeated for ever to 1000."""
FREE_BYTES = 16 << 20
"""So much may be unpacked of the smallest file."""
BOM = b"\xef\xbb\xbf"

Stamp: TypeAlias = tuple[int, int, int]
"""Size, time of the last change in ns, and inode: what tells that a file is not what it was."""


@final
class FileFault(Exception):  # noqa: N818  becomes a UserError where the file's setting is known
    """What is wrong with a file, as the end of a message that begins with its name."""


def stamp(file: Path) -> Stamp:
    """What a file looks like now. Raises OSError."""
    seen = file.stat()
    return seen.st_size, seen.st_mtime_ns, seen.st_ino


def check_unchanged(file: Path, before: Stamp) -> None:
    """Refuse a file that somebody wrote to since `before`.

    Raises:
        FileFault: saying so.
    """
    if stamp(file) != before:
        raise FileFault(" was written to while it was read. Wait until it is finished, or copy it first.")


def numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that hold something, without white space around them and a byte-order mark, numbered from 1. Only a line feed ends one: JSON
    texts may hold Unicode's other separators.

    Raises:
        FileFault: when one is too long, too much is unpacked, or the file is written to meanwhile.
        OSError, EOFError, zlib.error: when it cannot be opened or unpacked.
    """
    for number, line in physical_lines(file):
        if stripped := line.strip():
            yield number, stripped


def physical_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """All lines as they stand, with their ends, but for a byte-order mark; numbered from 1. Raises as `numbered_lines`."""
    before, limit = stamp(file), most_bytes(file)
    unpacked = number = 0
    with open_bytes(file) as content:
        while line := content.readline(MOST_LINE_BYTES + 1):
            number += 1
            if len(line) > MOST_LINE_BYTES:
                raise FileFault(
                    f", line {number} is longer than {MOST_LINE_BYTES >> 20} MiB; no line may be. Is a line feed missing? "
                    "Split it or delete it."
                )
            unpacked += len(line)
            if unpacked > limit:
                raise too_large(file)
            yield number, line.removeprefix(BOM) if number == 1 else line
    check_unchanged(file, before)


def whole_bytes(file: Path) -> bytes:
    """All that a file holds, but for a byte-order mark. Raises as `numbered_lines`."""
    before, limit = stamp(file), most_bytes(file)
    held = bytearray()
    with open_bytes(file) as content:
        while piece := content.read(1 << 20):
            held += piece
            if len(held) > limit:
                raise too_large(file)
    check_unchanged(file, before)
    return bytes(held).removeprefix(BOM)


def most_bytes(file: Path) -> int:
    """Bytes that may be read of a file: what it has, or what may be unpacked of it."""
    size = file.stat().st_size
    return max(MOST_TIMES * size, FREE_BYTES) if is_gzipped(file) else 1 << 62


def too_large(file: Path) -> FileFault:
    """Of a gzipped file that goes on and on."""
    return FileFault(
        f" unpacks to more than {MOST_TIMES} times its {file.stat().st_size} bytes, as no texts do. Unpack it and look into it; a file "
        "that is not gzipped may be as large as it likes."
    )


def open_bytes(file: Path) -> BinaryIO:
    """A file's bytes, unpacked where its name ends in .gz."""
    return cast(BinaryIO, gzip.open(file, "rb")) if is_gzipped(file) else file.open("rb")


def is_gzipped(file: Path) -> bool:
    """By its name."""
    return file.suffix.lower() == ".gz"


def lines_of_rows(file: Path, rows: Sequence[int]) -> dict[int, int]:
    """The lines, from 1, of rows of a file of JSON lines, from 0; none where its rows are not lines."""
    found: dict[int, int] = {}
    last = max(rows, default=-1)
    for index, (number, line) in enumerate(numbered_lines(file)):
        if index > last or not (line.startswith(b"{") and line.endswith(b"}")):
            break
        if index in rows:
            found[index] = number
    return found


def beginning(file: Path) -> bytes:
    """The first bytes of a file without white space and a byte-order mark. Raises as `numbered_lines`."""
    with open_bytes(file) as content:
        return content.read(4096).removeprefix(BOM).lstrip()
