"""Which rows of an index are trained on and which are held out: what `holdout` and `sources.mixture` do to examples, done to columns.

Prompts and contents are known by the first 64 bits of their SHA-256, in the order of which the whole ones stand. Of five million
prompts two have the same 64 bits with a chance of 7e-7; then both are on one side.
"""

from __future__ import annotations

import numpy as np

from alignkit.data.example_index import Numbers


def held_out(prompts: Numbers, count: int) -> Numbers:
    """Which examples are held out, [n] bool: whole prompts in the order of their hashes, until there are `count` examples."""
    distinct, sizes = np.unique(prompts, return_counts=True)
    if count <= 0 or not len(distinct):
        return np.zeros(len(prompts), dtype=bool)
    # Prompts before the one with which there are enough.
    last = min(int(np.searchsorted(np.cumsum(sizes), count)), len(distinct) - 1)
    held: Numbers = prompts <= distinct[last]
    return held


def distinct_count(prompts: Numbers) -> int:
    """How many prompts there are."""
    return len(np.unique(prompts))


def share_of(contents: Numbers, share: float) -> Numbers:
    """Places of a fraction of the examples, those with the lowest hashes of their contents, in the order they stand."""
    by_content = np.argsort(contents, kind="stable")
    return np.sort(by_content[: round(share * len(contents))])


def repeated(places: Numbers, contents: Numbers, weight: float) -> Numbers:
    """Places as often as an epoch visits them: 2.5 is all of them twice and then one half of them. `contents` are those of `places`."""
    copies, share = divmod(weight, 1.0)
    return np.concatenate([np.tile(places, int(copies)), places[share_of(contents, share)]])
