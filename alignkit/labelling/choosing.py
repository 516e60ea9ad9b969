"""Which prompts are labelled: all of them, some by chance, or those that a scorer is least sure of.   E prompts   C completions"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from alignkit.generation.answering import products
from alignkit.label_settings import ALL, UNCERTAIN, LabelSettings
from alignkit.labelling.answering import Answered
from alignkit.labelling.bench import Bench
from alignkit.labelling.files import POOL
from alignkit.labelling.forms import ONE_ANSWER
from alignkit.labelling.journal import Journal
from alignkit.labelling.pool import Entry
from alignkit.labelling.querying import Pool, choose
from alignkit.precomputation import progress_bar
from alignkit.run_dir import RunDir
from alignkit.scorers.scorer import Scores


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Batches:
    """The answers that are judged, batch by batch."""

    sizes: tuple[int, ...]
    """Prompts of each batch."""
    answers: Callable[[int], list[Answered]]
    """Those of a batch, by its number: the same whenever it is asked for."""


def batch_sizes(count: int, size: int) -> tuple[int, ...]:
    """Sizes of the batches of so many prompts: all of one size but for the last."""
    return tuple(min(size, count - start) for start in range(0, count, size))


def chosen_answers(bench: Bench, run: RunDir) -> Batches:
    """The answers to the prompts that `query=` chooses. Where that goes by scores, all prompts of the pool are answered and scored first,
    and kept in `pool.jsonl`.

    Raises:
        UserError: when the pool does not hold so many prompts, or the scorer cannot say what is uncertain.
    """
    ground, own, size = bench.ground, bench.ground.own, bench.ground.settings.batch.pairs
    if own.query in UNCERTAIN:
        chosen = most_uncertain(bench, run)
        batches = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        return Batches(sizes=tuple(map(len, batches)), answers=batches.__getitem__)
    entries = by_chance(ground.entries, own, ground.settings.seed) if own.query != ALL else ground.entries[: own.count]

    def answers(number: int) -> list[Answered]:
        return bench.answerer(entries[number * size : (number + 1) * size], number)

    return Batches(sizes=batch_sizes(len(entries), size), answers=answers)


def by_chance(entries: Sequence[Entry], own: LabelSettings, seed: int) -> list[Entry]:
    """Some of the entries. Raises UserError when there are not so many."""
    assert own.count is not None
    pool = Pool(counts=[len(entry.example.completions) for entry in entries], scores=None)
    return [entries[place] for place in choose(pool, own.query, own.count, seed)]


def most_uncertain(bench: Bench, run: RunDir) -> list[Answered]:
    """The prompts of which the scorer is least sure, the least sure first, with the answers that it was asked about."""
    own = bench.ground.own
    assert own.count is not None
    answered, scores = scored_pool(bench, Journal(run.path / POOL))
    several = [place for place, one in enumerate(answered) if len(one.candidates.completions) > 1]
    bench.ground.left_out[ONE_ANSWER] += len(answered) - len(several)
    totals = [total for place in several for total in scores[place]["scores"]]
    names = scores[several[0]]["parts"] if several else {}
    parts = {name: torch.tensor([value for place in several for value in scores[place]["parts"][name]]) for name in names}
    pool = Pool(
        counts=[len(answered[place].candidates.completions) for place in several], scores=Scores(total=torch.tensor(totals), parts=parts)
    )
    return [answered[several[place]] for place in choose(pool, own.query, own.count, bench.ground.settings.seed)]


@torch.no_grad()
def scored_pool(bench: Bench, journal: Journal) -> tuple[list[Answered], list[Mapping[str, Any]]]:
    """The answers to all prompts of the pool, and of each prompt a row with `scores` and `parts`; what is in the journal is read, and the
    rest added to it."""
    ground, size = bench.ground, bench.ground.settings.batch.pairs
    entries, sizes = ground.entries, batch_sizes(len(ground.entries), size)
    done = journal.whole_batches(sizes)
    rows: list[Mapping[str, Any]] = [row for batch in done for row in batch]
    answered = [Answered.of_row(row, entry) for row, entry in zip(rows, entries, strict=False)]
    with progress_bar("scoring the pool", len(entries), shown=ground.settings.callbacks.progress_bar) as advance:
        advance(len(rows))
        for number in range(len(done), len(sizes)):
            batch = bench.answerer(entries[number * size : (number + 1) * size], number)
            added = scored_rows(bench, batch, number)
            journal.append(added)
            answered += batch
            rows += added
            advance(len(batch))
    return answered, rows


def scored_rows(bench: Bench, batch: Sequence[Answered], number: int) -> list[dict[str, Any]]:
    """Rows of `pool.jsonl`."""
    assert bench.scorer is not None
    with products(bench.ground.settings, bench.device):
        examples = [one.candidates.example for one in batch if one.candidates.completions]
        totals, parts = bench.scored(bench.scorer, examples) if examples else ([], {})
    rows, start = [], 0
    for one in batch:
        end = start + len(one.candidates.completions)
        own = {name: values_of(values)[start:end] for name, values in parts.items()}
        rows.append({**one.row(number), "scores": totals[start:end], "parts": own})
        start = end
    return rows


def values_of(values: Tensor) -> list[float]:
    """[C] as JSON has it."""
    return [float(value) for value in values.tolist()]
