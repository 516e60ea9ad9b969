"""A bootstrap of the data that does not copy any: how often each example counts for one member of an ensemble.

    w ~ Poisson(1)           P(w = k) = exp(-1) / k!

In place of drawing as many examples as there are with replacement, whose counts are nearly that (Oza & Russell 2001, online bagging,
section 2). A weight is a function of seed, member and example alone, so that it is the same in each epoch, in all micro-batches, on all
ranks and after a resumption.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate

MOST = 16
"""Weights end here: a Poisson(1) is larger with chance 1e-15."""
STEPS = tuple(accumulate(math.exp(-1) / math.factorial(weight) for weight in range(MOST)))
"""[MOST] chances that a weight is at most 0, 1, 2, ..."""


def bootstrap_weights(keys: Iterable[int], *, seed: int, member: str) -> list[int]:
    """How often each example counts, whole numbers with mean 1 and variance 1.

    Args:
        keys: of the examples, their places among all.
        seed: of the draw.
        member: whose draw it is.
    """
    return [bisect_right(STEPS, _uniform(f"{seed}/{member}/{key}")) for key in keys]


def _uniform(label: str) -> float:
    """In [0, 1), a function of the label."""
    return int.from_bytes(hashlib.blake2b(label.encode(), digest_size=8).digest()) / 2**64
