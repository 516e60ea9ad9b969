"""COPA: which of two alternatives is the cause, or the effect?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.data.rows import RowError, text
from alignkit.evaluation.tasks.multiple_choice import FOUNDRY, continued, from_foundry, numbered
from alignkit.evaluation.tasks.task import HubPlace, Task

_CONNECTORS = {"cause": "because", "effect": "therefore"}


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class COPA(Task):
    """`aps/super_glue`, `copa`, or llm-foundry's rows, where the question is part of the sentence.

        {"premise": "The man broke his toe.", "choice1": "He got a hole.", "choice2": "It fell.", "question": "cause", "label": 1}
        {"query": "The man broke his toe because", "choices": ["he got a hole.", "it fell."], "gold": 1}

    Roemmele et al. 2011; prompt of lm-evaluation-harness, which sets two spaces before a candidate.
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="aps/super_glue", subset="copa"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("copa",)
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("premise", "choice1", "choice2", "question", "label"), FOUNDRY)

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of two alternatives, which ends the sentence."""
        if "query" in row:
            begun, choices, correct = from_foundry(row)
        else:
            relation = text(row, "question")
            if relation not in _CONNECTORS:
                raise RowError(f"'question' is {relation!r}; must be {' or '.join(_CONNECTORS)}.")
            begun = f"{text(row, 'premise').strip()[:-1]} {_CONNECTORS[relation]}"  # without the full stop
            choices, correct = (text(row, "choice1"), text(row, "choice2")), numbered(row, "label", ("choice1", "choice2"))
        return continued(begun, [f" {choice[:1].lower()}{choice[1:]}" for choice in choices], correct)
