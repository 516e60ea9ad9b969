"""A prompt with its answers and what a judge said of them: a row of `judged.jsonl`, from which the labels follow.

M answers to one prompt
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, final

from alignkit.data.examples import Message
from alignkit.judges.bouts import Verdict
from alignkit.judges.judge import Comparison, Judgement
from alignkit.labelling.pool import Origin, as_json


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Revised:
    """What became of one answer."""

    final: str | None
    """The last revision that could be read, as it is joined to the prompt; None where there is none that differs from the answer."""
    principles: tuple[str, ...]
    """Names of those that it was criticised by, one a round."""
    critiques: tuple[str | None, ...]
    """One a round; None where it could not be read."""
    unread: tuple[str, ...]
    """Why critiques and revisions could not be read: `critique_cut`, `revision_unchanged`."""

    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        lists = {"principles": list(self.principles), "critiques": list(self.critiques), "unread": list(self.unread)}
        return {"final": self.final, **lists}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """What `row` made a row of."""
        return cls(final=row["final"], **{key: tuple(row[key]) for key in ("principles", "critiques", "unread")})


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedPrompt:
    """M answers to a prompt, no two of them the same."""

    prompt: str | tuple[Message, ...]
    place: str
    """Where the prompt stands: `prompts = questions.txt, line 3`."""
    completions: tuple[str, ...]
    """M texts, as `dataset=local` joins them to the prompt."""
    lengths: tuple[int, ...]
    """M, in tokens."""
    finished: tuple[bool, ...]
    """M: whether an answer ended by itself and was not cut."""
    origins: tuple[tuple[Origin, ...], ...]
    """M: where each answer comes from; empty where they were sampled."""
    drawn: int
    """Answers that there were before equal and empty ones were left out, >= M."""
    tokens: int
    """Of all that were sampled; 0 where none were."""
    judgement: Judgement
    revisions: tuple[Revised, ...] = ()
    """M, where answers are revised."""
    gold: tuple[float, ...] | None = None
    """M, of the scorer that `validation.gold` names."""

    def row(self, batch: int) -> dict[str, Any]:
        """What `judged.jsonl` holds; `batch` is the number of the batch in which it was judged."""
        return {
            "batch": batch,
            "prompt": as_json(self.prompt),
            "source": self.place,
            "completions": list(self.completions),
            "tokens": list(self.lengths),
            "finished": list(self.finished),
            "origins": [[[one.source, one.model] for one in origins] for origins in self.origins],
            "drawn": self.drawn,
            "drawn_tokens": self.tokens,
            "judgement": judgement_row(self.judgement),
            **({"revisions": [one.row() for one in self.revisions]} if self.revisions else {}),
            "gold": None if self.gold is None else list(self.gold),
        }

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """What `row` made a row of."""
        prompt = row["prompt"]
        return cls(
            prompt=prompt if isinstance(prompt, str) else tuple(Message(**message) for message in prompt),
            place=row["source"],
            completions=tuple(row["completions"]),
            lengths=tuple(row["tokens"]),
            finished=tuple(row["finished"]),
            origins=tuple(tuple(Origin(source=source, model=model) for source, model in origins) for origins in row["origins"]),
            drawn=row["drawn"],
            tokens=row["drawn_tokens"],
            judgement=judgement_of(row["judgement"]),
            revisions=tuple(Revised.of(each) for each in row.get("revisions", ())),
            gold=None if row["gold"] is None else tuple(row["gold"]),
        )


def judgement_row(judgement: Judgement) -> dict[str, Any]:
    """A judgement as JSON has it; verdicts are words."""
    return {
        "scores": list(judgement.scores),
        "comparisons": comparison_rows(judgement),
        "replies": judgement.replies,
        "unread": judgement.unread,
        "reasons": dict(judgement.reasons),
        "said": list(judgement.said),
        "by_judge": {name: judgement_row(one) for name, one in judgement.by_judge.items()},
    }


def comparison_rows(judgement: Judgement) -> list[list[Any]]:
    """`[first, second, "win", "tie"]` of each comparison: places of two answers, and the verdict on the first one as it was shown first
    and as it was shown second; null where that could not be read."""
    return [[one.first, one.second, word(one.straight), word(one.swapped)] for one in judgement.comparisons]


def judgement_of(row: Mapping[str, Any]) -> Judgement:
    """What `judgement_row` made a row of."""
    return Judgement(
        scores=tuple(row["scores"]),
        comparisons=tuple(
            Comparison(first=first, second=second, straight=verdict_of(straight), swapped=verdict_of(swapped))
            for first, second, straight, swapped in row["comparisons"]
        ),
        replies=row["replies"],
        unread=row["unread"],
        reasons=dict(row["reasons"]),
        said=tuple(row["said"]),
        by_judge={name: judgement_of(one) for name, one in row["by_judge"].items()},
    )


def word(verdict: Verdict | None) -> str | None:
    """A verdict in JSON."""
    return None if verdict is None else verdict.name.lower()


def verdict_of(written: str | None) -> Verdict | None:
    """What `word` made a word of."""
    return None if written is None else Verdict[written.upper()]
