"""A benchmark as a model reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from alignkit.data.encoding import Encoder
from alignkit.data.question_encoding import EncodedQuestion, encode_questions
from alignkit.data.question_rows import Questions
from alignkit.data.questions import Question
from alignkit.errors import UserError
from alignkit.evaluation.tasks.task import Task


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A benchmark as the model reads it."""

    name: str
    task: Task
    questions: list[Question]
    """Those that could be encoded."""
    encoded: list[EncodedQuestion]
    counts: Mapping[str, int]
    """`rows` read, questions dropped by reason, `trimmed_prompts`."""


def ask(name: str, task: Task, read: Questions, encoder: Encoder, where: str) -> Asked:
    """Questions as token ids; `where` is the setting that names the task, the encoder has encoded nothing yet.

    Raises:
        UserError: when none of them can be encoded.
    """
    encoded = encode_questions(read.questions, encoder)
    counts = Counter(read.counts)
    counts.update(encoder.report.dropped)
    counts["trimmed_prompts"] += encoder.report.trimmed_prompts
    if not encoded:
        account = ", ".join(f"{reason} {count}" for reason, count in encoder.report.dropped.items())
        raise UserError(f"{where}: no question of {name} can be encoded ({account}).")
    return Asked(name=name, task=task, questions=[read.questions[one.key] for one in encoded], encoded=encoded, counts=counts)
