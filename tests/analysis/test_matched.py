"""Rewards at equal KL: by hand, on frontiers that are known."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from alignkit.analysis.matched import at_equal_kl, reach, reward_at
from alignkit.errors import UserError


def points(method: str, seed: int, *pairs: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame([{"method": method, "seed": seed, "kl": kl, "reward": reward} for kl, reward in pairs])


def test_a_frontier_is_linear_between_its_points_in_order_of_kl_and_ends_at_the_last() -> None:
    own = points("a", 0, (4.0, 0.8), (0.0, 0.0), (2.0, 0.6), (2.0, 0.4))  # of two points at one KL the mean counts
    told = reward_at(own, [0.0, 1.0, 2.0, 3.0, 4.0, 4.1])
    assert told[:5].tolist() == pytest.approx([0.0, 0.25, 0.5, 0.65, 0.8])
    assert math.isnan(told[5])


def two_methods() -> pd.DataFrame:
    """`dpo` is kl / 10 + seed / 10 up to 6 nats; `ppo` is better by 0.1, 0.2 and 0.3 at every KL, but reaches 4, 4 and 3 nats alone."""
    parts = []
    for seed in range(3):
        parts.append(points("dpo", seed, (0.0, seed / 10), (6.0, 0.6 + seed / 10)))
        last = 3.0 if seed == 2 else 4.0
        gain = 0.1 + seed / 10
        parts.append(points("ppo", seed, (0.0, seed / 10 + gain), (last, last / 10 + seed / 10 + gain)))
    return pd.concat(parts, ignore_index=True)


def test_methods_are_compared_seed_by_seed_where_all_of_their_seeds_come() -> None:
    told = at_equal_kl(two_methods(), baseline="dpo", grid=(1.0, 3.5, 6.0, 7.0))
    assert [(row.kl, row.method, row.common) for row in told.itertuples()] == [
        (1.0, "dpo", True),
        (1.0, "ppo", True),
        (3.5, "dpo", False),  # seed 2 of ppo ends at 3
        (6.0, "dpo", False),
    ]
    dpo, ppo = told.iloc[0], told.iloc[1]
    assert dpo["reward"] == pytest.approx(0.2)  # 0.1 + the mean of 0, 0.1, 0.2
    assert math.isnan(dpo["difference"])
    assert ppo["reward"] == pytest.approx(0.4)
    half = 4.302652729 * 0.1 / math.sqrt(3)
    assert ppo[["difference", "difference low", "difference high"]].tolist() == pytest.approx([0.2, 0.2 - half, 0.2 + half])
    # t = 0.2 / (0.1 / sqrt(3)) = 3.4641 with two degrees of freedom: p = 1 - t / sqrt(2 + t^2)
    assert ppo["p"] == pytest.approx(1 - 3.464101615 / math.sqrt(2 + 3.464101615**2), abs=1e-6)


def test_the_reach_of_a_method_is_that_of_its_shortest_seed() -> None:
    assert reach(two_methods()).to_dict() == {"dpo": 6.0, "ppo": 3.0}


def test_what_cannot_be_compared_is_told() -> None:
    with pytest.raises(UserError, match="points lack reward"):
        at_equal_kl(two_methods().drop(columns="reward"), baseline="dpo")
    with pytest.raises(UserError, match="no method 'kto' to compare with, but dpo, ppo"):
        at_equal_kl(two_methods(), baseline="kto")
    with pytest.raises(UserError, match="no method reaches 50 nats"):
        at_equal_kl(two_methods(), baseline="dpo", grid=(50.0,))
