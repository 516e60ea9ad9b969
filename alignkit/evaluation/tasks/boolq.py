"""BoolQ: yes or no, after a passage of Wikipedia."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.data.rows import RowError, text
from alignkit.evaluation.tasks.multiple_choice import FOUNDRY, continued, from_foundry, numbered
from alignkit.evaluation.tasks.task import HubPlace, Task


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class BoolQ(Task):
    """`aps/super_glue`, `boolq`; Google's own rows; or llm-foundry's. The passage of the first begins with the title of its page; Google's
    files have that in a column, on the hub they are without it, and so is llm-foundry.

        {"passage": "Ice -- Ice is frozen water.", "question": "is ice water", "label": 1}
        {"title": "Ice", "passage": "Ice is frozen water.", "question": "is ice water", "answer": true}
        {"query": "Passage: Ice is frozen water.\\nQuestion: is ice water?", "choices": ["no", "yes"], "gold": 1}

    Clark et al. 2019 (arXiv:1905.10044); rows and prompt of lm-evaluation-harness.
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="aps/super_glue", subset="boolq"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("boolq",)
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("passage", "question", "label"), ("passage", "question", "answer"), FOUNDRY)

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of two answers, no or yes."""
        if "query" in row:
            asked, _, correct = from_foundry(row, before="Passage: ")
            passage, found, question = asked.rpartition("\nQuestion: ")
            if not found:
                raise RowError("'query' must be of the form 'Passage: ...', and in the next line 'Question: ...'.")
            question = question.removesuffix("?")
        else:
            title = str(row.get("title") or "")
            passage, question = f"{title} -- {text(row, 'passage')}" if title else text(row, "passage"), text(row, "question")
            correct = numbered(row, "answer" if "answer" in row else "label", ("false", "true"))
        return continued(f"{passage}\nQuestion: {question}?\nAnswer:", ("no", "yes"), correct)
