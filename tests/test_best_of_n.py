"""Facts 4.11, with every printed digit."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignkit.best_of_n import best_of_n, best_of_n_kl, expected_best, kl_bound, rank_chances, win_rate
from alignkit.errors import UserError

POLICY = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
REWARDS = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
BOUNDS = {
    2: 0.1931471806,
    4: 0.6362943611,
    8: 1.2044415417,
    16: 1.8350887222,
    32: 2.4969859028,
    64: 3.1745080834,
    128: 3.8598427639,
    1000: 5.9087552790,
}
NORMAL_MAXIMA = {2: 0.56418958, 4: 1.02937537, 8: 1.42360031, 16: 1.76599139, 64: 2.34373346, 128: 2.59459736}


def close(actual: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


def normal_table() -> tuple[Tensor, Tensor]:
    """A standard normal in 40,000 cells, symmetric so that tails keep their digits: masses and midpoints."""
    edges = torch.linspace(0, 9, 20_001, dtype=torch.float64)
    upper = torch.special.erfc(edges / math.sqrt(2)) / 2
    masses, midpoints = upper[:-1] - upper[1:], (edges[:-1] + edges[1:]) / 2
    return torch.cat((masses.flip(0), masses)), torch.cat((-midpoints.flip(0), midpoints))


@pytest.mark.parametrize(("n", "bound"), BOUNDS.items())
def test_bounds_of_the_fact_sheet(n: int, bound: float) -> None:
    assert kl_bound(n) == pytest.approx(bound, abs=1e-9)
    assert kl_bound(1) == 0.0


@pytest.mark.parametrize(("n", "maximum"), NORMAL_MAXIMA.items())
def test_the_best_of_n_normal_rewards_is_that_of_the_fact_sheet(n: int, maximum: float) -> None:
    masses, midpoints = normal_table()
    assert float(best_of_n(masses, midpoints, n) @ midpoints) == pytest.approx(maximum, abs=2e-8)


@pytest.mark.parametrize("n", [2, 16, 128])
def test_without_ties_the_bound_is_reached_and_the_win_rate_is_exact(n: int) -> None:
    masses, midpoints = normal_table()
    best = best_of_n(masses, midpoints, n)
    assert kl_bound(n) - 1e-4 < best_of_n_kl(masses, midpoints, n) <= kl_bound(n)
    wins = float(best @ (masses.cumsum(0) - masses / 2))
    assert wins == pytest.approx(win_rate(n), abs=1e-5) == n / (n + 1)


def test_the_mean_over_subsets_is_that_of_the_fact_sheet() -> None:
    scores = torch.tensor([0.9, 0.1, 0.5, 0.4], dtype=torch.float64)
    assert float(expected_best(scores, 2)) == pytest.approx(0.6833333333, abs=1e-9)
    assert float(expected_best(scores, 3)) == pytest.approx(0.8, abs=1e-9)


@given(scores=st.lists(st.floats(-10, 10), min_size=1, max_size=7), data=st.data())
@settings(max_examples=50, deadline=None)
def test_the_mean_over_subsets_is_what_enumeration_gives(scores: list[float], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(scores)))
    bests = [max(subset) for subset in itertools.combinations(scores, n)]
    expected = math.fsum(bests) / len(bests)
    assert float(expected_best(torch.tensor(scores, dtype=torch.float64), n)) == pytest.approx(expected, abs=1e-12)


def test_the_estimate_is_unbiased() -> None:
    # All 3^4 outcomes of four samples, weighed by their chance: exactly the best of two fresh ones, E r = 2.11.
    outcomes = torch.cartesian_prod(*[torch.arange(3)] * 4)
    chances = POLICY[outcomes].prod(dim=-1)
    assert float(chances @ expected_best(REWARDS[outcomes], 2)) == pytest.approx(2.11, abs=1e-12)


def test_prompts_are_estimated_one_by_one() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]])
    assert expected_best(scores, 1).tolist() == [2.0, 5.0]
    assert expected_best(scores, 3).tolist() == [3.0, 6.0]
    assert expected_best(scores, 2).dtype == torch.float32


def test_two_thousand_samples_do_not_overflow() -> None:
    chances = rank_chances(2000, 1000)
    assert float(chances.sum()) == pytest.approx(1.0, abs=1e-12)
    assert float(chances[-1]) == 0.5


@pytest.mark.parametrize(
    ("n", "best", "kl", "reward"),
    [
        (2, [0.25, 0.39, 0.36], 0.1406384674, 2.11),
        (4, [0.0625, 0.3471, 0.5904], 0.5597505604, 2.5279),
        (16, [0.5**16, 0.8**16 - 0.5**16, 1 - 0.8**16], 1.4696447797, 2.9718372435),
    ],
)
def test_tables_of_the_fact_sheet(n: int, best: list[float], kl: float, reward: float) -> None:
    close(best_of_n(POLICY, REWARDS, n), best)
    assert best_of_n_kl(POLICY, REWARDS, n) == pytest.approx(kl, abs=1e-9)
    assert float(best_of_n(POLICY, REWARDS, n) @ REWARDS) == pytest.approx(reward, abs=1e-9)


@given(
    weights=st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any),
    rewards=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    n=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_ties_and_impossible_responses_are_what_enumeration_gives(weights: list[int], rewards: list[int], n: int) -> None:
    policy = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    expected = [0.0] * 4
    for samples in itertools.product(range(4), repeat=n):
        kept = max(samples, key=rewards.__getitem__)  # the first of the best
        expected[kept] += math.prod(float(policy[sample]) for sample in samples)
    close(best_of_n(policy, torch.tensor(rewards, dtype=torch.float64), n), expected)
    assert -1e-12 <= best_of_n_kl(policy, torch.tensor(rewards), n) <= kl_bound(n) + 1e-12


def test_equal_rewards_leave_the_policy_as_it_is() -> None:
    close(best_of_n(POLICY, torch.zeros(3), 16), POLICY.tolist())
    assert best_of_n_kl(POLICY, torch.zeros(3), 16) == pytest.approx(0.0, abs=1e-15)


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(UserError, match=r"n = 4; must be a number in \[1, 3\]"):
        expected_best(torch.zeros(3), 4)
    for refused in (kl_bound, win_rate):
        with pytest.raises(UserError, match="n = 0"):
            refused(0)
    with pytest.raises(UserError, match="n = 0"):
        best_of_n(POLICY, REWARDS, 0)
