"""Facts 4.10."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignkit.best_of_n import expected_best
from alignkit.errors import UserError
from alignkit.rejection import above_quantile, acceptance_chances, best_per_prompt, rejection_sample, truncated

POLICY = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
REWARDS = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
ACCEPTED = [0.0366667118, 0.1625594345, 0.8007738537]


def close(actual: Tensor, expected: Tensor | list[float]) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_chances_of_the_fact_sheet() -> None:
    close(acceptance_chances(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64), 0.5), [0.0183156389, 0.1353352832, 1.0])


def test_what_is_accepted_is_the_optimum_of_reward_against_kl() -> None:
    kept = POLICY * acceptance_chances(REWARDS, 0.5)
    assert float(kept.sum()) == pytest.approx(0.2497584044, abs=1e-9)
    close(kept / kept.sum(), ACCEPTED)
    close(kept / kept.sum(), (POLICY.log() + REWARDS / 0.5).softmax(dim=-1))


def test_samples_of_a_large_pool_follow_that_distribution() -> None:
    pool = torch.multinomial(POLICY, 100_000, replacement=True, generator=seeded())
    # About 24,976 pass in the first round, where the maximum is that of all responses.
    accepted = pool[rejection_sample(REWARDS[pool], 0.5, 24_000, seeded(1))]
    shares = torch.bincount(accepted, minlength=3).double() / len(accepted)
    expected = torch.tensor(ACCEPTED, dtype=torch.float64)
    errors = (expected * (1 - expected) / len(accepted)).sqrt()
    assert ((shares - expected).abs() < 4 * errors).all()


@given(scores=st.lists(st.floats(-5, 5), min_size=1, max_size=12), beta=st.floats(1e-3, 100), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=60, deadline=None)
def test_as_many_as_asked_are_accepted_and_none_twice(scores: list[float], beta: float, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(scores)))
    accepted = rejection_sample(torch.tensor(scores), beta, count, seeded(seed)).tolist()
    assert len(accepted) == len(set(accepted)) == count
    assert set(accepted) <= set(range(len(scores)))


def test_a_low_temperature_takes_the_best_first() -> None:
    scores = torch.randperm(64, generator=seeded()).float()
    assert rejection_sample(scores, 1e-3, 8, seeded()).tolist() == scores.topk(8).indices.tolist()


def test_a_high_temperature_takes_any() -> None:
    accepted = rejection_sample(torch.arange(64.0), 1e9, 8, seeded())
    assert accepted.tolist() == list(range(8))  # candidates are independent samples: the first eight are eight of them


def test_the_maximum_is_that_of_the_remaining_pool() -> None:
    # Beside 100 nothing else passes; once it is gone, 1 and 0 compete as if it had never been.
    second = [int(rejection_sample(torch.tensor([0.0, 100.0, 1.0]), 1.0, 2, seeded(seed))[1]) for seed in range(400)]
    # 0 comes first in order, and passes with chance 1 / e.
    assert second.count(0) / 400 == pytest.approx(0.3678794412, abs=0.08)


def test_mean_reward_of_the_accepted_lies_between_that_of_all_and_that_of_the_best() -> None:
    scores = torch.randn(64, generator=seeded(), dtype=torch.float64)
    means = [float(scores[rejection_sample(scores, beta, 8, seeded())].mean()) for beta in (1e6, 0.5, 1e-3)]
    assert means[0] < means[1] < means[2] == pytest.approx(float(scores.topk(8).values.mean()))


def test_the_best_of_each_prompt_is_the_first_of_its_highest() -> None:
    scores = torch.tensor([0.1, 0.9, 0.9, -3.0, -1.0, -2.0, 5.0])
    prompts = torch.tensor([0, 0, 0, 1, 1, 1, 4])
    assert best_per_prompt(scores, prompts).tolist() == [1, 4, 6]


def test_the_best_of_each_prompt_is_best_of_n_with_all_samples() -> None:
    scores = torch.randn(5, 8, generator=seeded(), dtype=torch.float64)
    best = best_per_prompt(scores.flatten(), torch.arange(5).repeat_interleave(8))
    close(scores.flatten()[best], expected_best(scores, 8))


def test_samples_above_the_quantile_are_kept_in_order() -> None:
    scores = torch.tensor([10.0, 1, 9, 2, 8, 3, 7, 4, 6, 5])
    # The 0.7 quantile of 1..10 is 1 + 0.7 * 9 = 7.3.
    assert above_quantile(scores, range(10), 0.7).tolist() == [0, 2, 4]


def test_duplicates_are_kept_once() -> None:
    assert above_quantile(torch.tensor([1.0, 3, 3, 2, 3]), ["a", "b", "b", "c", "d"], 0.0).tolist() == [1, 3, 4]


@pytest.mark.parametrize(
    ("scores", "kept"), [([0.0, 0, 0, 1], [3]), ([0.0, 1, 1, 1], [1, 2, 3]), ([2.0, 2, 2, 2], [0, 1, 2, 3]), ([5.0], [0])]
)
def test_of_rewards_with_few_values_the_highest_is_kept_and_the_lowest_is_not(scores: list[float], kept: list[int]) -> None:
    assert above_quantile(torch.tensor(scores), range(len(scores)), 0.6).tolist() == kept


@given(scores=st.lists(st.floats(-5, 5), min_size=2, max_size=50, unique=True), quantile=st.floats(0, 0.99))
@settings(max_examples=50, deadline=None)
def test_the_quantile_is_the_share_that_is_left_out(scores: list[float], quantile: float) -> None:
    kept = above_quantile(torch.tensor(scores, dtype=torch.float64), range(len(scores)), quantile)
    assert abs(len(kept) - (1 - quantile) * len(scores)) <= 1


def test_truncation_of_the_fact_sheet() -> None:
    kept = truncated(POLICY, REWARDS, 2.0)
    close(kept, [0.0, 0.6, 0.4])
    assert float(POLICY @ REWARDS) == pytest.approx(1.7)
    assert float(kept @ REWARDS) == pytest.approx(2.4)
    # -ln P(keep) = ln 2.
    assert float((torch.xlogy(kept, kept) - torch.xlogy(kept, POLICY)).sum()) == pytest.approx(0.6931471806, abs=1e-9)


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(UserError, match=r"beta = 0\.0; must be a number in \(0, inf\)"):
        rejection_sample(REWARDS, 0.0, 1, seeded())
    with pytest.raises(UserError, match=r"count = 4; must be a number in \[1, 3\]"):
        rejection_sample(REWARDS, 0.5, 4, seeded())
    with pytest.raises(UserError, match=r"quantile = 1\.0"):
        above_quantile(REWARDS, range(3), 1.0)
    with pytest.raises(UserError, match="2 keys for 3 scores"):
        above_quantile(REWARDS, range(2), 0.5)
    with pytest.raises(UserError, match="threshold = 4; the highest reward"):
        truncated(POLICY, REWARDS, 4.0)
