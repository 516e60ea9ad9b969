"""An index of examples, found or made: once for all ranks, jobs and later runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias, final

import pyarrow as pa  # type: ignore[import-untyped]
import tokenizers
import transformers
from filelock import BaseFileLock, FileLock, Timeout
from transformers import PreTrainedTokenizerBase

from alignkit.caches.place import cache_root, short
from alignkit.data.conversion import Chunk, Converter, RowFault
from alignkit.data.example_index import DATA, FORMAT, About, ExampleIndex, digest_of, schema
from alignkit.data.oddities import Oddities, of_all_processes
from alignkit.data.source import check_columns, two_kinds
from alignkit.data.streams import RowStream
from alignkit.errors import UserError

ROWS = 1024
"""Converted at once."""
ALONE = 64
"""Such chunks before other processes are asked to help: starting them takes seconds."""
MOST_WORKERS = 8
PENDING_BYTES = 1 << 25
"""Of entries that are held back, to be written as one record batch."""
PENDING_ROWS = 1 << 16
TOLD_EVERY = 30.0
"""Seconds."""

Numbered: TypeAlias = tuple[int, Sequence[Mapping[str, object]]]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Indexing:
    """Where indices are kept and who hears of them."""

    folder: Path
    say: Callable[[str], None]
    """Tells the user a line."""
    workers: int
    """Processes that convert rows beside this one; 0 for none."""

    @classmethod
    def under(cls, cache_dir: str | None, say: Callable[[str], None] = lambda line: None) -> Indexing:
        """In the cache that `cache_dir` names, on all cores but the one that reads and writes; on one or two cores they would wait
        for each other."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cls(folder=cache_root(cache_dir) / "examples", say=say, workers=min(cores - 1, MOST_WORKERS) if cores > 2 else 0)


def index_of(stream: RowStream, converter: Converter, indexing: Indexing) -> ExampleIndex:
    """The index of a stream's rows: the finished one, else one that is made now, by one process at a time.

    It appears whole or not at all: what a killed process left is never read, and is removed.

    Raises:
        UserError: when a column is missing, a row is malformed, or nothing can be written.
    """
    folder = indexing.folder / index_key(stream, converter)
    found = finished(folder)
    if found is not None:
        indexing.say(f"data: {stream.place} is tokenised already, {found.about.rows} rows in {short(folder)}")
        return found
    with _locked(folder, indexing):
        found = finished(folder)
        if found is not None:
            return found
        check_columns(stream.place, stream.columns(), converter.source)
        if folder.exists():
            indexing.say(f"data: {short(folder)} is damaged, and is made anew")
        for left in (folder, *folder.parent.glob(f"{folder.name}.*.part")):
            shutil.rmtree(left, ignore_errors=True)
        draft = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        try:
            with _writing(draft):
                draft.mkdir(parents=True)
            about = _build(draft, stream, converter, indexing)
            with _writing(draft):
                about.write(draft)
                with suppress(FileExistsError):  # where there are no locks another process may have been first
                    draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return ExampleIndex(folder)


def finished(folder: Path) -> ExampleIndex | None:
    """A whole and undamaged index; None where there is none."""
    try:
        About.read(folder).check(folder)
        return ExampleIndex(folder)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):  # ArrowInvalid is a ValueError
        return None


def index_key(stream: RowStream, converter: Converter) -> str:
    """32 hex digits over all that decides what is in an index."""
    source, encoder = converter.source, converter.encoder
    module = sys.modules[type(source).__module__]
    parts = [
        FORMAT,
        stream.digest,
        [type(source).__qualname__, hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()],
        asdict(source),  # type: ignore[call-overload]
        asdict(converter.form),
        tokenizer_parts(encoder.tokenizer),
        [encoder.uses_template, encoder.strings_are_messages, encoder.max_length, encoder.overflow],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def tokenizer_parts(tokenizer: PreTrainedTokenizerBase) -> list[object]:
    """What decides how a tokenizer writes texts."""
    rules = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else [tokenizer.get_vocab(), tokenizer.init_kwargs]
    versions = [transformers.__version__, tokenizers.__version__]
    return [type(tokenizer).__qualname__, rules, tokenizer.chat_template, tokenizer.special_tokens_map, versions]


def _build(draft: Path, stream: RowStream, converter: Converter, indexing: Indexing) -> About:
    indexing.say(f"data: {stream.place} is tokenised once, into {short(indexing.folder)}")
    started = told = time.perf_counter()
    counts: Counter[str] = Counter()
    oddities = Oddities(of_all_processes)
    rows = candidates = 0
    kind: tuple[int, bool] | None = None
    writer = _Writer(draft / DATA, schema(len(converter.encoder.tokenizer)))
    try:
        for chunk in _converted(_chunks(stream.read()), converter, indexing):
            for row, is_text in chunk.kinds:
                kind = kind or (row, is_text)
                if is_text != kind[1]:
                    raise UserError(two_kinds(stream.where(kind[0]), stream.where(row), now_text=is_text))
            writer.add(chunk.batch)
            rows += chunk.rows
            candidates += chunk.candidates
            counts.update(chunk.counts)
            oddities.add(chunk.oddities)
            if time.perf_counter() - told > TOLD_EVERY:
                told = time.perf_counter()
                indexing.say(f"data: {rows} rows tokenised, {rows / (told - started):.0f} a second")
    except RowFault as error:
        error.faults.check(stream.place, stream.lines_of)
    finally:
        writer.close()
    indexing.say(f"data: {rows} rows tokenised in {time.perf_counter() - started:.1f} s")
    return About(
        rows=rows,
        examples=writer.written,
        candidates=candidates,
        is_text=kind is None or kind[1],
        counts={**counts, **oddities.counted()},
        attributes=list(converter.form.rated),
        bytes=(draft / DATA).stat().st_size,
        sha256=digest_of(draft / DATA),
    )


@final
class _Writer:
    """Puts small record batches together, and writes large ones."""

    def __init__(self, file: Path, columns: Any) -> None:
        self.written = 0
        self._folder = file.parent
        self._pending: list[Any] = []
        with _writing(self._folder):
            self._sink = file.open("wb")
            self._file = pa.ipc.new_file(self._sink, columns)

    def add(self, batch: Any) -> None:
        self._pending.append(batch)
        if sum(one.nbytes for one in self._pending) > PENDING_BYTES or sum(map(len, self._pending)) > PENDING_ROWS:
            self._flush()

    def close(self) -> None:
        with _writing(self._folder):
            self._flush()
            self._file.close()
            self._sink.flush()
            os.fsync(self._sink.fileno())
            self._sink.close()

    def _flush(self) -> None:
        pending, self._pending = [batch for batch in self._pending if len(batch)], []
        if pending:
            with _writing(self._folder):
                self._file.write_batch(pa.concat_batches(pending))
            self.written += sum(map(len, pending))


def _chunks(rows: Iterator[Mapping[str, object]]) -> Iterator[Numbered]:
    first = 0
    while chunk := list(islice(rows, ROWS)):
        yield first, chunk
        first += len(chunk)


def _converted(chunks: Iterator[Numbered], converter: Converter, indexing: Indexing) -> Iterator[Chunk]:
    """Chunks in their order; a few of them are in memory at a time. When a process that helps is killed, this one goes on alone."""
    workers, is_alone = indexing.workers, False
    for first, rows in islice(chunks, ALONE) if workers else chunks:
        yield converter(first, rows)
    # It starts no process before there is work. A process that is forked from one with threads may hang.
    pool = ProcessPoolExecutor(max(1, workers), mp_context=get_context("spawn"), initializer=_start, initargs=(converter,))
    running: deque[tuple[Numbered, Future[Chunk]]] = deque()

    def oldest() -> Chunk:
        nonlocal is_alone
        numbered, future = running.popleft()
        try:
            return future.result()
        except BrokenExecutor:
            if not is_alone:
                indexing.say("data: a process that tokenises was killed (out of memory?); this one goes on alone")
            is_alone = True
            return converter(*numbered)

    try:
        for numbered in chunks:
            running.append((numbered, _submitted(pool, numbered)))
            if len(running) > 2 * workers:
                yield oldest()
        while running:
            yield oldest()
    finally:
        pool.shutdown(cancel_futures=True)


def _submitted(pool: ProcessPoolExecutor, numbered: Numbered) -> Future[Chunk]:
    try:
        return pool.submit(_convert, *numbered)
    except BrokenExecutor as error:
        lost: Future[Chunk] = Future()
        lost.set_exception(error)
        return lost


_converter: Converter | None = None
"""Of a worker: sent once, not with every chunk."""


def _start(converter: Converter) -> None:
    global _converter
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there are as many processes as cores
    _converter = converter


def _convert(first: int, rows: Sequence[Mapping[str, object]]) -> Chunk:
    assert _converter is not None
    return _converter(first, rows)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cache_dir: {short(folder.parent)} cannot be written ({error.strerror or error}), and dataset.streaming=true keeps tokenised "
            "examples there. Type cache_dir=DIR for a place with room for about twice the size of the data."
        ) from error


@contextmanager
def _locked(folder: Path, indexing: Indexing) -> Iterator[None]:
    """Hold the making of an index alone. Where there are no locks, go on without."""
    lock: BaseFileLock | None = None
    with _writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            indexing.say(f"data: waiting for another process, which tokenises into {short(folder)}")
            lock.acquire(poll_interval=0.2)
    except (OSError, NotImplementedError):
        lock = None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
