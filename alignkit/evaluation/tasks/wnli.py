"""WNLI: does a sentence follow once its pronoun is resolved?"""

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
class WNLI(Task):
    """`glue`, `wnli`: `sentence1`, `sentence2` and `label`, 1 for entailment. The validation rows share sentences with training rows whose
    labels are the opposite, so what learns the training rows by heart is worse than chance.

        {"sentence1": "The drain is clogged with hair. It has to be cleaned.", "sentence2": "The hair has to be cleaned.", "label": 0}

    Levesque et al. 2012; prompt of lm-evaluation-harness.
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="nyu-mll/glue", subset="wnli"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("glue_wnli", "wnli")
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("sentence1", "sentence2", "label"),)

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of two answers, False or True."""
        prompt = f"{text(row, 'sentence1')}\nQuestion: {text(row, 'sentence2')} True or False?\nAnswer:"
        return continued(prompt, ("False", "True"), numbered(row, "label", ("not_entailment", "entailment")))
