"""RTE: does one text entail another?"""

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
class RTE(Task):
    """`glue`, `rte`, or GLUE's own files, where labels are words. Mind that 0 says true.

        {"sentence1": "Ann won.", "sentence2": "Somebody won.", "label": 0}
        {"sentence1": "Ann won.", "sentence2": "Somebody won.", "label": "entailment"}

    Dagan et al. 2006 and later rounds; prompt of lm-evaluation-harness.
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="nyu-mll/glue", subset="rte"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("glue_rte", "rte")
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("sentence1", "sentence2", "label"),)

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of two answers, True or False."""
        prompt = f"{text(row, 'sentence1')}\nQuestion: {text(row, 'sentence2')} True or False?\nAnswer:"
        return continued(prompt, ("True", "False"), numbered(row, "label", ("entailment", "not_entailment")))
