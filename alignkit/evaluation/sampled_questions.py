"""A sample of a benchmark that is the benchmark in small."""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.data.questions import Question


def in_proportion(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """At most `limit` questions, in their order: of each group its share, rounded so that the largest remainders get what is left over.

    Within a group those with the lowest digests of their texts, which is a draw that knows neither the order of files nor a seed: the same
    questions are taken wherever the benchmark is evaluated. None takes all.
    """
    if limit is None or limit >= len(questions):
        return list(questions)
    groups: dict[str, list[int]] = {}
    for place, question in enumerate(questions):
        groups.setdefault(question.group, []).append(place)
    shares = {name: limit * len(places) / len(questions) for name, places in groups.items()}
    counts = {name: int(share) for name, share in shares.items()}
    # Of equal remainders the one whose name comes first.
    for name in sorted(shares, key=lambda name: (counts[name] - shares[name], name))[: limit - sum(counts.values())]:
        counts[name] += 1
    taken = {
        place
        for name, places in groups.items()
        for place in sorted(places, key=lambda place: (questions[place].digest, place))[: counts[name]]
    }
    return [question for place, question in enumerate(questions) if place in taken]
