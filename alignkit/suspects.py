"""Which training pairs of a run look mislabelled, named with their texts when it ends: its ledger alone holds numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignkit.analysis.ledger import KEY, SCALED, read_visits, summaries, suspicion
from alignkit.analysis.runs import RUN
from alignkit.assembly import Job, say
from alignkit.data.examples import EncodedExample
from alignkit.data.measured import with_keys
from alignkit.data.origins import find_rows
from alignkit.errors import UserError
from alignkit.ledger_file import LedgerFile
from alignkit.resolution import build_source
from alignkit.run_dir import RunDir, json_line
from alignkit.settings import RunSettings

MOST = 500
"""Pairs that are named."""
NUMBERS = ("area", SCALED, "confidence", "variability")


def name_suspects(settings: RunSettings, run: RunDir, job: Job) -> None:
    """Write `ledger/suspects.jsonl`: the pairs with the lowest area under the margin, worst first, each with its texts as the model saw
    them, its numbers, and the row of the data that it is from. Reads the data once more for that.

    A ledger that cannot be read, or holds nothing, is no reason to lose the rest of a run.
    """
    file = LedgerFile(folder=run.ledger)
    try:
        visits = read_visits(file)
    except UserError as error:
        say(f"ledger: {error}")
        return
    visits.insert(0, RUN, "")
    summary = summaries(visits)
    if summary.empty:
        return
    worst = summary.loc[suspicion(summary).sort_values(ascending=False, kind="stable").index[:MOST]]
    rows: list[dict[str, Any]] = [{**row, "rank": rank} for rank, row in enumerate(worst.to_dict("records"), start=1)]  # type: ignore[dict-item]
    keys = [int(row[KEY]) for row in rows]
    examples = dict(zip(keys, with_keys(job.data.steps.examples, keys), strict=True))
    source: Any = build_source(settings.dataset, settings.allow_code)
    places = find_rows(settings.dataset, source, keys)
    run.rows.replace(file.suspects, "".join(json_line(described(row, examples[int(row[KEY])], places, job)) for row in rows))
    say(f"ledger: {len(visits)} visits of {len(summary)} training pairs; the most suspicious are in {file.suspects}")


def described(row: Mapping[str, Any], example: EncodedExample, places: Mapping[int, str], job: Job) -> dict[str, Any]:
    """What is written of a pair: of a ranking its best and its worst completion."""
    ranks = example.ranks or tuple(range(len(example.completion_ids)))
    chosen, rejected = (example.completion_ids[ranks.index(rank)] for rank in (min(ranks), max(ranks)))
    texts = {"prompt": example.prompt_ids, "chosen": chosen, "rejected": rejected}
    return {
        KEY: int(row[KEY]),
        "rank": int(row["rank"]),
        "row": places.get(int(row[KEY])),
        "source": str(row["source"]),
        **{name: text_of(ids, job) for name, ids in texts.items()},
        "visits": int(row["visits"]),
        **{name: float(row[name]) for name in NUMBERS},
    }


def text_of(ids: Sequence[int], job: Job) -> str:
    """Tokens as a text, without special ones."""
    return str(job.inputs.tokenizer.decode(list(ids), skip_special_tokens=True))
