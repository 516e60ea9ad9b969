"""Coverage-guided bytes into the reader of histories, against Python's own: `python tests/fuzz/atheris_json_lines.py -runs=100000`.

Needs `pip install atheris`. The fast path hands whole lines to Arrow, which is C++: what it is given must neither crash it nor come out as
other numbers.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["alignkit.analysis"]):
    from alignkit.analysis.json_lines import history_of, read_history, rows_of

FILE = Path(tempfile.mkdtemp(prefix="alignkit-atheris-")) / "metrics.jsonl"
PIECES = (b'{"step": ', b', "a": ', b"}\n", b"null", b"1e5", b"-0.0", b"12345678901234567890", b'{"step": 1, "time": 2.5, "a": 1e-12}\n')


def read(content: bytes) -> None:
    """Raises where the two readers differ."""
    if content[:1] < b"\x80":  # sentences of the grammar instead of bytes
        content = b"".join(PIECES[byte % len(PIECES)] for byte in content[1:200])
    FILE.write_bytes(content)
    fast, slow = read_history(FILE), history_of(rows_of(content))
    assert repr(fast["step"].to_pylist()) == repr(slow["step"].to_pylist()), content
    assert all(repr(fast[name].to_pylist()) == repr(slow[name].to_pylist()) for name in {*fast.column_names} & {*slow.column_names}), (
        content
    )


def main() -> None:
    """Runs until libFuzzer has had enough."""
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
