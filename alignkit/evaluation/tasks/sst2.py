"""SST-2: is a sentence of a film review positive?"""

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
class SST2(Task):
    """`glue`, `sst2`: `sentence` and `label`, 1 for a positive one.

        {"sentence": "unflinchingly bleak and desperate ", "label": 0}

    Socher et al. 2013; prompt of lm-evaluation-harness.
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="nyu-mll/glue", subset="sst2"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("glue_sst2", "sst2")
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("sentence", "label"),)

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of two answers, negative or positive."""
        prompt = f"{text(row, 'sentence')}\nQuestion: Is this sentence positive or negative?\nAnswer:"
        words = ("negative", "positive")
        return continued(prompt, words, numbered(row, "label", words))
