from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignkit.losses.bco import BCO
from alignkit.losses.dpo import DPO
from alignkit.losses.outputs import CompletionLogps, CompletionOutput, PairLogps

PAIRS_OF_THREE = torch.tensor([True, True, True, False, False, False])


def completions(pairs: PairLogps) -> CompletionLogps:
    """The chosen completions and after them the rejected ones."""
    return CompletionLogps(logps=torch.cat([pairs.chosen, pairs.rejected]), tokens=torch.cat([pairs.chosen_tokens, pairs.rejected_tokens]))


def of_pairs(loss: BCO, policy: PairLogps, reference: PairLogps, level: Tensor) -> Tensor:
    """[B] losses of both completions of each pair together."""
    desirable = torch.arange(2 * len(policy.chosen)) < len(policy.chosen)
    return loss(completions(policy), completions(reference), desirable, level).losses.view(2, -1).sum(0)


def rewarded(rewards: Tensor) -> CompletionOutput:
    return CompletionOutput(losses=torch.zeros_like(rewards), rewards=rewards)


def test_losses_of_the_fact_sheet(close, policy: PairLogps, reference: PairLogps) -> None:
    loss = BCO(beta=0.1, decay=0.9)
    close(of_pairs(loss, policy, reference, torch.tensor(0.0)), (1.3128563081, 1.4369192960, 1.4628563081))
    output = loss(completions(policy), completions(reference), PAIRS_OF_THREE, torch.tensor(0.7, dtype=torch.float64))
    close(output.rewards, (0.1, -0.05, -0.1, -0.05, 0.05, 0.05))  # the level is in the losses alone


def test_policy_at_reference_costs_ln_2(close, reference: PairLogps) -> None:
    same = completions(reference)
    close(BCO(beta=0.7, decay=0.0)(same, same, PAIRS_OF_THREE, torch.tensor(0.0)).losses, 0.6931471806)


def test_the_level_is_taken_off_the_reward(close, float64, policy: PairLogps, reference: PairLogps) -> None:
    loss, level = BCO(beta=0.1, decay=0.9), torch.tensor(0.3, dtype=torch.float64)
    lowered = PairLogps(
        chosen=policy.chosen - 3,
        rejected=policy.rejected - 3,
        chosen_tokens=policy.chosen_tokens,
        rejected_tokens=policy.rejected_tokens,
    )
    close(of_pairs(loss, policy, reference, level), of_pairs(loss, lowered, reference, torch.tensor(0.0)))


def test_losses_fall_for_desirable_and_rise_for_undesirable_completions(close, float64) -> None:
    loss, line = BCO(beta=0.1, decay=0.9), torch.linspace(-30, 30, 61, dtype=torch.float64)
    tokens = torch.ones(61)
    policy, reference = CompletionLogps(logps=line, tokens=tokens), CompletionLogps(logps=torch.zeros_like(line), tokens=tokens)
    level = torch.tensor(0.2, dtype=torch.float64)
    desirable = loss(policy, reference, torch.full((61,), True), level).losses
    undesirable = loss(policy, reference, torch.full((61,), False), level).losses
    assert (desirable.diff() < 0).all()
    assert (undesirable.diff() > 0).all()
    close(undesirable - desirable, 0.1 * line - 0.2)  # log-odds of the classifier


@settings(derandomize=True, deadline=None)
@given(chosen=st.floats(-20, 20), rejected=st.floats(-20, 20), level=st.floats(-20, 20))
def test_a_pair_costs_more_than_in_dpo_and_least_at_the_midpoint(float64, chosen: float, rejected: float, level: float) -> None:
    tokens = torch.ones(1)
    policy = PairLogps(chosen=float64(chosen), rejected=float64(rejected), chosen_tokens=tokens, rejected_tokens=tokens)
    reference = PairLogps(chosen=float64(0), rejected=float64(0), chosen_tokens=tokens, rejected_tokens=tokens)
    loss = BCO(beta=1.0, decay=0.0)
    midpoint = float64((chosen + rejected) / 2)[0]
    least = of_pairs(loss, policy, reference, midpoint).item()
    assert least <= of_pairs(loss, policy, reference, torch.tensor(level, dtype=torch.float64)).item() + 1e-12
    assert least >= DPO(beta=1.0)(policy, reference).losses.item()


def test_labels_must_be_those_of_the_completions(policy: PairLogps, reference: PairLogps) -> None:
    with pytest.raises(ValueError, match=r"policy has 6 completions, reference has 6, desirable is \[1\]"):
        BCO(beta=0.1, decay=0.9)(completions(policy), completions(reference), torch.tensor([True]), torch.tensor(0.0))
