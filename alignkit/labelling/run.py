"""A label run from its settings to its last file: answers, judgements, and the rows that follow from them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO, final

import torch

from alignkit.assembly import say
from alignkit.generation.run import open_copy
from alignkit.hardware import keep_freed_memory, peak_memory
from alignkit.label_settings import PAIRS, LabelSettings
from alignkit.labelling.bench import Bench, open_bench, read_ground
from alignkit.labelling.choosing import chosen_answers
from alignkit.labelling.config import Labelling
from alignkit.labelling.files import JUDGED, LABELS
from alignkit.labelling.forms import label_rows
from alignkit.labelling.journal import Journal, json_lines, write_whole
from alignkit.labelling.judged import JudgedPrompt
from alignkit.labelling.judging import judged_batch, open_asking
from alignkit.labelling.results import Pair, check_some_labels, results_of
from alignkit.labelling.sources import WEIGHTS, check_sources, note_sources, provenance_of_run
from alignkit.precomputation import progress_bar
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings


@final
class Labels:
    """The rows of `labels.jsonl`, which follow from what was judged, and what made none."""

    def __init__(self, own: LabelSettings, common: dict[str, Any]) -> None:
        self.own = own
        self.common = common
        """Provenance that all rows share."""
        self.judged: list[JudgedPrompt] = []
        self.pairs: list[Pair] = []
        self.count = 0
        self.left_out: Counter[str] = Counter()

    def add(self, batch: Sequence[JudgedPrompt], number: int) -> list[dict[str, Any]]:
        """The rows of one more batch."""
        rows: list[dict[str, Any]] = []
        for one in batch:
            found, left_out = label_rows(one, self.own)
            self.left_out += left_out
            for row in found:
                own = row.pop("provenance")
                rows.append(row | {"provenance": {**self.common, "batch": number, **own}})
                if self.own.form == PAIRS:
                    chosen, rejected = own["answers"]
                    self.pairs.append((one, chosen, rejected))
        self.judged += batch
        self.count += len(rows)
        return rows


def label(settings: RunSettings, own: LabelSettings, run: RunDir, *, rows: TextIO | None = None) -> dict[str, Scalar]:
    """Judge what the settings say and write `judged.jsonl`, `labels.jsonl` and `results.json`. Returns what the last one holds.

    What an earlier process left of the same run is kept and gone on from. Rows are on the disk as soon as their batch of `batch.pairs`
    prompts is judged. `rows` is where `out=-` goes, None for standard output.

    Raises:
        UserError: when the prompts, the model, the judge or their combination cannot work.
    """
    started = time.perf_counter()
    keep_freed_memory()
    if settings.hardware.threads is not None:
        torch.set_num_threads(settings.hardware.threads)
    ground = read_ground(settings, own)
    check_sources(run, ground.digests)
    bench = open_bench(ground, lambda weights: check_sources(run, {WEIGHTS: weights}))
    weights = {} if bench.fingerprint is None else {WEIGHTS: bench.fingerprint}
    note_sources(run, Labelling(settings=settings, own=own), {**ground.digests, **weights})
    labels = Labels(own, provenance_of_run(settings, own, bench.fingerprint))
    judging_seconds = judge_all(bench, labels, run)
    copy_to(own.out, run.path / LABELS, rows)
    results = {
        **results_of(
            labels.judged,
            labels=labels.count,
            earlier=len(ground.earlier.lines),
            left_out=ground.left_out + labels.left_out,
            pairs=labels.pairs,
        ),
        "pool": ground.pool,
        "trimmed_prompts": ground.trimmed,
        "cut_answers": ground.cut,
        **weights,
        "tokens": sum(one.tokens for one in labels.judged),
        "judging_seconds": judging_seconds,
        "seconds": time.perf_counter() - started,
        "peak_memory_bytes": peak_memory(bench.device),
    }
    run.write_results(results)
    check_some_labels(results)
    return results


def judge_all(bench: Bench, labels: Labels, run: RunDir) -> float:
    """Judge what is not judged yet, batch by batch. Returns the seconds that judging took."""
    ground, journal, written = bench.ground, Journal(run.path / JUDGED), Journal(run.path / LABELS)
    batches = chosen_answers(bench, run)
    done = journal.whole_batches(batches.sizes)
    kept = [row for number, rows in enumerate(done) for row in labels.add([JudgedPrompt.of(each) for each in rows], number)]
    write_whole(written.path, "".join(ground.earlier.lines) + json_lines(kept))
    if done:
        say(f"{len(labels.judged)} prompts are judged already.")
    seconds, total = 0.0, sum(batches.sizes)
    ask = open_asking(bench) if len(done) < len(batches.sizes) else None
    with progress_bar("judging", total, shown=ground.settings.callbacks.progress_bar) as advance:
        advance(len(labels.judged))
        for number in range(len(done), len(batches.sizes)):
            assert ask is not None
            answered = batches.answers(number)
            begun = time.perf_counter()
            judged = judged_batch(bench, ask, answered)
            seconds += time.perf_counter() - begun
            journal.append([one.row(number) for one in judged])
            written.append(labels.add(judged, number))
            advance(len(judged))
    return seconds


def copy_to(out: str | None, labels: Path, rows: TextIO | None) -> None:
    """Copy all labels to where `out=` says. Raises UserError when it cannot be written."""
    with ExitStack() as files:
        copy = open_copy(out, rows, files)
        if copy is not None:
            copy.write(labels.read_text(encoding="utf-8"))
            copy.flush()
