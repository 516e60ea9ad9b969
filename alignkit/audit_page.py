"""The audit as a page: colours on a terminal, plain markers elsewhere. Texts of data are never read as markup."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from alignkit.data.dropping import ODDITIES, REASONS
from alignkit.terminal import visible

if TYPE_CHECKING:  # importing it would load torch
    from alignkit.inspection import Ends, Inspection, LayoutCost, ShownExample

PLAIN_WIDTH = 120
"""Columns of a page that goes to a file or a pipe."""
INDENT = "    "
LEAD = 4
"""Prompt tokens that are repeated before a completion, so that the boundary is seen."""

PROMPT, TRAINED, READ, NOTE = "dim", ("black on green", "black on cyan"), "bold black on yellow", "italic"
"""Styles. Two for trained tokens, in turns, so that one is told from the next."""

EXPLAINED = {
    "rows": "read from the file",
    "no_preference": "left out on purpose: nobody preferred anything",
    **{reason: f"dropped: {words}" for reason, words in REASONS.items()},
    **ODDITIES,
    "train": "examples to train on",
    "validation": "examples held out",
    "trimmed_prompts": "prompts that lost their oldest tokens to dataset.max_length",
    "cut_completions": "completions cut at dataset.max_length: these have no terminator",
    "boundary_merges": "examples where a token spans the end of the prompt: it belongs to the completion",
}
"""Counts in the order in which they are told."""


@final
@dataclass(frozen=True, slots=True)
class Cell:
    """A piece of text that is not broken, and how it looks."""

    text: str
    style: str = ""
    ends_line: bool = False


def page_text(page: Inspection, *, longest: int) -> str:
    """All of it. `longest` is the number of tokens up to which a text is shown whole, 0 for no limit."""
    console, coloured = page_console(PLAIN_WIDTH)
    with console.capture() as captured:
        print_opening(console, opening(page))
        print_tables(console, (counts_table(page), lengths_table(page), layouts_table(page)), coloured=coloured)
        console.print("", layout_line(page), sep="\n", soft_wrap=True)
        if page.examples:
            print_cells(console, legend(coloured, head=page.head), coloured, indent="")
        for example in page.examples:
            print_example(console, example, page, coloured=coloured, longest=longest)
    return captured.get()


def page_console(plain_width: int) -> tuple[Console, bool]:
    """Where a page is printed, and whether in colours; one that goes to a file or a pipe has `plain_width` columns."""
    console = Console(highlight=False, emoji=False, markup=False)
    coloured = console.is_terminal and not console.no_color and not console.is_dumb_terminal
    if not coloured:
        console.width = plain_width
    return console, coloured


def print_opening(console: Console, lines: Iterable[tuple[str, str]]) -> None:
    """Labels, each with its line."""
    for label, line in lines:
        console.print(f"{label:11}{visible(line)}", soft_wrap=True)


def print_tables(console: Console, tables: Iterable[Table], *, coloured: bool) -> None:
    """Tables, each after an empty line."""
    for table in tables:
        table.box = box.SIMPLE_HEAD if coloured else None
        console.print(*([table] if coloured else ["", table]), sep="\n")  # the box begins with an empty line


def opening(page: Inspection) -> Iterator[tuple[str, str]]:
    """What is looked at, how texts begin and end."""
    yield "model", page.model
    yield "data", page.data
    yield "terminator", terminator_line(page.ends)
    yield "beginning", beginning_line(page.ends)


def terminator_line(ends: Ends) -> str:
    """Whether each completion ends as it should."""
    cut = ends.completions - ends.terminated
    rest = "" if cut == 0 else f"; the other {cut:,} were cut"
    early = "" if ends.early == 0 else f"; {ends.early:,} HOLD IT BEFORE THEIR END"
    return f"{ends.terminator} (id {ends.terminator_id}) ends {ends.terminated:,} of {ends.completions:,} completions{rest}{early}"


def beginning_line(ends: Ends) -> str:
    """Whether each prompt begins as it should."""
    if ends.bos is None:
        return "the tokenizer has no beginning-of-text token"
    if ends.begun == 0:
        return f"{ends.bos} (id {ends.bos_id}) begins no prompt: the tokenizer does not add it"
    others = "; the others were trimmed" if ends.begun < ends.prompts else ""
    twice = "" if ends.begun_twice == 0 else f"; {ends.begun_twice:,} BEGIN WITH TWO"
    return f"{ends.bos} (id {ends.bos_id}) begins {ends.begun:,} of {ends.prompts:,} prompts{others}{twice}"


def counts_table(page: Inspection) -> Table:
    """Every count that is not zero, with what it counts."""
    table = Table("examples")
    table.add_column("", justify="right")
    table.add_column("")
    for name, words in EXPLAINED.items():
        if page.counts.get(name):
            table.add_row(name, f"{page.counts[name]:,}", words)
    return table


def lengths_table(page: Inspection) -> Table:
    """How long the texts are."""
    table = Table("tokens")
    for heading in ("min", "median", "95 %", "max"):
        table.add_column(heading, justify="right")
    for name, spread in page.lengths.items():
        table.add_row(name, *(f"{value:,}" for value in (spread.low, spread.median, spread.high, spread.longest)))
    return table


def layouts_table(page: Inspection) -> Table:
    """What the first steps need, by layout."""
    table = Table(f"steps 1-{page.steps}")
    for heading in ("micro-batches", "rows", "tokens", "positions", "padding"):
        table.add_column(heading, justify="right")
    for cost in page.layouts:
        numbers = (cost.micro_batches, cost.rows, cost.tokens, cost.positions)
        used = ", in use" if cost.layout == page.layout else ""
        table.add_row(f"layout={cost.layout}{used}", *(f"{number:,}" for number in numbers), f"{padding(cost):.1%}")
    return table


def padding(cost: LayoutCost) -> float:
    """Part of the positions that holds no token."""
    return 1.0 - cost.tokens / cost.positions


def layout_line(page: Inspection) -> str:
    """What sharing prompts and filling rows is worth."""
    if page.why_not_packed is not None:
        return f"layout=packed is not possible, because {page.why_not_packed}."
    packed, rows = page.layouts
    return f"layout=packed computes {1 - packed.positions / rows.positions:.0%} fewer positions: prompts are shared and rows are filled."


def legend(coloured: bool, *, head: str | None) -> list[Cell]:
    """What the marks mean."""
    marks = [Cell(marked(word, coloured), style) for word, style in zip((" trained", " token"), TRAINED, strict=True)]
    if head is not None:
        marks += [Cell(" "), Cell(marked(f"read by head {head}", coloured, read=True), READ)]
    return [Cell("", ends_line=True), Cell("Token by token: "), Cell("prompt", PROMPT), Cell(" "), *marks, Cell("; \\n is a line break")]


def print_example(console: Console, example: ShownExample, page: Inspection, *, coloured: bool, longest: int) -> None:
    """One example: its prompt, and each completion after the prompt's last tokens."""
    console.print(f"\nexample {example.number} of {page.train:,}: prompt, {count(example.prompt)}")
    print_cells(console, prompt_cells(example.prompt, coloured, longest), coloured)
    for name, texts in example.completions.items():
        end = "ends with the terminator" if example.terminated[name] else "CUT, no terminator"
        console.print(f"  {name}, {count(texts)}, {end}")
        lead = [Cell(shown(text, coloured), PROMPT) for text in example.prompt[-LEAD:]]
        print_cells(console, [*lead, *completion_cells(texts, coloured, longest, is_read=page.head is not None)], coloured)


def prompt_cells(texts: Sequence[str], coloured: bool, longest: int) -> list[Cell]:
    """Tokens that the model reads and is not trained on."""
    return elide([Cell(shown(text, coloured), PROMPT, ends_line=text.endswith("\n")) for text in texts], longest)


def completion_cells(texts: Sequence[str], coloured: bool, longest: int, *, is_read: bool) -> list[Cell]:
    """Tokens that the model is trained on, the last one marked where a head reads it."""
    styles = itertools.cycle(TRAINED)
    cells = [Cell(marked(text, coloured), next(styles), ends_line=text.endswith("\n")) for text in texts]
    if is_read:
        cells[-1] = Cell(marked(texts[-1], coloured, read=True), READ)
    return elide(cells, longest)


def elide(cells: list[Cell], longest: int) -> list[Cell]:
    """Beginning and end of what has more than `longest` cells."""
    if longest == 0 or len(cells) <= longest:
        return cells
    head, tail = cells[: longest // 2], cells[len(cells) - (longest - longest // 2) :]
    return [*head, Cell(f" ... {len(cells) - longest:,} tokens ...", NOTE, ends_line=True), *tail]


def marked(text: str, coloured: bool, *, read: bool = False) -> str:
    """A trained token: colour says so, or brackets do."""
    inner = shown(text, coloured)
    if coloured:
        return inner
    return f"[*{inner}*]" if read else f"[{inner}]"


def shown(text: str, coloured: bool) -> str:
    """A token's text on one line. Without colours a bracket of the text itself has a backslash, so that it is no mark."""
    if coloured:
        return visible(text)
    return visible(text).replace("[", r"\[").replace("]", r"\]")


def count(texts: Sequence[str]) -> str:
    """`1 token`, `2 tokens`."""
    return f"{len(texts):,} token{'' if len(texts) == 1 else 's'}"


def print_cells(console: Console, cells: Sequence[Cell], coloured: bool, *, indent: str = INDENT) -> None:
    """Cells one after the other, on as many lines as they need."""
    width = (console.width if coloured else PLAIN_WIDTH) - len(indent)
    for line in lines(cells, width):
        text = Text(indent).append_text(Text.assemble(*((cell.text, cell.style if coloured else "") for cell in line)))
        console.print(text, soft_wrap=True)


def lines(cells: Sequence[Cell], width: int) -> Iterator[list[Cell]]:
    """Break between cells, after each that ends a line and before one that does not fit."""
    line: list[Cell] = []
    used = 0
    for cell in cells:
        size = cell_len(cell.text)
        if line and used + size > width:
            yield line
            line, used = [], 0
        line.append(cell)
        used += size
        if cell.ends_line:
            yield line
            line, used = [], 0
    if line:
        yield line
