"""From judgements to rows that `dataset=local` reads: pairs, rankings, scores, answers that are wanted or not.

Pure, so that rows can be made again from `judged.jsonl`. What makes no row is counted by reason.

M answers to one prompt
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from alignkit.data.forms import ranks_of
from alignkit.label_settings import PAIRS, RANKINGS, REVISIONS, SCORES, UNPAIRED, LabelSettings
from alignkit.labelling.judged import JudgedPrompt, comparison_rows
from alignkit.labelling.pool import as_json

ONE_ANSWER = "one_answer"
UNREAD = "unread"
TIE = "tie"
BELOW_MIN_GAP = "below_min_gap"
UNCHANGED = "unchanged"
NO_ANSWER = "no_answer"
REVISION_UNCHANGED = "revision_unchanged"
"""Why a revision was not read that is no fault of reading."""
WHY: Mapping[str, str] = {
    ONE_ANSWER: "fewer than two different answers to a prompt",
    UNREAD: "the judge's reply could not be read",
    TIE: "the judge finds no difference",
    BELOW_MIN_GAP: "scores less than min_gap apart",
    UNCHANGED: "the critic leaves the answer as it is",
    NO_ANSWER: "no answer that is not blank",
}
"""Why there is no row, in words."""

Rows = tuple[list[dict[str, Any]], Counter[str]]
"""Rows, and by reason how many there are not."""


def label_rows(judged: JudgedPrompt, own: LabelSettings) -> Rows:
    """The rows of a prompt, each with `provenance` of what was judged. Answers that the judge was not understood on have none."""
    known = [place for place, score in enumerate(judged.judgement.scores) if score is not None]
    return FORMS[own.form](judged, known, own)


def pair(judged: JudgedPrompt, known: Sequence[int], own: LabelSettings) -> Rows:
    """`{"prompt", "chosen", "rejected", "chosen_rating", "rejected_rating"}`: the best answer over the worst, the first ones on ties."""
    if (reason := too_few(judged, known)) is not None:
        return [], Counter([reason])
    scores = scores_of(judged)
    chosen, rejected = max(known, key=scores.__getitem__), min(known, key=scores.__getitem__)
    gap = scores[chosen] - scores[rejected]
    if gap == 0 or gap < own.least_gap:
        return [], Counter([TIE if gap == 0 else BELOW_MIN_GAP])
    row = {
        "prompt": as_json(judged.prompt),
        "chosen": judged.completions[chosen],
        "rejected": judged.completions[rejected],
        "chosen_rating": scores[chosen],
        "rejected_rating": scores[rejected],
    }
    return [row | provenance(judged, [chosen, rejected])], Counter()


def ranking(judged: JudgedPrompt, known: Sequence[int], own: LabelSettings) -> Rows:
    """`{"prompt", "completions", "ranks"}`, best first: 0 is the best rank, and equal ones are a tie."""
    if (reason := too_few(judged, known)) is not None:
        return [], Counter([reason])
    scores = scores_of(judged)
    places = sorted(known, key=scores.__getitem__, reverse=True)
    ranks = ranks_of([scores[place] for place in places])
    if ranks[-1] == 0:
        return [], Counter([TIE])
    row = {"prompt": as_json(judged.prompt), "completions": [judged.completions[place] for place in places], "ranks": list(ranks)}
    return [row | provenance(judged, places)], Counter()


def scored(judged: JudgedPrompt, known: Sequence[int], own: LabelSettings) -> Rows:
    """`{"prompt", "completions", "scores"}`: what the judge said of each answer, equal or not."""
    if not known:
        return [], Counter([UNREAD if judged.completions else NO_ANSWER])
    scores = scores_of(judged)
    row = {
        "prompt": as_json(judged.prompt),
        "completions": [judged.completions[place] for place in known],
        "scores": [scores[place] for place in known],
    }
    return [row | provenance(judged, known)], Counter()


def unpaired(judged: JudgedPrompt, known: Sequence[int], own: LabelSettings) -> Rows:
    """`{"prompt", "completion", "label"}` of each answer that is not at the threshold: true above it, false below."""
    if not judged.completions:
        return [], Counter([NO_ANSWER])
    if own.threshold is None and (reason := too_few(judged, known)) is not None:
        return [], Counter([reason])
    left_out: Counter[str] = Counter({UNREAD: len(judged.completions) - len(known)})
    scores, rows = scores_of(judged), []
    threshold = fmean(scores[place] for place in known) if own.threshold is None and known else own.threshold
    for place in known:
        gap = abs(scores[place] - (threshold or 0.0))
        if gap == 0 or gap < own.least_gap:
            left_out[TIE if gap == 0 else BELOW_MIN_GAP] += 1
            continue
        row = {"prompt": as_json(judged.prompt), "completion": judged.completions[place], "label": scores[place] > (threshold or 0.0)}
        rows.append(row | provenance(judged, [place]))
    return rows, +left_out


def revision(judged: JudgedPrompt, known: Sequence[int], own: LabelSettings) -> Rows:
    """`{"prompt", "chosen", "rejected"}` of each answer: the chosen one is the revision, which `loss=sft` imitates, the rejected one the
    answer as it was."""
    rows, left_out = [], Counter[str]()
    for place, revised in enumerate(judged.revisions):
        if revised.final is None:
            left_out[UNREAD if any(reason != REVISION_UNCHANGED for reason in revised.unread) else UNCHANGED] += 1
            continue
        row = {"prompt": as_json(judged.prompt), "chosen": revised.final, "rejected": judged.completions[place]}
        told = provenance(judged, [place])
        told["provenance"] |= {"principles": list(revised.principles), "critiques": list(revised.critiques)}
        rows.append(row | told)
    return rows, left_out if judged.completions else Counter([NO_ANSWER])


FORMS: Mapping[str, Callable[[JudgedPrompt, Sequence[int], LabelSettings], Rows]] = {
    PAIRS: pair,
    RANKINGS: ranking,
    SCORES: scored,
    UNPAIRED: unpaired,
    REVISIONS: revision,
}
"""By `form`."""


def too_few(judged: JudgedPrompt, known: Sequence[int]) -> str | None:
    """Why two answers cannot be told apart before their scores are looked at."""
    if len(judged.completions) < 2:
        return ONE_ANSWER
    return UNREAD if len(known) < 2 else None


def scores_of(judged: JudgedPrompt) -> list[float]:
    """M scores; 0 where there is none, which nobody reads."""
    return [0.0 if score is None else score for score in judged.judgement.scores]


def provenance(judged: JudgedPrompt, places: Sequence[int]) -> dict[str, dict[str, Any]]:
    """What a row tells of how it came about: what was judged, and which of that the row holds."""
    origins = [[{"source": one.source, "model": one.model} for one in judged.origins[place]] for place in places if judged.origins]
    return {
        "provenance": {
            "source": judged.place,
            "answers": list(places),
            "scores": list(judged.judgement.scores),
            "comparisons": comparison_rows(judged.judgement),
            **({"origins": origins} if origins else {}),
        }
    }
