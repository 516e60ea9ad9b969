from __future__ import annotations

import pytest
import torch

from alignkit.losses.dpo_reference_free import DPOReferenceFree
from alignkit.losses.outputs import PairLogps
from alignkit.losses.simpo import SimPO


@pytest.mark.parametrize(
    ("beta", "ratio", "losses", "mean"),
    [
        (2.0, 0.5, (1.3132616875, 0.6931471806, 1.1127541759), 1.0397210147),
        (2.5, 0.55, (1.6004126516, 0.7575990353, 1.3263475662), 1.2281197510),
        (10.0, 0.3, (3.0485873516, 0.1269280110, 1.7601861949), 1.6452338525),
    ],
)
def test_losses_of_the_fact_sheet(close, policy: PairLogps, beta: float, ratio: float, losses: tuple, mean: float) -> None:
    output = SimPO(beta=beta, gamma_beta_ratio=ratio)(policy)
    close(output.losses, losses)
    close(output.losses.mean(), mean)
    # Nats per token: -10/5, -7.5/3, -20/8 against -12/6, -6/2, -18.5/7. No gamma: the second pair alone is ordered rightly.
    close(output.chosen_rewards, [beta * mean for mean in (-2.0, -2.5, -2.5)])
    close(output.rejected_rewards, [beta * mean for mean in (-2.0, -3.0, -18.5 / 7)])
    assert output.accuracies.tolist() == [0.5, 1.0, 1.0]


def test_the_gap_asked_for_costs_ln_2(close, float64, logps_with_gaps) -> None:
    policy, _ = logps_with_gaps(float64(0.8))  # one token each
    close(SimPO(beta=2.5, gamma_beta_ratio=0.8)(policy).losses, 0.6931471806)


def test_without_a_gap_single_tokens_are_compared_like_sums(logps_with_gaps) -> None:
    policy, _ = logps_with_gaps(torch.linspace(-5, 5, 11, dtype=torch.float64))
    averaged, summed = SimPO(beta=0.7, gamma_beta_ratio=0.0)(policy), DPOReferenceFree(beta=0.7)(policy)
    torch.testing.assert_close(averaged.losses, summed.losses, rtol=0, atol=0)
    torch.testing.assert_close(averaged.margins, summed.margins, rtol=0, atol=0)


def test_repeating_a_completion_changes_nothing(close, policy: PairLogps) -> None:
    twice = PairLogps(
        chosen=2 * policy.chosen,
        rejected=3 * policy.rejected,
        chosen_tokens=2 * policy.chosen_tokens,
        rejected_tokens=3 * policy.rejected_tokens,
    )
    loss = SimPO(beta=2.0, gamma_beta_ratio=0.5)
    close(loss(twice).losses, loss(policy).losses)


def test_losses_fall_as_the_gap_grows_and_rise_with_the_gap_asked_for(close, float64, logps_with_gaps) -> None:
    policy, _ = logps_with_gaps(torch.linspace(-8, 8, 33, dtype=torch.float64))
    losses = [SimPO(beta=2.0, gamma_beta_ratio=ratio)(policy).losses for ratio in (0.0, 0.5, 1.0)]
    assert (torch.stack(losses).diff(dim=1) < 0).all()
    assert (torch.stack(losses).diff(dim=0) > 0).all()
    far, _ = logps_with_gaps(float64(-1e4, 1e4))
    close(SimPO(beta=2.0, gamma_beta_ratio=0.5)(far).losses, (20001, 0))
