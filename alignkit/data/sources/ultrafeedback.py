"""UltraFeedback: answers of many models, rated by GPT-4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.rows import DroppedRow, messages, number, reply, text
from alignkit.data.source import RowSource


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class UltraFeedback(RowSource):
    """`HuggingFaceH4/ultrafeedback_binarized` and its kin: a best and another answer, with their ratings.

    Chosen and rejected are whole chats that part at the last turn, or answers as text beside a `prompt`; both become chats. The margin
    is `score_chosen - score_rejected` (columns, or keys of `metadata`), 0 without ratings. Pairs whose ratings are equal (a tenth
    of the data) are left out, our deviation: which of two equals is called chosen is chance. Cui et al. 2023 (arXiv:2310.01377),
    binarised for Zephyr, Tunstall et al. 2023 (arXiv:2310.16944).
    """

    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("chosen", "rejected"),)

    def to_examples(self, row: Mapping[str, object]) -> list[PreferenceExample]:
        """One pair, or none when it is a tie."""
        scores = _scores(row)
        margin = 0.0 if scores is None else number(scores, "score_chosen") - number(scores, "score_rejected")
        if scores is not None and margin == 0.0:
            return []
        (prompt, chosen), (other, rejected) = (_side(row, side) for side in ("chosen", "rejected"))
        if prompt != other:
            raise DroppedRow("prompt_mismatch")
        return [PreferenceExample(prompt=prompt, completions=(chosen, rejected), margin=margin)]


def _side(row: Mapping[str, object], side: str) -> tuple[tuple[Message, ...], str]:
    if isinstance(row[side], list):
        context, answer = reply(messages(row, side), side)
        if context:
            return context, answer
    else:
        answer = text(row, side)
    return (Message(role="user", content=text(row, "prompt")),), answer


def _scores(row: Mapping[str, object]) -> Mapping[str, object] | None:
    metadata = row.get("metadata")
    if "score_chosen" in row:
        return row
    return metadata if isinstance(metadata, Mapping) and "score_chosen" in metadata else None
