"""`python -m alignkit.report`: one page that compares runs, to open in a browser and to pass around. Loads neither torch nor models."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, final

from alignkit.errors import UserError
from alignkit.job import DONE, answer

HELP = """\
alignkit-report compares runs on one HTML page: what differs between them, results with intervals over seeds, curves to switch on and
off, heat maps of sweeps, reward against KL, samples side by side, the data, the certificate and what it cost. The page holds all it
shows: it asks no network for anything and can be passed around.

  python -m alignkit.report RUNS... [-o report.html] [--title TITLE]

Examples
  python -m alignkit.report runs/2026-11-25/10-12-00-sweep          a sweep
  python -m alignkit.report runs/dpo runs/ipo -o compare.html       runs by name, to a file of your choice
  python -m alignkit.report runs/frontier --title "Reward and KL"   an experiment: its answer stands at the top
  python -m alignkit.report wandb:entity/project                    a project on W&B's server

Arguments
  RUNS               directories of runs, folders that hold runs at any depth, W&B's offline runs, or wandb:entity/project
  -o, --output FILE  the page, default report.html; a report that is there is written over, any other file is not
  --title TITLE      what the page is called; default: what was compared

Runs that are still running, failed or were stopped are shown as such, with what they have logged so far.
"""
MARK = '<meta name="generator" content="alignkit.report">'
"""In the head of each page: files that have it may be written over."""
HEAD = 2000
"""Characters in which the mark stands."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ReportSettings:
    """What was typed."""

    places: tuple[str, ...]
    """Where runs are."""
    output: Path
    title: str | None


def main() -> int:
    """The command.

    Returns:
        The exit code: 0 done, 1 a crash, 2 wrong input, 130 and 143 interrupted.
    """
    return answer(report, sys.argv[1:])


def report(argv: Sequence[str]) -> int:
    """Read runs and write the page.

    Raises:
        UserError: on the first mistake, before runs are read wherever that can be known.
    """
    if any(argument in ("-h", "--help") for argument in argv):
        print(HELP, end="")
        return DONE
    own = read_own(argv)
    check_output(own.output)
    # pandas and SciPy: a second, which a mistyped command need not wait for.
    from alignkit.analysis.runs import load_runs
    from alignkit.reporting.experiment import read_answer
    from alignkit.reporting.page import page

    runs = load_runs(*own.places)
    answers = [told for place in own.places if (told := read_answer(Path(place).expanduser())) is not None]
    write(own.output, page(runs, answers, title=own.title or default_title(own.places)))
    size = own.output.stat().st_size / 1e6
    print(f"report: {own.output} ({len(runs.info)} run{'' if len(runs.info) == 1 else 's'}, {size:.1f} MB)", flush=True)
    return DONE


def read_own(argv: Sequence[str]) -> ReportSettings:
    """The settings that were typed.

    Raises:
        UserError: on flags that do not exist, and where no run is named.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("places", nargs="*")
    parser.add_argument("-o", "--output", default="report.html")
    parser.add_argument("--title")
    parser.error = refuse  # type: ignore[method-assign]
    typed: Namespace = parser.parse_intermixed_args(list(argv))
    if not typed.places:
        raise UserError("RUNS is missing: which ones? Type python -m alignkit.report DIR, where DIR is what a last line `run: DIR` named.")
    if not typed.output:
        raise UserError("-o is empty; must be a file. Type -o report.html.")
    output = Path(os.path.abspath(Path(typed.output).expanduser()))
    return ReportSettings(places=tuple(dict.fromkeys(typed.places)), output=output, title=typed.title)


def refuse(message: str) -> NoReturn:
    """In the place of argparse's own page of usage."""
    raise UserError(f"{message}. Type python -m alignkit.report RUNS... [-o FILE] [--title TITLE]. See --help.")


def check_output(file: Path) -> None:
    """Refuse a place that cannot be written, or holds something that is no report.

    Raises:
        UserError: with what to type.
    """
    where = f"-o = {str(file)!r}"
    if file.is_dir():
        raise UserError(f"{where}: is a folder. Type -o {file / 'report.html'}.")
    if not file.parent.is_dir():
        raise UserError(f"{where}: there is no folder {str(file.parent)!r}. Make it first, or choose another.")
    if not os.access(file.parent, os.W_OK) or (file.exists() and not os.access(file, os.W_OK)):
        raise UserError(f"{where}: cannot be written. Choose another with -o FILE.")
    if file.exists() and not is_replaceable(file):
        raise UserError(f"{where}: is there already and is no report, so it is not written over. Choose another with -o FILE.")


def is_replaceable(file: Path) -> bool:
    """Whether a file is empty or an earlier report."""
    with file.open(encoding="utf-8", errors="replace") as content:
        head = content.read(HEAD)
    return not head or MARK in head


def default_title(places: Sequence[str]) -> str:
    """The names of the first places."""
    names = [place if place.startswith("wandb:") else Path(os.path.abspath(Path(place).expanduser())).name for place in places]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def write(file: Path, text: str) -> None:
    """Write the page whole or not at all.

    Raises:
        UserError: when the disk refuses.
    """
    draft = file.with_name(f".{file.name}.part")
    try:
        # Halves of surrogate pairs, which texts of models may hold, have no bytes in UTF-8.
        draft.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
        draft.replace(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UserError(f"-o = {str(file)!r}: cannot be written ({error.strerror}). Choose another with -o FILE.") from None


if __name__ == "__main__":
    sys.exit(main())
