"""Samples that several processes draw together: each answers its share of the prompts, all know all answers."""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.ranks import gather, reader, readers
from alignkit.sampling.sampler import Sample, Sampler


def own_places(count: int) -> list[int]:
    """Which of so many prompts this process answers."""
    return list(range(reader(), count, readers()))


def draw_together(sampler: Sampler, prompts: Sequence[Sequence[int]], *, samples: int, seed: int) -> list[list[Sample]]:
    """What one process would draw: random numbers belong to the place of a prompt, whoever answers it."""
    if readers() == 1:
        return sampler(prompts, samples=samples, seed=seed)
    own = own_places(len(prompts))
    drawn = sampler(prompts, samples=samples, seed=seed, only=own)
    # Plain tuples: they travel as bytes.
    parts = gather([(place, [(one.ids, one.logps) for one in answers]) for place, answers in zip(own, drawn, strict=True)])
    by_place = {place: [Sample(ids=ids, logps=logps) for ids, logps in answers] for part in parts for place, answers in part}
    return [by_place[place] for place in range(len(prompts))]
