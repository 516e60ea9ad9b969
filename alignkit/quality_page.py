"""What checks of the data found, as a page: after the audit's own, in its looks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from alignkit.audit_page import PLAIN_WIDTH, page_console, print_opening, print_tables
from alignkit.evaluation.intervals import Interval
from alignkit.quality.checking import Quality, Suspect
from alignkit.quality.contradictions import Contradictions
from alignkit.quality.duplicates import NEAR, Duplicates
from alignkit.quality.noise import CHANCE, FEWEST_PROMPTS, Noise
from alignkit.quality.skew import LengthSkew, PositionSkew
from alignkit.terminal import visible

LONGEST = 300
"""Characters of a text that are shown."""


def quality_text(quality: Quality, places: Mapping[int, str]) -> str:
    """All of it. `places` are the rows of training examples, as users find them."""
    console, coloured = page_console(PLAIN_WIDTH)
    with console.capture() as captured:
        console.print(
            f"\nquality of {quality.examples:,} training examples, {quality.comparisons:,} comparisons of two completions", soft_wrap=True
        )
        if not quality.comparisons:
            console.print("No completion is preferred to another one, so that there are no labels to check.", soft_wrap=True)
        print_opening(console, lines(quality, places))
        if quality.lengths:
            print_tables(console, [lengths_table(quality.lengths)], coloured=coloured)
        if quality.positions:
            print_tables(console, [positions_table(quality.positions)], coloured=coloured)
        if quality.noise is not None:
            print_noise(console, quality.noise)
        for number, suspect in enumerate(quality.suspects, start=1):
            print_suspect(console, number, suspect, places)
    return captured.get()


def lines(quality: Quality, places: Mapping[int, str]) -> Iterator[tuple[str, str]]:
    """What is said in a line."""
    if quality.identical:
        yield "identical", f"{quality.identical:,} examples were left out: chosen and rejected are the same"
    if quality.duplicates is not None:
        yield from duplicate_lines(quality.duplicates, places)
    if quality.contradictions is not None:
        yield from contradiction_lines(quality.contradictions, places)
    if quality.positions is not None and not quality.positions:
        yield "position", "not known: these data say by their columns what was chosen, and not what stood first"


def duplicate_lines(found: Duplicates, places: Mapping[int, str]) -> Iterator[tuple[str, str]]:
    """Of prompts."""
    yield "prompts", f"{found.prompts:,} different ones; {found.repeated:,} examples repeat the prompt of an earlier one letter by letter"
    near = f"; the first: {rows(found.near_examples[0], places)}" if found.near_examples else ""
    yield "near", f"{found.near:,} of them are near to an earlier one (similarity of {NEAR:g} or more){near}"
    words = "no held-out prompt is near to a training prompt"
    if found.leaked:
        row = places.get(found.leaked_examples[0][0])
        first = "" if row is None else f"; the first to {row}"
        words = f"{found.leaked:,} OF {found.held_out:,} HELD-OUT PROMPTS ARE NEAR TO A TRAINING PROMPT{first}"
    yield "leaks", words


def contradiction_lines(found: Contradictions, places: Mapping[int, str]) -> Iterator[tuple[str, str]]:
    """Of labels."""
    first = f"; the first: {rows(found.opposed_examples[0], places)}" if found.opposed_examples else ""
    words = (
        f"{found.opposed:,} of {found.compared_again:,} pairs of completions that are there more than once are labelled both ways{first}"
    )
    yield "opposed", words if found.compared_again else "no two completions are compared more than once"
    circle = f"; the first: {rows(found.circle_examples[0], places)}" if found.circle_examples else ""
    yield "circles", f"{found.circles:,} prompts whose labels run in a circle a > b > c > a{circle}"


def rows(examples: Sequence[int], places: Mapping[int, str]) -> str:
    """Where examples stand: rows of the file, or else their numbers."""
    told = list(dict.fromkeys(places.get(place, f"example {place + 1}") for place in examples))
    return " and ".join([told[0], *(row.rpartition(", ")[2] for row in told[1:])])  # the file is named once


def lengths_table(skews: Sequence[LengthSkew]) -> Table:
    """Of all data, and of each part of a mixture."""
    table = Table("length")
    for heading in ("chosen is longer", "difference, characters", "AUC of length"):
        table.add_column(heading, justify="right")
    for skew in skews:
        table.add_row(visible(skew.source) or "all", share(skew.longer), ranged(skew.difference, "+.1f"), ranged(skew.auc, ".3f"))
    return table


def positions_table(skews: Sequence[PositionSkew]) -> Table:
    """The same of positions."""
    table = Table("position")
    for heading in ("comparisons", "chosen stands first"):
        table.add_column(heading, justify="right")
    for skew in skews:
        is_sorted = " (sorted by label)" if skew.first.value in (0.0, 1.0) else ""
        table.add_row(visible(skew.source) or "all", f"{skew.comparisons:,}", share(skew.first) + is_sorted)
    return table


def print_noise(console: Console, noise: Noise) -> None:
    """The estimate, or why there is none, and what it cannot see."""
    console.print("\nlabel noise, from a model on words that predicts each label from the other prompts", soft_wrap=True)
    if not noise.accuracy.is_known:
        console.print(f"  {noise.prompts:,} prompts are too few; it takes {FEWEST_PROMPTS}.", soft_wrap=True)
        return
    console.print(f"  it predicts {share(noise.accuracy)} of the labels", soft_wrap=True)
    if not noise.tells:
        console.print(
            f"  That is not surely more than {CHANCE:.0%}: it hardly knows what is preferred here, and says nothing of wrong labels.",
            soft_wrap=True,
        )
        return
    console.print(
        f"  labels flipped by mistake: {share(noise.rate)}; by confident learning {noise.confident:.1%}, the model's own mistakes included",
        "  Flips that have nothing to do with the texts are what is estimated. A taste for length, or a rule that all labels follow, is no",
        "  mistake to it. A wide interval says that the model is sure of too few.",
        sep="\n",
        soft_wrap=True,
    )


def print_suspect(console: Console, number: int, suspect: Suspect, places: Mapping[int, str]) -> None:
    """One pair whose label looks wrong."""
    where = places.get(suspect.example, f"example {suspect.example + 1}")
    source = f", {visible(suspect.source)}" if suspect.source else ""
    console.print(f"\nsuspect {number}: {visible(where)}{source}; its label has a chance of {suspect.chance:.1%}", soft_wrap=True)
    for name, text in (("prompt", suspect.prompt), ("chosen", suspect.chosen), ("rejected", suspect.rejected)):
        shown = text.strip()
        shown = shown if len(shown) <= LONGEST else f"{shown[: LONGEST // 2]} ... {shown[-LONGEST // 2 :]}"
        console.print(f"  {name:9}{visible(shown)}", soft_wrap=True)


def share(interval: Interval) -> str:
    """`52.1 % [49.0, 55.2]`."""
    if not interval.is_known:
        return f"{interval.value:.1%}".replace("%", " %")
    return f"{100 * interval.value:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def ranged(interval: Interval, form: str) -> str:
    """A value with its interval."""
    value = format(interval.value, form)
    return f"{value} [{format(interval.low, form)}, {format(interval.high, form)}]" if interval.is_known else value
