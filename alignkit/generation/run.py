"""A generate run from its settings to its last file: answer prompts, score and keep the answers, and collect what was measured."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import torch

from alignkit.assembly import say
from alignkit.errors import UserError
from alignkit.generate_settings import ALL, CHAT, STREAM, GenerateSettings
from alignkit.generation.answered import AnsweredPrompt
from alignkit.generation.answering import Answering, build_answering
from alignkit.generation.chat import converse
from alignkit.generation.keeping import Keeper
from alignkit.generation.results import results_of
from alignkit.hardware import keep_freed_memory, peak_memory
from alignkit.metrics import LENGTH
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings
from alignkit.terminal import visible

KEPT = "kept.jsonl"
"""Beside `samples.jsonl`: the rows to train on."""
LONGEST_PROMPT = 100
"""Characters of a prompt that are repeated on a terminal."""


def generate(settings: RunSettings, own: GenerateSettings, run: RunDir, *, rows: TextIO | None = None) -> dict[str, Scalar]:
    """Answer the prompts as the settings say and write `samples.jsonl`, `kept.jsonl` and `results.json`. Returns what the last one holds.

    Rows are on disk as soon as a batch of `batch.pairs` prompts has been answered. `rows` is where `out=-` goes, None for standard
    output.

    Raises:
        UserError: when the prompts, the model, the scorer or their combination cannot work.
    """
    started = time.perf_counter()
    keep_freed_memory()
    if settings.hardware.threads is not None:
        torch.set_num_threads(settings.hardware.threads)
    answering = build_answering(settings, own)
    keeper, answered = Keeper(own, seed=settings.seed), list[AnsweredPrompt]()
    with ExitStack() as files:
        copy = open_copy(own.out, rows, files)
        samples = files.enter_context(run.samples.open("w", encoding="utf-8"))
        keeping = files.enter_context((run.path / KEPT).open("w", encoding="utf-8")) if own.keep != ALL else None
        for batch in answers(answering, own):
            answered += batch
            write((one.row() for one in batch), samples, copy if own.keep == ALL else None)
            write((sample.row() for one in batch for sample in keeper.of_one(one)), keeping, copy)
        write((sample.row() for sample in keeper.of_all(answered)), keeping, copy)
    counts = keeper.counts
    if cut := counts["kept_cut"]:
        longest = settings.rollout.max_tokens
        say(f"kept: {cut} of {counts['kept']} answers were cut at {longest} tokens; training on them teaches to stop there.")
    results = {**results_of(answered), **counts, **answering.facts, **costs(answered, answering, time.perf_counter() - started)}
    run.write_results(results)
    return results


def answers(answering: Answering, own: GenerateSettings) -> Iterator[list[AnsweredPrompt]]:
    """Answered prompts, a batch at a time; on a terminal each one's best answer is shown."""
    if own.prompts == CHAT:
        for turn in converse(answering.one, answering.stream):
            yield [turn]
        return
    for batch in answering.batches():
        if sys.stdout.isatty():
            for one in batch:
                show(one)
        yield batch


def write(rows: Iterable[Mapping[str, Any]], *files: TextIO | None) -> None:
    """Each row as a line of JSON into each of the files, on disk when this returns."""
    for row in rows:
        line = json.dumps(row, ensure_ascii=False) + "\n"
        for file in files:
            if file is not None:
                file.write(line)
                file.flush()


def open_copy(out: str | None, rows: TextIO | None, files: ExitStack) -> TextIO | None:
    """Where `out=` goes. Raises UserError when it cannot be written."""
    if out is None or out == STREAM:
        return (rows or sys.stdout) if out == STREAM else None
    try:
        return files.enter_context(Path(out).expanduser().open("w", encoding="utf-8"))
    except OSError as error:
        raise UserError(f"out = {out!r}: cannot be written ({error.strerror}). Choose another.") from None


def show(answered: AnsweredPrompt) -> None:
    """A prompt's end and its best answer, on a line each."""
    asked = answered.prompt if isinstance(answered.prompt, str) else answered.prompt[-1].content
    best = 0 if answered.scores is None else answered.best
    said = answered.completions[best] if answered.scores is None else f"{answered.completions[best]}  [{answered.scores[best]:.4g}]"
    print(f"{visible(asked[-LONGEST_PROMPT:])}\n  {visible(said.strip())}", flush=True)


def costs(answered: Sequence[AnsweredPrompt], answering: Answering, seconds: float) -> dict[str, Scalar]:
    """Counts, seconds and memory."""
    tokens = int(sum(sum(one.measured[LENGTH]) for one in answered))
    return {
        "prompts": len(answered),
        "samples": sum(len(one.completions) for one in answered),
        "tokens": tokens,
        "sampling_seconds": answering.sampling_seconds,
        "scoring_seconds": answering.scoring_seconds,
        "tokens_per_second": tokens / max(1e-9, answering.sampling_seconds),
        "seconds": seconds,
        "peak_memory_bytes": peak_memory(answering.device),
    }
