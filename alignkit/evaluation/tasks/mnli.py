"""MNLI: does a premise entail a hypothesis, contradict it, or neither?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.data.rows import RowError, text
from alignkit.evaluation.tasks.multiple_choice import continued, numbered
from alignkit.evaluation.tasks.task import HubPlace, Task


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class MNLI(Task):
    """`glue`, `mnli`, matched and mismatched; the authors' own files; or those of the V-information paper, with one text a row.

        {"premise": "Ann won.", "hypothesis": "Somebody won", "label": 0}
        {"sentence1": "Ann won.", "sentence2": "Somebody won", "gold_label": "entailment"}
        {"sentence1": "PREMISE: Ann won. HYPOTHESIS: Somebody won", "label": "0"}

    0 entailment, 1 neutral, 2 contradiction; rows whose annotators did not agree ("-") ask nothing. Half of the questions are on kinds of
    text that training rows are of (matched); both halves weigh the same. Williams et al. 2018 (arXiv:1704.05426); prompt of
    lm-evaluation-harness.
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (
        HubPlace(hub="nyu-mll/glue", subset="mnli", evaluation="validation_matched", group="validation_matched"),
        HubPlace(hub="nyu-mll/glue", subset="mnli", train=None, evaluation="validation_mismatched", group="validation_mismatched"),
    )
    FOLDERS: ClassVar[tuple[str, ...]] = ("glue_mnli", "glue_mnli_pvi", "mnli")
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("premise", "hypothesis", "label"),
        ("sentence1", "sentence2", "gold_label"),
        ("sentence1", "label"),
    )
    WEIGHTS: ClassVar[Mapping[str, float]] = MappingProxyType({"validation_matched": 1.0, "validation_mismatched": 1.0})

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of three answers: True, Neither, False."""
        premise, hypothesis = _sentences(row)
        hypothesis = hypothesis.strip()
        claim = hypothesis if hypothesis.endswith(".") else f"{hypothesis}."
        label = "gold_label" if "gold_label" in row else "label"
        correct = numbered(row, label, ("entailment", "neutral", "contradiction"))
        return continued(f"{premise}\nQuestion: {claim} True, False or Neither?\nAnswer:", ("True", "Neither", "False"), correct)


def _sentences(row: Mapping[str, object]) -> tuple[str, str]:
    if "premise" in row:
        return text(row, "premise"), text(row, "hypothesis")
    if "sentence2" in row:
        return text(row, "sentence1"), text(row, "sentence2")
    both = text(row, "sentence1")
    premise, found, hypothesis = both.removeprefix("PREMISE: ").partition(" HYPOTHESIS: ")
    if not found or not both.startswith("PREMISE: "):
        raise RowError("'sentence1' must be of the form 'PREMISE: ... HYPOTHESIS: ...' where there is no 'sentence2'.")
    return premise, hypothesis
