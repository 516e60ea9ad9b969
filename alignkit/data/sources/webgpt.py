"""WebGPT: answers to questions, compared by people in degrees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.forms import scored
from alignkit.data.rows import DroppedRow, RowError, items, number, numbers, text
from alignkit.data.source import RowSource

_HUMAN, _ASSISTANT = "## Human:\n", "## Assistant:\n"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class WebGPT(RowSource):
    """`openai/webgpt_comparisons`: a question, two answers and how much better one of them is, -1 to 1 (the other has the negative).

        {"question": {"full_text": "Why?"}, "answer_0": "So [1].", "score_0": 0.5, "answer_1": "Thus.", "score_1": -0.5}
        {"text": ["## Human:\\nWhy?\\n\\n## Assistant:\\nSo [1].", "## Human:\\nWhy?..."], "score": [1.5, 0.5]}

    The second form is that of the data's later collections, its scores are one higher. A quarter of the rows are ties (equal scores);
    they stay, for objectives that read ratings or labels. Nakano et al. 2021 (arXiv:2112.09332).
    """

    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("question", "answer_0", "answer_1", "score_0", "score_1"), ("text", "score"))

    def to_examples(self, row: Mapping[str, object]) -> list[PreferenceExample]:
        """One pair, which may be a tie."""
        if "text" not in row:
            question = row["question"]
            asked = text(question, "full_text") if isinstance(question, Mapping) else text(row, "question")
            answers = [text(row, f"answer_{side}") for side in (0, 1)]
            return [_compared(asked, answers, [number(row, f"score_{side}") for side in (0, 1)])]
        dialogues = [_split(dialogue) for dialogue in items(row, "text")]
        if len({asked for asked, _ in dialogues}) > 1:
            raise DroppedRow("prompt_mismatch")
        return [_compared(dialogues[0][0], [answer for _, answer in dialogues], numbers(row, "score", len(dialogues)))]


def _compared(question: str, answers: list[str], scores: list[float] | tuple[float, ...]) -> PreferenceExample:
    return scored((Message(role="user", content=question.strip()),), answers, scores)


def _split(dialogue: object) -> tuple[str, str]:
    question, marker, answer = str(dialogue).removeprefix(_HUMAN).rpartition(_ASSISTANT)
    if not isinstance(dialogue, str) or not dialogue.startswith(_HUMAN) or not marker:
        raise RowError(f"'text' must hold texts of the form {_HUMAN + '...' + _ASSISTANT + '...'!r}.")
    return question, answer
