"""Rows of Parquet files, as the values that stand there: what a file says of itself in the words of a library is not followed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from alignkit.data.diagnosis import UNREADABLE, explain
from alignkit.data.lines import FileFault, Stamp, check_unchanged, stamp
from alignkit.errors import UserError

TOGETHER = 1000
"""Rows that are read at once."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ParquetRows:
    """The rows of a Parquet file, read each time they are asked for: memory holds a thousand of them."""

    file: Path
    place: str
    """The setting it came by and its value."""
    columns: tuple[str, ...]
    seen: Stamp
    """The file as its columns were read."""

    @classmethod
    def of(cls, file: Path, place: str) -> ParquetRows:
        """Rows of a file.

        Raises:
            UserError: when it is no Parquet file, or has no rows.
        """
        try:
            seen = stamp(file)
            with _opened(file) as content:
                names, rows = list(map(str, content.schema_arrow.names)), content.metadata.num_rows
        except Exception as error:  # whatever pyarrow raises of bytes that are not Parquet
            raise UserError(f"{place}{explain(file, 'parquet', error)}") from error
        if rows == 0:
            raise UserError(f"{place} holds no rows.")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{place}: the column name {twice[0]!r} stands twice. Rename one of them.")
        return cls(file=file, place=place, columns=tuple(names), seen=seen)

    def __iter__(self) -> Iterator[Mapping[str, object]]:
        try:
            with _opened(self.file) as content:
                for batch in content.iter_batches(batch_size=TOGETHER):
                    yield from batch.to_pylist()
            check_unchanged(self.file, self.seen)
        except UnicodeDecodeError as error:
            raise UserError(f"{self.place} holds text that is not UTF-8. Write it anew.") from error
        except UserError:
            raise
        except (*UNREADABLE, ValueError, TypeError, OverflowError, NotImplementedError) as error:  # ArrowInvalid is a ValueError
            try:
                check_unchanged(self.file, self.seen)
            except FileFault as changed:
                raise UserError(f"{self.place}{changed}") from error
            raise UserError(f"{self.place}{explain(self.file, 'parquet', error)}") from error

    def numbered(self) -> Iterator[tuple[int | None, Mapping[str, object]]]:
        """Rows, which have no lines."""
        return ((None, row) for row in self)

    def lines_of(self, rows: Sequence[int]) -> dict[int, int]:
        """The lines of rows: there are none."""
        return {}


def _opened(file: Path) -> Any:
    """`pyarrow.parquet.ParquetFile`; imported here, for a run looks up its source's options long before it reads data."""
    import pyarrow.parquet  # type: ignore[import-untyped]

    # Pages have checksums where whoever wrote them asked for it; without this nobody looks at them.
    return pyarrow.parquet.ParquetFile(file, page_checksum_verification=True)
