"""CoLA: is a sentence of English acceptable?"""

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
class CoLA(Task):
    """`glue`, `cola`, and the public release with the same columns: `sentence` and `label`, 1 for an acceptable sentence.

        {"sentence": "The sailors rode the breeze clear of the rocks.", "label": 1}

    Measured by Matthews' correlation. Warstadt et al. 2018 (arXiv:1805.12471); prompt of lm-evaluation-harness.
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="nyu-mll/glue", subset="cola"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("glue_cola", "cola")
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("sentence", "label"),)
    MEASURES: ClassVar[tuple[str, ...]] = ("matthews",)

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of two answers, no or yes."""
        prompt = f"{text(row, 'sentence')}\nQuestion: Does this sentence make sense?\nAnswer:"
        return continued(prompt, ("no", "yes"), numbered(row, "label", ("unacceptable", "acceptable")))
