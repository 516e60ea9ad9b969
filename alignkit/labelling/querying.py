"""Active learning: which prompts of a pool are worth a label, from what a scorer says of their answers.

E prompts   C completions   H members of an ensemble   B pairs of answers
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import final

import numpy as np
import torch
from torch import Tensor

from alignkit.errors import UserError, check_choice, check_range
from alignkit.label_settings import ENSEMBLE, MARGIN, RANDOM, UNCERTAIN
from alignkit.scorers.scorer import Scores

FEWEST_MEMBERS = 2
SHORTLIST = 4
"""Prompts that a batch is drawn from, for each one that is chosen: the most uncertain ones alone are nearly the same, and a label tells of
all of them. Never more than one in `SHORTLIST` of the pool."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Prompts that could be labelled.

    Two prompts with two answers each: `Pool(counts=(2, 2), scores=Scores(total=torch.tensor([0.1, 0.2, 3.0, -3.0])))`.
    """

    counts: Sequence[int]
    """E numbers of answers, 2 or more each where scores are asked for."""
    scores: Scores | None
    """Of all answers, in the order of the prompts; None where nobody scores, which is enough for `random`. Its parts are the members of
    an ensemble."""


def choose(pool: Pool, query: str, count: int, seed: int) -> list[int]:
    """Places in the pool, 0..E-1, of the prompts to label next; the same for the same arguments.

    Args:
        pool: what could be labelled.
        query: `random`; `margin`: answers that the scorer can least tell apart, arXiv:cmp-lg/9407020; `ensemble`: answers on which the
            members of an ensemble differ most, arXiv:1112.5745, arXiv:2203.07472.
        count: the budget, prompts at most.
        seed: of what is drawn.

    Returns:
        `count` places in the order of the pool; all of a pool that holds no more.

    Raises:
        UserError: when the scorer cannot say what is uncertain.
    """
    check_choice("query", query, (RANDOM, *UNCERTAIN))
    check_range("count", count, low=1, hint="It is the number of prompts that are labelled.")
    prompts = len(pool.counts)
    if count >= prompts:
        return list(range(prompts))
    # Equal worth, such as that of all pairs while heads are new, is no reason to take the first ones.
    shuffled = np.random.default_rng(seed).permutation(prompts)
    if query == RANDOM:
        return sorted(shuffled[:count].tolist())
    worth = uncertainty(pool, query).numpy()[shuffled]
    listed = np.argsort(-worth, kind="stable")[: max(count, min(SHORTLIST * count, prompts // SHORTLIST))]
    drawn = np.random.default_rng(seed + 1).permutation(len(listed))[:count]
    return sorted(shuffled[listed[drawn]].tolist())


def uncertainty(pool: Pool, query: str) -> Tensor:
    """[E] float64, how much there is to learn from a prompt's label, by `margin` or `ensemble`; higher is more.

    Raises:
        UserError: for a prompt with one answer, scores that are not finite, or an ensemble without members.
    """
    scores = pool.scores
    assert scores is not None, f"{query} goes by scores"
    if lonely := [place for place, answers in enumerate(pool.counts) if answers < 2]:
        raise UserError(f"query = {query!r}: prompt {lonely[0]} of the pool has one answer; it takes two to be told apart. Try samples=2.")
    said = scores.total[None] if query == MARGIN else _members(scores)
    if not said.isfinite().all():
        raise UserError(f"query = {query!r}: the scorer says {float(said[~said.isfinite()][0])} of an answer, so nothing is known of it.")
    of_prompts = said.to(torch.float64).split(list(pool.counts), dim=1)
    return torch.stack([(closeness(own[0]) if query == MARGIN else disagreement(pair_margins(own))) for own in of_prompts])


def closeness(scores: Tensor) -> Tensor:
    """[] minus the gap between the best and the next of the answers [M] to a prompt."""
    best, second = scores.topk(2).values
    gap: Tensor = best - second
    return -gap


def pair_margins(scores: Tensor) -> Tensor:
    """[H, B] differences between all pairs of the answers that members score, [H, M]."""
    first, second = zip(*combinations(range(scores.shape[1]), 2), strict=True)
    return scores[:, list(first)] - scores[:, list(second)]


def disagreement(margins: Tensor) -> Tensor:
    """[] bits that a label tells of which member is right, mean over pairs: the mutual information of BALD (arXiv:1112.5745, eq. 2).

        I = H(mean over members of p) - mean over members of H(p)         p = sigmoid(margin), Bradley-Terry

    It is 0 where members agree, also where they agree that nobody can tell: such a label would be chance.

    Args:
        margins: [H, B] of members.
    """
    chances = torch.sigmoid(margins)
    return (entropy(chances.mean(dim=0)) - entropy(chances).mean(dim=0)).mean()


def entropy(chances: Tensor) -> Tensor:
    """[*] bits of events with these chances [*]."""
    other = 1 - chances
    bits: Tensor = (torch.xlogy(chances, chances) + torch.xlogy(other, other)) / -math.log(2)
    return bits


def _members(scores: Scores) -> Tensor:
    if len(scores.parts) < FEWEST_MEMBERS:
        raise UserError(
            f"query = {ENSEMBLE!r} goes by how much members differ, and the scorer has {len(scores.parts)}. Type scorer=ensemble "
            f"scorer.path=RUN of one with loss=reward_ensemble, or query={MARGIN}."
        )
    return torch.stack(list(scores.parts.values()))
