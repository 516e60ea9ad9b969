"""JudgeBench: which of two answers is correct."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.data.rows import text
from alignkit.evaluation.tasks.pair_questions import asked, label_of, pair
from alignkit.evaluation.tasks.task import HubPlace, Task

_FIRST_IS_BETTER: Mapping[str, bool | None] = {"A>B": True, "B>A": False, "A=B": None, "B=A": None, "tie": None}
_DOMAINS = {"mmlu-pro": "knowledge", "livebench-reasoning": "reasoning", "livebench-math": "math", "livecodebench": "coding"}
"""By how `source` begins: `mmlu-pro-computer science`."""
_WRITERS = ("gpt", "claude")
"""By how `response_model` begins; splits on the hub."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeBench(Task):
    """JudgeBench: pairs of answers of one model to a hard question, of which one is objectively correct.

        {"source": "livebench-math", "question": "1+1?", "response_model": "gpt-4o-2024-05-13", "response_A": "3", "response_B": "2",
         "label": "B>A"}

    350 pairs by GPT-4o and 270 by Claude 3.5 Sonnet. A group is a writer's pairs in one domain; what the authors report is the section
    `gpt`. Ties are left out. Tan et al. 2025 (arXiv:2410.12784).
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = tuple(
        HubPlace(hub="ScalerLab/JudgeBench", train=None, evaluation=writer, group=writer) for writer in _WRITERS
    )
    FOLDERS: ClassVar[tuple[str, ...]] = ("judge_bench", "judgebench", "JudgeBench")
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("question", "response_A", "response_B", "label"),)
    SECTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **{writer: tuple(f"{writer}_{domain}" for domain in _DOMAINS.values()) for writer in _WRITERS},
        **{domain: tuple(f"{writer}_{domain}" for writer in _WRITERS) for domain in _DOMAINS.values()},
    }
    BESIDE: ClassVar[tuple[str, ...]] = ("length_controlled",)

    def to_example(self, row: Mapping[str, object]) -> Question:
        responses = text(row, "response_A"), text(row, "response_B")
        chosen, rejected = responses if label_of(row, "label", _FIRST_IS_BETTER) else responses[::-1]
        return pair(asked(row, "question"), chosen, rejected, group=_group(row))


def _group(row: Mapping[str, object]) -> str:
    """Who wrote the answers and what the question is about; empty where the row does not say both."""
    source, model = str(row.get("source")), str(row.get("response_model"))
    domain = next((domain for beginning, domain in _DOMAINS.items() if source.startswith(beginning)), None)
    writer = next((writer for writer in _WRITERS if model.startswith(writer)), None)
    return f"{writer}_{domain}" if writer and domain else ""
