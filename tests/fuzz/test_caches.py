"""What is kept to be used again, with damage: it comes back to the bit, or is made anew; and a manifest says so of a checkpoint."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from alignkit.caches.store import Store
from alignkit.data.conversion import Converter
from alignkit.data.encoding import Encoder
from alignkit.data.example_index import ABOUT, DATA, ExampleIndex
from alignkit.data.forms import Form
from alignkit.data.indexing import Indexing, finished, index_of
from alignkit.data.sources.local import Local
from alignkit.data.streams import stream_file
from alignkit.manifests import Manifest, manifest_of

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from hostile import altered, lines, mutated
from trials import fuzz, outcome

DIGESTS = [bytes([number]) * 32 for number in range(5)]
VALUES = {digest: torch.arange(number + 1, dtype=torch.float32) / 7 for number, digest in enumerate(DIGESTS)}
WANTED = {digest: len(rows) for digest, rows in VALUES.items()}


@fuzz(60)
@given(data=st.data())
def test_a_damaged_segment_gives_the_values_that_were_written_or_none(data: st.DataObject, tmp_path: Path) -> None:
    folder = tmp_path / "segments"
    shutil.rmtree(folder, ignore_errors=True)
    said: list[str] = []
    store = Store(folder, {"values": "x"}, said.append)
    store.write(VALUES)
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(data.draw(mutated(file.read_bytes())))
    found = store.read(WANTED)
    assert all(torch.equal(rows, VALUES[digest]) and rows.dtype == torch.float32 for digest, rows in found.items())
    if found.keys() < VALUES.keys():
        assert not file.exists(), "a damaged file stays in the way"
        assert len(said) == 1


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, tokenizer_factory: Callable[..., PreTrainedTokenizerFast]) -> Path:
    """The folder of a finished index of four pairs."""
    folder = tmp_path_factory.mktemp("index")
    (folder / "pairs.jsonl").write_bytes(lines(*({"prompt": f"w{n} w4", "chosen": f" w{n}", "rejected": " w3 w9"} for n in range(5, 9))))
    encoder = Encoder(tokenizer_factory(), format="auto", max_length=30, overflow="trim")
    converter = Converter(source=Local(columns={}, ratings=[]), form=Form.pairs(), encoder=encoder)
    stream = stream_file(str(folder / "pairs.jsonl"), "dataset.path")
    return index_of(stream, converter, Indexing(folder=folder / "examples", say=lambda line: None, workers=0)).folder


def told(index: ExampleIndex) -> list[object]:
    numbers = [index.column(name).tolist() for name in ("row", "prompt", "content", "code", "tokens")]
    return [*numbers, *((index.example(row, key=row, source=""), index.text(row, source="")) for row in range(len(index)))]


@pytest.mark.parametrize("name", [DATA, ABOUT])
def test_a_damaged_index_is_not_used(name: str, index: Path, tmp_path: Path) -> None:
    whole = finished(index)
    assert whole is not None
    expected, content = told(whole), (index / name).read_bytes()
    copy = tmp_path / "copy"
    shutil.copytree(index, copy)

    @fuzz(60)
    @given(damaged=mutated(content))
    def on(damaged: bytes) -> None:
        (copy / name).write_bytes(damaged)
        found = finished(copy)
        if found is not None:
            assert told(found) == expected
        if name == DATA:
            assert (found is not None) == (damaged == content)

    on()


@fuzz(60)
@given(data=st.data())
def test_a_damaged_manifest_or_checkpoint_is_named(data: st.DataObject, tmp_path: Path) -> None:
    checkpoint = tmp_path / "step-000040.ckpt"
    checkpoint.write_bytes(b"weights" * 10)
    files = {"": (70, "3b" * 32)}
    Manifest(step=40, files=files, config={"steps": 40}, versions={"torch": "2"}).write(checkpoint)
    path = manifest_of(checkpoint)
    content = path.read_bytes()
    changed = data.draw(mutated(content) | altered(json.loads(content)).map(lambda other: json.dumps(other).encode()))
    path.write_bytes(changed)
    manifest = outcome(lambda: Manifest.read(checkpoint), ValueError)
    if isinstance(manifest, ValueError):
        assert path.name in str(manifest)
    else:
        assert isinstance(manifest.step, int)
        assert all(isinstance(size, int) and isinstance(digest, str) for size, digest in manifest.files.values())
