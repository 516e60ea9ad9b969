"""RM-Bench: is substance told from style?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.evaluation.tasks.pair_questions import asked, several_texts
from alignkit.evaluation.tasks.task import HubPlace, Task

STYLES = 3
"""Concise, detailed, detailed with markdown."""
_SAFETY = {"safety-refuse": 284, "safety-response": 157}
"""Questions of the two parts of a domain."""
_SUBSETS = {
    "alpacaeval": "chat",
    "bigcode/humanevalpack": "code",
    "refusals-dangerous": "safety-refuse",
    "refusals-offensive": "safety-refuse",
    "xstest-should-refuse": "safety-refuse",
    "donotanswer": "safety-refuse",
    "xstest-should-respond": "safety-response",
}
"""Domains, for rows that only say where they are from."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RMBench(Task):
    """RM-Bench: three right answers and three that are subtly wrong, each in three styles, which share their prompt.

        {"domain": "chat", "prompt": "1+1?", "chosen": ["2", "It is 2 ...", "# It is **2** ..."], "rejected": ["3", "It is 3 ...", ...]}

    Candidates are the chosen ones, then the rejected ones, each from concise to fancy. Every chosen one is compared with every rejected
    one: `easy` where the chosen one is the fancier, `normal` where both are alike, `hard` where the rejected one is. The score is the
    mean of the three over the domains chat, math, code and safety, as in the authors' `compute_accuracy`; in the two parts of safety all
    questions count the same. Ties count one half, where the authors count them as wrong. Liu et al. 2025 (arXiv:2410.16184).
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="THU-KEG/RM-Bench", train=None, evaluation="train"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("rm_bench", "rm-bench", "RM-Bench")
    SPLITS: ClassVar[tuple[str, ...]] = ("total_dataset",)
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("prompt", "chosen", "rejected"),)
    MEASURES: ClassVar[tuple[str, ...]] = ("easy", "normal", "hard")
    WEIGHTS: ClassVar[Mapping[str, float]] = {
        **dict.fromkeys(("chat", "math", "code"), 1.0),
        **{part: count / sum(_SAFETY.values()) for part, count in _SAFETY.items()},
    }
    SECTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {"safety": tuple(_SAFETY)}

    def to_example(self, row: Mapping[str, object]) -> Question:
        answers = (*several_texts(row, "chosen", STYLES), *several_texts(row, "rejected", STYLES))
        return Question(prompt=asked(row, "prompt"), candidates=answers, correct=tuple(range(STYLES)), group=_domain(row))


def _domain(row: Mapping[str, object]) -> str:
    """What a row says it is of: files of one domain have a subset instead, which is a known one in all but `math`; empty for neither."""
    domain, subset = row.get("domain"), row.get("subset")
    if isinstance(domain, str) and domain:
        return domain
    return _SUBSETS.get(subset, "math") if isinstance(subset, str) and subset else ""
