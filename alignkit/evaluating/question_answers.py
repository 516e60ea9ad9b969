"""`questions.jsonl` of an evaluation, read again: what its scorers said of each question."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

import numpy as np

from alignkit.data.questions import Question
from alignkit.errors import UserError
from alignkit.evaluation.grading import Graded
from alignkit.evaluation_settings import LOGP_SUM


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionAnswers:
    """Scores by task and question."""

    file: Path
    rows: Mapping[tuple[str, str], Mapping[str, Any]]
    """By task and digest of the question."""

    @classmethod
    def read(cls, file: Path) -> Self:
        """What `alignkit.evaluate` wrote.

        Raises:
            UserError: when it cannot be read.
        """
        rows = {}
        try:
            with file.open(encoding="utf-8") as lines:
                for line in lines:
                    row = json.loads(line)
                    rows[row["task"], row["question"]] = row
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"against: {file} cannot be read ({type(error).__name__}: {error}).") from None
        return cls(file=file, rows=rows)

    def check_shared(self, asked: Mapping[str, Sequence[Question]], scorers: Sequence[str]) -> None:
        """Refuse an evaluation in which none of these questions, by task, was asked of any of these scorers.

        Raises:
            UserError: saying what it holds.
        """
        if any(self.graded(task, questions, scorer) for task, questions in asked.items() for scorer in scorers):
            return
        tasks = dict.fromkeys(task for task, _ in self.rows)
        names = dict.fromkeys(name for row in self.rows.values() for name in row["scores"])
        raise UserError(
            f"against: {self.file} holds none of these questions by these scorers, so that nothing can be compared; it holds "
            f"{', '.join(tasks) or 'no task'} by {', '.join(names) or 'nobody'}."
        )

    def graded(self, task: str, questions: Sequence[Question], scorer: str) -> tuple[list[int], Graded] | None:
        """Places of the questions that were asked there too, and what that scorer said of them; None where it said nothing."""
        found = [(place, row) for place, one in enumerate(questions) if (row := self.rows.get((task, one.digest))) is not None]
        found = [(place, row) for place, row in found if scorer in row["scores"]]
        if not found:
            return None
        places = [place for place, _ in found]
        return places, Graded(
            questions=tuple(questions[place] for place in places),
            scores=tuple(np.array(row["scores"][scorer], dtype=np.float64) for _, row in found),
            lengths=tuple(np.array(row["tokens"], dtype=np.int64) for _, row in found),
            log_probabilities=scorer == LOGP_SUM,
        )
