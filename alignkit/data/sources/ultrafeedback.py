"""UltraFeedback: answers of many models, rated by GPT-4."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.examples import OVERALL, Message, PreferenceExample
from alignkit.data.forms import scored
from alignkit.data.rows import DroppedRow, RowError, items, messages, number, reply, text
from alignkit.data.source import RowSource

ATTRIBUTES = ("helpfulness", "honesty", "instruction_following", "truthfulness")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class UltraFeedback(RowSource):
    """`openbmb/UltraFeedback`, four rated answers, or `HuggingFaceH4/ultrafeedback_binarized` and its kin, a best and another one.

    - `instruction` and `completions`: answers ranked by `overall_score` (1 to 10, the attribute `overall`), with ratings of
      `helpfulness`, `honesty`, `instruction_following` and `truthfulness` (1 to 5) out of their `annotations`.
    - `chosen` and `rejected`: whole chats that part at the last turn, or answers as text beside a `prompt`; both become chats. The
      margin is `score_chosen - score_rejected` (columns, or keys of `metadata`), 0 without ratings. Pairs whose ratings are equal (a
      tenth of the data) are left out, our deviation: which of two equals is called chosen is chance.

    Cui et al. 2023 (arXiv:2310.01377), binarised for Zephyr, Tunstall et al. 2023 (arXiv:2310.16944).
    """

    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("chosen", "rejected"), ("instruction", "completions"))

    def to_examples(self, row: Mapping[str, object]) -> list[PreferenceExample]:
        """One pair, or none when it is a tie; or one example with all answers."""
        if "completions" in row:
            return [_answers(row)]
        scores = _scores(row)
        ratings = () if scores is None else tuple(number(scores, f"score_{side}") for side in ("chosen", "rejected"))
        if len(set(ratings)) == 1:
            return []
        (prompt, chosen), (other, rejected) = (_side(row, side) for side in ("chosen", "rejected"))
        if prompt != other:
            raise DroppedRow("prompt_mismatch")
        margin = ratings[0] - ratings[1] if ratings else 0.0
        overall = {OVERALL: ratings} if ratings else {}
        return [PreferenceExample(prompt=prompt, completions=(chosen, rejected), margin=margin, ratings=overall)]


def _answers(row: Mapping[str, object]) -> PreferenceExample:
    if row["completions"] == []:
        raise DroppedRow("no_reply")
    given = items(row, "completions")
    answers = [answer for answer in given if isinstance(answer, Mapping)]
    if len(answers) < len(given):
        raise RowError("'completions' must be a list of objects with response, overall_score and annotations.")
    if any(answer.get("overall_score") is None for answer in answers):
        raise DroppedRow("no_rating")
    ratings = {attribute: tuple(_rating(answer, attribute) for answer in answers) for attribute in ATTRIBUTES}
    prompt = (Message(role="user", content=text(row, "instruction")),)
    scores = [number(answer, "overall_score") for answer in answers]
    return scored(prompt, [text(answer, "response") for answer in answers], scores, ratings)


def _rating(answer: Mapping[str, object], attribute: str) -> float:
    """A rating, NaN where the annotator gave none ("N/A")."""
    annotations = answer.get("annotations")
    annotation = annotations.get(attribute) if isinstance(annotations, Mapping) else None
    rating = annotation.get("Rating") if isinstance(annotation, Mapping) else None
    return math.nan if rating in (None, "N/A") else number({attribute: rating}, attribute)


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
