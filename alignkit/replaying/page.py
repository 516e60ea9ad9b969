"""A replayed step as a page. Texts of data are never read as markup, nor can they move the cursor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

from alignkit.audit_page import page_console, print_opening, print_tables
from alignkit.terminal import visible

if TYPE_CHECKING:  # importing it would load torch
    from alignkit.replaying.replay import Replay

PLAIN_WIDTH = 160
"""Columns of a page that goes to a file or a pipe."""
PROMPT_WIDTH = 40
"""Characters of a prompt that are shown: its end, which the completion answers."""
FINITE = "all finite"


def replay_text(replay: Replay) -> str:
    """All of it: what the run said, each micro-batch, and each example by itself, the guilty ones first."""
    console, coloured = page_console(PLAIN_WIDTH)
    with console.capture() as captured:
        print_opening(console, opening(replay))
        print_tables(console, (batches_table(replay), examples_table(replay)), coloured=coloured)
        console.print("", *notes(replay), sep="\n", soft_wrap=True)
    return captured.get()


def opening(replay: Replay) -> Iterator[tuple[str, str]]:
    """What happened then, and what happens now."""
    failure = replay.failure
    yield "step", f"{failure.step}, {failure.verdict}: {failure.why}"
    yield (
        "then",
        f"loss {failure.loss:.6g}, gradient norm {failure.norm:.6g}, learning rate {', '.join(f'{rate:.3g}' for rate in failure.rates)}",
    )
    yield "weights", replay.weights
    yield "now", f"loss {replay.loss:.6g}, gradient norm {replay.norm:.6g}"
    if replay.broken:
        more = f" and {len(replay.broken) - 3} more" if len(replay.broken) > 3 else ""
        yield "weights", f"NOT FINITE THEMSELVES: {', '.join(replay.broken[:3])}{more}"


def batches_table(replay: Replay) -> Table:
    """The micro-batches as the run cut them."""
    ranks = len(replay.failure.shares)
    table = Table("micro-batch", *["rank"] * (ranks > 1))
    for heading in ("examples", "loss then", "loss now", "gradient norm"):
        table.add_column(heading, justify="right")
    table.add_column("first not finite")
    for batch in replay.batches:
        of_rank = [str(batch.rank)] * (ranks > 1)
        numbers = (f"{batch.recorded:.6g}", f"{batch.loss:.6g}", f"{batch.norm:.6g}")
        table.add_row(str(batch.place + 1), *of_rank, str(len(batch.keys)), *numbers, batch.first or FINITE)
    return table


def examples_table(replay: Replay) -> Table:
    """The examples, each by itself."""
    rows = any(example.row for example in replay.examples)
    reference = any(example.reference_logps for example in replay.examples)
    table = Table("example", *["row"] * rows)
    for heading in ("tokens", "loss", "log-probs", *["reference"] * reference, "gradient norm"):
        table.add_column(heading, justify="right")
    table.add_column("first not finite")
    table.add_column("end of the prompt")
    for example in replay.examples:
        table.add_row(
            example.key,
            *[visible((example.row or "").rpartition(", ")[2])] * rows,
            f"{example.tokens:,}",
            f"{example.loss:.6g}",
            numbers(example.logps),
            *[numbers(example.reference_logps)] * reference,
            f"{example.norm:.6g}",
            example.first or FINITE,
            visible(example.prompt[-PROMPT_WIDTH:]),
        )
    return table


def notes(replay: Replay) -> Iterator[str]:
    """What the numbers are."""
    if replay.note:
        yield f"{replay.note}."
    yield "An example's loss is its share of the step's, in a micro-batch of its own; its log-probs are sums over each completion, nats."
    found = [*(batch.first for batch in replay.batches), *(example.first for example in replay.examples)]
    losses = [*(batch.loss for batch in replay.batches), *(example.loss for example in replay.examples)]
    if not replay.broken and not any(found) and all(map(math.isfinite, losses)):
        yield "Under these weights every number is finite. What was not came from other weights, by chance or from the machine."


def numbers(values: list[float]) -> str:
    """A few numbers in a cell."""
    return " ".join(f"{value:.5g}" for value in values)
