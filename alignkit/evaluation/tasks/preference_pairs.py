"""Any file of preferences, as a benchmark."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.data.rows import RowError
from alignkit.data.sources.local import Local
from alignkit.evaluation.tasks.pair_questions import pair
from alignkit.evaluation.tasks.task import HubPlace, Task

_SOURCE = Local(columns={}, ratings=[])


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PreferencePairs(Task):
    """Is the chosen answer scored higher than the rejected one? For files that `dataset=local` trains on.

        {"prompt": "1+1?", "chosen": " 2", "rejected": " 3"}
        {"chosen": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}], "rejected": [...]}

    Texts are joined to the prompt as they stand, lists of messages are dialogues. Where there is a column `subset`, its texts are the
    groups.
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = ()
    FOLDERS: ClassVar[tuple[str, ...]] = ("preference_pairs", "pairs")
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("chosen", "rejected"),)
    BESIDE: ClassVar[tuple[str, ...]] = ("length_controlled",)

    def to_example(self, row: Mapping[str, object]) -> Question:
        (example,) = _SOURCE.to_examples(row)
        if "completions" in row or len(example.completions) != 2:
            raise RowError("holds no pair; must have the columns chosen and rejected.")
        chosen, rejected = example.completions
        subset = row.get("subset")
        return pair(example.prompt, chosen, rejected, group=subset if isinstance(subset, str) else "")

    def missing(self, found: Collection[str]) -> tuple[str, ...]:
        """Columns of a pair, and `prompt` where it seems to be there under a misspelt name."""
        return tuple(dict.fromkeys((*Task.missing(self, found), *_SOURCE.missing(found))))
