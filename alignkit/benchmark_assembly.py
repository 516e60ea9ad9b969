"""From settings to the questions that a run is asked while it is trained."""

from __future__ import annotations

from alignkit.assembly import Job
from alignkit.data.encoding import Encoder
from alignkit.data.question_rows import read_questions
from alignkit.evaluation.asked import Asked, ask
from alignkit.evaluation.tasks.catalogue import find_task
from alignkit.models.texts import Texts
from alignkit.settings import RunSettings

LONGEST = 2**30
"""Tokens of a candidate with its prompt, for models without a limit."""


def ask_benchmarks(settings: RunSettings, job: Job) -> list[Asked]:
    """The first `validation.benchmark_questions` questions of each task of `validation.benchmarks`, written as the data of the run are.

    Raises:
        UserError: when there is no such task, or its rows cannot be had.
    """
    validation, prepared = settings.validation, job.inputs.prepared
    written = Texts.of(prepared.encoder, prepared.validation_texts[0])
    positions = getattr(job.inputs.config, "max_position_embeddings", None) or LONGEST
    asked = []
    for name in dict.fromkeys(validation.benchmarks):
        task = find_task(name, "validation.benchmarks", listed=None)
        path, count = validation.benchmark_path, validation.benchmark_questions
        rows = read_questions(task, name, path, train=False, where="validation.benchmark_path", limit=count)
        encoder = Encoder(job.inputs.tokenizer, format=written.format, max_length=positions, overflow="trim")
        asked.append(ask(name, task, rows, encoder, "validation.benchmarks"))
    return asked
