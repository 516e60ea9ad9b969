"""HellaSwag: how does a description go on?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.data.rows import text
from alignkit.evaluation.tasks.multiple_choice import FOUNDRY, LETTERS, continued, from_foundry, listed, numbered, texts
from alignkit.evaluation.tasks.task import HubPlace, Task


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class HellaSwag(Task):
    """`Rowan/hellaswag`: what is going on, its first sentence, the beginning of the next one, and four endings; or llm-foundry's rows.

        {"activity_label": "Pole vault", "ctx_a": "A man runs.", "ctx_b": "he", "endings": ["jumps.", ...], "label": "0"}
        {"query": "Pole vault: A man runs. He", "choices": ["jumps.", ...], "gold": 0}

    Wrong endings are a language model's. Zellers et al. 2019 (arXiv:1905.07830); cleaned as lm-evaluation-harness does.
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="Rowan/hellaswag"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("hellaswag",)
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("activity_label", "ctx_a", "ctx_b", "endings", "label"), FOUNDRY)
    LISTS: ClassVar[bool | None] = False

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of the endings."""
        if "query" in row:
            begun, endings, correct = from_foundry(row)
        else:
            begun = _cleaned(f"{text(row, 'activity_label')}: {text(row, 'ctx_a')} {text(row, 'ctx_b').capitalize()}")
            raw = texts(row, "endings")
            endings, correct = tuple(map(_cleaned, raw)), numbered(row, "label", LETTERS[: len(raw)])
        if self.lists:
            return listed(f"{begun.rstrip()}\nQuestion: Which ending makes the most sense?", endings, correct)
        return continued(begun, endings, correct)


def _cleaned(words: str) -> str:
    """Without the marks in brackets that rows from WikiHow have. The order of these steps is the harness's: they may leave a space."""
    words = re.sub(r"\[.*?\]", "", words.strip().replace(" [title]", ". "))
    return words.replace("  ", " ")
