"""QNLI: does a sentence hold the answer to a question?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.data.rows import text
from alignkit.evaluation.tasks.multiple_choice import continued, numbered
from alignkit.evaluation.tasks.task import HubPlace, Task


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class QNLI(Task):
    """`glue`, `qnli`, or GLUE's own files, where labels are words. Mind that 0 says yes.

        {"question": "Who won?", "sentence": "Ann won.", "label": 0}
        {"question": "Who won?", "sentence": "Ann won.", "label": "entailment"}

    Wang et al. 2018 (arXiv:1804.07461); prompt of lm-evaluation-harness.
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="nyu-mll/glue", subset="qnli"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("glue_qnli", "qnli")
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("question", "sentence", "label"),)

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of two answers, yes or no."""
        prompt = f"{text(row, 'question')}\n{text(row, 'sentence')}\nQuestion: Does this response answer the question?\nAnswer:"
        return continued(prompt, ("yes", "no"), numbered(row, "label", ("entailment", "not_entailment")))
