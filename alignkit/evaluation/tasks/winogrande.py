"""WinoGrande: which of two names fills the blank?"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.data.rows import DroppedRow, RowError, text
from alignkit.evaluation.tasks.multiple_choice import LETTERS, named, numbered, texts
from alignkit.evaluation.tasks.task import HubPlace, Task


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class WinoGrande(Task):
    """`allenai/winogrande`, `winogrande_xl`: a sentence with a blank and two options; or llm-foundry's rows.

        {"sentence": "Ann beat Bea because _ was faster.", "option1": "Ann", "option2": "Bea", "answer": "1"}
        {"context_options": ["Ann beat Bea because Ann", "Ann beat Bea because Bea"], "continuation": "was faster.", "gold": 0}

    What follows the blank is scored after each of the options (partial evaluation, Trinh and Le 2018, arXiv:1806.02847), as
    lm-evaluation-harness does: they are `given`, and so are the words that both of them begin with part of the prompt. Its space before
    the rest of the sentence is there for a full stop too. Sakaguchi et al. 2019 (arXiv:1907.10641).
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="allenai/winogrande", subset="winogrande_xl"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("winogrande",)
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("sentence", "option1", "option2", "answer"),
        ("context_options", "continuation", "gold"),
    )

    def to_example(self, row: Mapping[str, object]) -> Question:
        """The same ending after two beginnings."""
        if "context_options" in row:
            begun, ending = texts(row, "context_options"), text(row, "continuation")
            correct = numbered(row, "gold", LETTERS[: len(begun)])
        else:
            before, blank, ending = text(row, "sentence").partition("_")
            if not blank:
                raise RowError(f"'sentence' is {row['sentence']!r}; must hold a blank, '_'.")
            begun = tuple(before + text(row, option) for option in ("option1", "option2"))
            correct = named(row, "answer", ("1", "2"))
        if not ending.strip():
            raise DroppedRow("empty")
        bare = [beginning.rstrip() for beginning in begun]
        shared = _shared_words(bare)
        return Question(
            prompt=bare[0][:shared],
            given=tuple(beginning[shared:] for beginning in bare),
            candidates=tuple(f"{beginning[len(stem) :]} {ending.strip()}" for beginning, stem in zip(begun, bare, strict=True)),
            correct=(correct,),
        )


def _shared_words(beginnings: Sequence[str]) -> int:
    """How many characters all of them begin with, in whole words, each with the space before it; the last word of each is its own."""
    words = zip(*(re.findall(r"\s*\S+", beginning)[:-1] for beginning in beginnings), strict=False)
    return sum(len(same[0]) for same in itertools.takewhile(lambda several: len(set(several)) == 1, words))
