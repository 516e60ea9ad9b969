"""LLMBar: which of two answers follows the instruction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.data.rows import text
from alignkit.evaluation.tasks.pair_questions import asked, label_of, pair
from alignkit.evaluation.tasks.task import HubPlace, Task

_FIRST_IS_BETTER: Mapping[str, bool | None] = {"1": True, "2": False}
_SETS = {
    "llmbar_natural": "Natural",
    "llmbar_adver_neighbor": "Adversarial_Neighbor",
    "llmbar_adver_gptinst": "Adversarial_GPTInst",
    "llmbar_adver_gptout": "Adversarial_GPTOut",
    "llmbar_adver_manual": "Adversarial_Manual",
}
"""Splits on the hub, by group."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LLMBar(Task):
    """LLMBar: pairs of answers of which one follows the instruction and the other, in the adversarial sets, looks better.

        {"input": "Name a prime.", "output_1": "9 is a lovely number.", "output_2": "7", "label": 2}

    A natural set of 100 pairs and four adversarial ones (134, 92, 47 and 46 pairs); all pairs count the same. A file holds one set, and
    of several files each is a group; those in a folder are the ones called `llmbar...`. Zeng et al. 2024 (arXiv:2310.07641).
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = tuple(
        HubPlace(hub="princeton-nlp/LLMBar", subset="LLMBar", train=None, evaluation=split, group=group) for group, split in _SETS.items()
    )
    FOLDERS: ClassVar[tuple[str, ...]] = ("llmbar", "LLMBar")
    SPLITS: ClassVar[tuple[str, ...]] = ("llmbar",)
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("input", "output_1", "output_2", "label"),)
    SECTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "natural": tuple(group for group in _SETS if "adver" not in group),
        "adversarial": tuple(group for group in _SETS if "adver" in group),
    }
    BESIDE: ClassVar[tuple[str, ...]] = ("length_controlled",)

    def to_example(self, row: Mapping[str, object]) -> Question:
        outputs = text(row, "output_1"), text(row, "output_2")
        chosen, rejected = outputs if label_of(row, "label", _FIRST_IS_BETTER) else outputs[::-1]
        return pair(asked(row, "input"), chosen, rejected)
