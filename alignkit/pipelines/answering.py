"""The answer of an experiment, from the runs in its directory: written into `answer/` there, and printed."""

from __future__ import annotations

import importlib
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from alignkit.analysis.answer import FOLDER, Answer, cell, write_answer
from alignkit.analysis.runs import load_runs
from alignkit.pipelines.experiment import ANSWERS, Experiment
from alignkit.summary import print_table
from alignkit.terminal import visible


def give_answer(experiment: Experiment, folder: Path) -> None:
    """Answer the question of an experiment by what its directory holds.

    Raises:
        UserError: when the runs cannot answer it, because too few of them are finished.
    """
    answer: Answer = importlib.import_module(f"{ANSWERS}.{experiment.answer}").answer(load_runs(folder))
    write_answer(answer, folder, experiment.question)
    print(f"\n{experiment.question}")
    print_table(table_of(answer))
    for finding in answer.findings:
        print(f"- {visible(finding)}")
    print(f"answer: {folder / FOLDER}", flush=True)


def table_of(answer: Answer) -> Table:
    """The answer's table for a terminal."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in answer.table:
        table.add_column(Text(visible(str(column))), justify="left" if answer.table[column].dtype == object else "right")
    for row in answer.table.itertuples(index=False, name=None):
        table.add_row(*(Text(visible(cell(value))) for value in row))
    return table
