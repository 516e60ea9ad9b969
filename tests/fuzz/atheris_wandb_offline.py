"""Coverage-guided bytes into the reader of W&B's logs: `python tests/fuzz/atheris_wandb_offline.py -runs=100000`.

Needs `pip install atheris`. Options are libFuzzer's: -max_total_time=120, -seed=1, a folder of a corpus. Half of the inputs are a file as
it stands; the other half are records, which are framed with right checksums, so that what is behind them is reached too.
"""

from __future__ import annotations

import struct
import sys
import tempfile
import zlib
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["alignkit.analysis"]):
    from alignkit.analysis.wandb_offline import payloads, read_offline_run
from alignkit.errors import UserError

HEADER = b":W&B\xe1\xbe\x00"
FOLDER = Path(tempfile.mkdtemp(prefix="alignkit-atheris-"))


def framed(content: bytes) -> bytes:
    """A log of one record, which no block's end cuts."""
    return HEADER + struct.pack("<IHB", zlib.crc32(content, zlib.crc32(b"\x01")), len(content), 1) + content


def read(content: bytes) -> None:
    """Raises whatever the reader should not."""
    mode, content = content[:1], content[1:30_000]
    whole = framed(content) if mode < b"\x80" else HEADER + content
    records = list(payloads(whole))
    if mode >= b"\x80":
        assert sum(map(len, records)) <= len(content)
        return
    assert records == [content]
    file = FOLDER / "run-x.wandb"
    file.write_bytes(whole)
    try:
        run = read_offline_run([file, file])
    except UserError:
        return
    assert run.history.num_rows == len(run.history["step"])


def main() -> None:
    """Runs until libFuzzer has had enough."""
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
