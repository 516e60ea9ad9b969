"""MRPC: do two sentences of the news mean the same?"""

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
class MRPC(Task):
    """`glue`, `mrpc`, or Microsoft's own files; 1 says that both mean the same.

        {"sentence1": "He bought it.", "sentence2": "It was bought by him.", "label": 1}
        {"Quality": "1", "#1 String": "He bought it.", "#2 String": "It was bought by him."}

    Measured by accuracy and F1. Dolan and Brockett 2005; prompt of lm-evaluation-harness.
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="nyu-mll/glue", subset="mrpc"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("glue_mrpc", "mrpc")
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("sentence1", "sentence2", "label"), ("#1 String", "#2 String", "Quality"))
    MEASURES: ClassVar[tuple[str, ...]] = ("accuracy", "f1")

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of two answers, no or yes."""
        first, second, label = self.COLUMNS[1 if "Quality" in row else 0]
        prompt = (
            f"Sentence 1: {text(row, first)}\nSentence 2: {text(row, second)}\nQuestion: Do both sentences mean the same thing?\nAnswer:"
        )
        return continued(prompt, ("no", "yes"), numbered(row, label, ("not_equivalent", "equivalent")))
