"""Auto-J's Eval-P: which of two answers people prefer, in 58 scenarios."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.data.rows import text
from alignkit.evaluation.tasks.pair_questions import asked, label_of, pair
from alignkit.evaluation.tasks.task import HubPlace, Task

_FIRST_IS_BETTER: Mapping[str, bool | None] = {"0": True, "1": False, "2": None}


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class AutoJ(Task):
    """Auto-J's Eval-P: 24 pairs of answers in each of 58 scenarios, compared by people.

        {"scenario": "writing_poem", "label": 0, "prompt": "A poem!", "response 1": "Roses are red ...", "response 2": "No."}

    Label 0: the first is better, 1: the second is, 2: a tie, which is left out. Not on the hub: `evaluation.path=` is
    `data/test/testdata_pairwise.jsonl` of the authors' repository. Li et al. 2024 (arXiv:2310.05470).
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = ()
    FOLDERS: ClassVar[tuple[str, ...]] = ("autoj_pairwise", "autoj", "testdata_pairwise")
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("scenario", "prompt", "response 1", "response 2", "label"),)
    BESIDE: ClassVar[tuple[str, ...]] = ("length_controlled",)

    def to_example(self, row: Mapping[str, object]) -> Question:
        responses = text(row, "response 1"), text(row, "response 2")
        chosen, rejected = responses if label_of(row, "label", _FIRST_IS_BETTER) else responses[::-1]
        return pair(asked(row, "prompt"), chosen, rejected, group=text(row, "scenario"))
