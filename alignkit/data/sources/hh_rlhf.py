"""Anthropic's helpful and harmless dialogues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.dialogue import parse_dialogue
from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.rows import DroppedRow, RowError, items, numbers, text
from alignkit.data.source import RowSource


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class HHRLHF(RowSource):
    """`Anthropic/hh-rlhf`: two whole dialogues that part at the assistant's last turn.

        chosen    "\\n\\nHuman: Hi\\n\\nAssistant: Hello"
        rejected  "\\n\\nHuman: Hi\\n\\nAssistant: Go away"

    The prompt is everything up to and including the last "\\n\\nAssistant:", as in the DPO repository, but taken apart into turns, so
    that a chat template can be used. Where the DPO repository takes the prompt of the chosen side for both, rows whose prompts differ
    are dropped (`prompt_mismatch`), and so are dialogues that end with the human (`no_reply`). Bai et al. 2022 (arXiv:2204.05862).

    Collections of preference data bring the same dialogues as `text`, a list of the two, and `score`, of which the higher one is chosen.
    """

    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("chosen", "rejected"), ("text", "score"))

    def to_examples(self, row: Mapping[str, object]) -> list[PreferenceExample]:
        """One pair."""
        if "text" in row:
            row = _by_score(row)
        (prompt, chosen), (other, rejected) = (_split(text(row, side), side) for side in ("chosen", "rejected"))
        if prompt != other:
            raise DroppedRow("prompt_mismatch")
        return [PreferenceExample(prompt=prompt, completions=(chosen, rejected))]


def _by_score(row: Mapping[str, object]) -> Mapping[str, object]:
    dialogues = items(row, "text")
    if len(dialogues) != 2:
        raise RowError("'text' must be a list of two dialogues.")
    first, second = numbers(row, "score", 2)
    if first == second:
        raise DroppedRow("tie")
    return dict(zip(("chosen", "rejected") if first > second else ("rejected", "chosen"), dialogues, strict=True))


def _split(dialogue: str, side: str) -> tuple[tuple[Message, ...], str]:
    try:
        turns = parse_dialogue(dialogue)
    except ValueError as error:
        raise RowError(f"'{side}' is not a dialogue: {error}. For prompts and answers as plain text use dataset=local.") from None
    if turns[-1].role != "assistant":
        raise DroppedRow("no_reply")
    return turns[:-1], turns[-1].content
