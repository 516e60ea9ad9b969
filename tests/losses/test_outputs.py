"""The border: shapes and precision of what losses read, rewards and accuracies of what they return."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from alignkit.losses.outputs import PairLogps, PairRewards, PairwiseOutput, TokenLogps
from alignkit.losses.rollout_outputs import PolicyTokens, RolloutTokens, ScoredRollout

PAIR_LOGPS = ("chosen", "rejected", "chosen_tokens", "rejected_tokens")
PAIR_REWARDS = ("chosen", "rejected", "margins")
SCORED = {
    "logps": torch.ones(3),
    "reference_logps": torch.ones(3),
    "values": torch.ones(3),
    "scores": torch.ones(2),
    "completion_index": torch.tensor([0, 0, 1]),
    "example_index": torch.tensor([0, 0]),
}
STORED = {name: torch.ones(3) for name in ("logps", "reference_logps", "advantages", "returns", "values", "weights")} | {
    "completion_index": torch.tensor([0, 0, 1])
}
NOW = {name: torch.ones(3) for name in ("logps", "values", "entropies")}


@pytest.mark.parametrize("field", PAIR_LOGPS)
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), ()])
def test_pair_logps_that_would_broadcast_are_refused(field: str, shape: tuple[int, ...]) -> None:
    tensors = {name: torch.ones(2) for name in PAIR_LOGPS} | {field: torch.ones(shape)}
    with pytest.raises(ValueError, match=rf"PairLogps.*\b{field} \{list(shape)}.*equally long"):
        PairLogps(**tensors)


@pytest.mark.parametrize("field", PAIR_REWARDS)
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), ()])
def test_pair_rewards_that_would_broadcast_are_refused(field: str, shape: tuple[int, ...]) -> None:
    tensors = {name: torch.ones(2) for name in PAIR_REWARDS} | {field: torch.ones(shape)}
    with pytest.raises(ValueError, match=rf"PairRewards.*\b{field} \{list(shape)}.*equally long"):
        PairRewards(**tensors)


@pytest.mark.parametrize("shape", [(1,), (4,), (3, 1), ()])
def test_samples_that_would_broadcast_are_refused(shape: tuple[int, ...]) -> None:
    wrong = torch.ones(shape, dtype=torch.int64)
    for field in SCORED:
        with pytest.raises(ValueError, match=rf"ScoredRollout.*\b{field} \{list(shape)}.*equally long"):
            ScoredRollout(**SCORED | {field: wrong})
    for field in STORED:
        with pytest.raises(ValueError, match=rf"RolloutTokens.*\b{field} \{list(shape)}.*equally long"):
            RolloutTokens(**STORED | {field: wrong}, completions=2)  # type: ignore[arg-type]
    for field in NOW:
        with pytest.raises(ValueError, match=rf"PolicyTokens.*\b{field} \{list(shape)}.*equally long"):
            PolicyTokens(**NOW | {field: wrong})


@pytest.mark.parametrize("owners", [[0, 0, 0], [1, 1, 1], [0, 1, 2]])
def test_a_completion_without_a_token_or_without_a_score_is_refused(owners: list[int]) -> None:
    with pytest.raises(ValueError, match=r"2 scores for completions of \[.*\] tokens"):
        ScoredRollout(**SCORED | {"completion_index": torch.tensor(owners)})


def test_samples_may_come_without_values_and_entropies() -> None:
    assert ScoredRollout(**SCORED | {"values": None}).values is None  # type: ignore[arg-type]
    assert RolloutTokens(**STORED | {"values": None, "returns": None}, completions=2).returns is None  # type: ignore[arg-type]
    assert PolicyTokens(logps=torch.ones(3)).entropies is None


def test_equal_but_two_dimensional_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match="one-dimensional"):
        PairRewards(chosen=torch.ones(2, 1), rejected=torch.ones(2, 1))
    with pytest.raises(ValueError, match="one-dimensional"):
        TokenLogps(token_logps=torch.ones(2, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_records_hold_float32_at_least_and_keep_float64(dtype: torch.dtype) -> None:
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    ones = torch.ones(2, dtype=dtype)
    logps = PairLogps(chosen=ones, rejected=ones, chosen_tokens=torch.tensor([1, 2]), rejected_tokens=torch.tensor([1, 2]))
    rewards = PairRewards(chosen=ones, rejected=ones, margins=ones)
    assert logps.chosen.dtype == logps.rejected.dtype == expected
    assert rewards.chosen.dtype == rewards.rejected.dtype == expected
    assert rewards.margins is not None
    assert rewards.margins.dtype == expected
    assert TokenLogps(token_logps=ones).token_logps.dtype == expected
    assert logps.chosen_tokens.dtype == torch.int64
    lowered = [{name: value.to(dtype) if value.is_floating_point() else value for name, value in there.items()} for there in (SCORED, NOW)]
    scored, now = ScoredRollout(**lowered[0]), PolicyTokens(**lowered[1])
    assert {scored.logps.dtype, scored.reference_logps.dtype, scored.scores.dtype, now.logps.dtype} == {expected}
    assert scored.completion_index.dtype == scored.example_index.dtype == torch.int64


def test_gradients_flow_through_the_change_of_precision() -> None:
    scores = torch.zeros(2, dtype=torch.bfloat16, requires_grad=True)
    PairRewards(chosen=scores, rejected=torch.zeros(2)).chosen.sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [1.0, 1.0]


def test_pairs_without_ratings_have_no_margins() -> None:
    assert PairRewards(chosen=torch.ones(2), rejected=torch.ones(2)).margins is None


def test_the_side_with_the_higher_reward_wins_and_a_tie_counts_one_half() -> None:
    output = PairwiseOutput(
        losses=torch.zeros(4),
        chosen_rewards=torch.tensor([2.0, 1.0, -1.0, -3.0]),
        rejected_rewards=torch.tensor([1.0, 1.0, 1.0, -3.5]),
    )
    assert output.margins.tolist() == [1.0, 0.0, -2.0, 0.5]
    assert output.accuracies.tolist() == [1.0, 0.5, 0.0, 1.0]


@pytest.mark.parametrize("record", [TokenLogps(token_logps=torch.ones(1)), PairRewards(chosen=torch.ones(1), rejected=torch.ones(1))])
def test_records_are_frozen(record: TokenLogps | PairRewards) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.__setattr__(dataclasses.fields(record)[0].name, torch.zeros(1))
