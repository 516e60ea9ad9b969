"""Examples in a memory-mapped Arrow file: token ids and text of each, and as columns what is asked of all of them.

A folder holds `examples.arrow` and `about.json`. It has a row for each example that a source made, also for those that the objective or the
encoder leaves out, with the reason: what is held out and trained on is chosen later, and needs no other file.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from alignkit.data.dropping import REASONS
from alignkit.data.examples import EncodedExample, Message, PreferenceExample
from alignkit.data.outcomes import Outcome

FORMAT = "2"
"""Of the file and of what is in it. A change of how alignkit reads or encodes rows changes it."""
DATA = "examples.arrow"
ABOUT = "about.json"
KEPT = -1
"""Code of an example that is not left out; others are places in `REASON_NAMES`."""
REASON_NAMES = tuple(REASONS)
RELEASED_AFTER = 512
"""Examples read at random before the pages that held them are given back. A fault maps its surroundings too, 64 KiB, so that without
this a process would seem to hold the whole file."""
SMALL_IDS = 2**16
"""Vocabulary whose ids fit into two bytes."""

Numbers: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def schema(vocabulary: int) -> Any:
    """The columns of the file, for a tokenizer of so many tokens."""
    ids = pa.uint16() if vocabulary <= SMALL_IDS else pa.int32()
    return pa.schema(
        {
            "row": pa.int64(),  # of the table, from 0
            "prompt": pa.uint64(),  # first bytes of the prompt's SHA-256
            "content": pa.uint64(),  # and of the whole example's
            "code": pa.int8(),
            "trimmed": pa.int8(),
            "cut": pa.int16(),
            "merged": pa.int8(),
            "tokens": pa.int32(),  # with the prompt once
            "prompt_tokens": pa.int32(),
            "branch": pa.int32(),  # of the prompt with its longest completion
            "ids": pa.list_(ids),  # prompt, completions
            "ends": pa.list_(pa.int32()),  # of each of them in `ids`
            "margin": pa.float64(),
            "ranks": pa.list_(pa.int16()),
            "desirable": pa.list_(pa.int8()),
            "ratings": pa.list_(pa.float64()),  # attribute by attribute
            "text": pa.string(),
        }
    )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One example on its way into the file."""

    row: int
    """Of the table, from 0."""
    prompt: bytes
    """SHA-256 of the prompt."""
    content: bytes
    """SHA-256 of the example."""
    formed: PreferenceExample | None
    """In the form that the objective reads, None where it has not got it."""
    outcome: Outcome


def record_batch(entries: Sequence[Entry], columns: Any) -> Any:
    """Entries as an Arrow record batch of the given schema."""
    values = zip(*map(_row, entries), strict=True) if entries else [()] * len(columns)
    arrays = [pa.array(of_column, type=field.type) for of_column, field in zip(values, columns, strict=True)]
    return pa.record_batch(arrays, schema=columns)


def _row(entry: Entry) -> tuple[Any, ...]:
    outcome, example = entry.outcome, entry.outcome.example
    head = (entry.row, int.from_bytes(entry.prompt[:8], "big"), int.from_bytes(entry.content[:8], "big"))
    if example is None:
        return (*head, REASON_NAMES.index(outcome.reason), 0, 0, 0, 0, 0, 0, (), (), 0.0, (), (), (), "")
    assert entry.formed is not None
    texts = [example.prompt_ids, *example.completion_ids]
    lengths = [len(ids) for ids in texts]
    return (
        *head,
        KEPT,
        int(outcome.trimmed),
        outcome.cut,
        int(outcome.merged),
        sum(lengths),
        lengths[0],
        lengths[0] + max(lengths[1:]),
        list(chain.from_iterable(texts)),
        list(accumulate(lengths)),
        example.margin,
        example.ranks,
        [int(label) for label in example.desirable],
        [rating for ratings in example.ratings.values() for rating in ratings],
        _written(entry.formed),
    )


def _written(example: PreferenceExample) -> str:
    prompt = example.prompt if isinstance(example.prompt, str) else [(message.role, message.content) for message in example.prompt]
    return json.dumps([prompt, example.completions], ensure_ascii=False)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What is known of all rows of a file."""

    rows: int
    """Of the table."""
    examples: int
    """Rows of the index."""
    candidates: int
    """Examples that could have been made of the rows, those that had to be dropped included."""
    is_text: bool
    """Whether prompts are plain text; else they are chats."""
    counts: dict[str, int]
    """What reading left out: `no_preference` and reasons to drop."""
    attributes: list[str]
    """Whose ratings are kept."""
    bytes: int
    """Of the Arrow file."""
    sha256: str
    """Of the Arrow file, in which a flipped bit would be another token."""

    def write(self, folder: Path) -> None:
        """As `about.json`."""
        (folder / ABOUT).write_text(json.dumps({**asdict(self), "seal": self._seal()}), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> About:
        """Raises OSError, ValueError, TypeError, KeyError or RecursionError where there is no such file, or another one."""
        values = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        seal = values.pop("seal")
        about = cls(**values)
        if seal != about._seal():
            raise ValueError(f"{ABOUT} is not as it was written")
        return about

    def check(self, folder: Path) -> None:
        """Compare the Arrow file with what it was: once a run, for that takes as long as to read it. Raises OSError or ValueError."""
        if digest_of(folder / DATA) != self.sha256:
            raise ValueError(f"{DATA} is not as it was written")

    def _seal(self) -> str:
        """SHA-256 over everything else."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def digest_of(file: Path) -> str:
    """SHA-256 of a file, as hex digits. Raises OSError."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@final
class ExampleIndex:
    """A finished index. Pickles as its folder, so that other processes map the file for themselves.

    Raises:
        OSError: when there is none, or its file is not as long as it was.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about = About.read(folder)
        if (folder / DATA).stat().st_size != self.about.bytes:
            raise OSError(f"{DATA} has another length than when it was written")
        with (folder / DATA).open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = pa.ipc.open_file(pa.py_buffer(self._map))
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self._reads = 0

    def __reduce__(self) -> tuple[type[ExampleIndex], tuple[Path]]:
        return ExampleIndex, (self.folder,)

    def __len__(self) -> int:
        return self.about.examples

    def column(self, name: str) -> Numbers:
        """A column of numbers [len(self)], copied into memory."""
        values: Numbers = np.concatenate([batch.column(name).to_numpy() for batch in self._batches])
        self.release()
        return values

    def example(self, row: int, *, key: int, source: str) -> EncodedExample:
        """Token ids of one example that was kept."""
        batch, place = self._find(row)
        ids = batch.column("ids")[place].values.to_numpy().tolist()
        ends = batch.column("ends")[place].values.to_numpy().tolist()
        texts = [tuple(ids[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
        return EncodedExample(key=key, prompt_ids=texts[0], completion_ids=tuple(texts[1:]), source=source, **self._known(batch, place))

    def text(self, row: int, *, source: str) -> PreferenceExample:
        """The text of one example that was kept, with the completions that the objective reads."""
        batch, place = self._find(row)
        prompt, completions = json.loads(batch.column("text")[place].as_py())
        if not isinstance(prompt, str):
            prompt = tuple(Message(role=role, content=content) for role, content in prompt)
        return PreferenceExample(prompt=prompt, completions=tuple(completions), source=source, **self._known(batch, place))

    def release(self) -> None:
        """Give back the pages that were read; they come again from the system's cache."""
        self._reads = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _find(self, row: int) -> tuple[Any, int]:
        self._reads += 1
        if self._reads > RELEASED_AFTER:
            self.release()
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._batches[number], row - int(self._starts[number])

    def _known(self, batch: Any, place: int) -> Mapping[str, Any]:
        """What is known of the completions beside their text."""
        ratings = batch.column("ratings")[place].as_py()
        each = len(ratings) // max(1, len(self.about.attributes))
        return {
            "margin": batch.column("margin")[place].as_py(),
            "ranks": tuple(batch.column("ranks")[place].as_py()),
            "desirable": tuple(map(bool, batch.column("desirable")[place].as_py())),
            "ratings": {
                attribute: tuple(ratings[number * each : (number + 1) * each]) for number, attribute in enumerate(self.about.attributes)
            },
        }
