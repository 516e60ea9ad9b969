from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.losses.cdpo import CDPO
from alignkit.losses.dpo import DPO
from alignkit.losses.outputs import PairLogps
from alignkit.losses.robust_dpo import RobustDPO


@pytest.mark.parametrize(
    ("epsilon", "mean", "slopes"),
    [
        (0.1, 0.7162702519, (-0.0587570155, -0.0649979187, -0.0662429845)),
        (0.2, 0.7232146963, (-0.0795903488, -0.0858312521, -0.0870763179)),
    ],
)
def test_means_and_gradients_of_the_fact_sheet(
    close, float64, policy: PairLogps, reference: PairLogps, epsilon: float, mean: float, slopes: tuple
) -> None:
    policy.chosen.requires_grad_()
    policy.rejected.requires_grad_()
    losses = RobustDPO(beta=0.1, epsilon=epsilon)(policy, reference).losses
    losses.sum().backward()
    close(losses.mean(), mean)
    close(policy.chosen.grad, slopes)
    close(policy.rejected.grad, -float64(*slopes))


def test_losses_of_the_fact_sheet(close, policy: PairLogps, reference: PairLogps) -> None:
    close(RobustDPO(beta=0.1, epsilon=0.1)(policy, reference).losses, (0.6022070478, 0.7568966601, 0.7897070478))


@settings(derandomize=True, deadline=None)
@given(gap=st.floats(-100, 100), beta=st.floats(1e-3, 2), epsilon=st.floats(0, 0.45))
def test_flipped_labels_leave_the_expected_loss_at_dpo(float64, logps_with_gaps, gap: float, beta: float, epsilon: float) -> None:
    loss = RobustDPO(beta=beta, epsilon=epsilon)
    right, flipped = loss(*logps_with_gaps(float64(gap, -gap))).losses
    clean = DPO(beta=beta)(*logps_with_gaps(float64(gap))).losses
    assert ((1 - epsilon) * right + epsilon * flipped).item() == pytest.approx(clean.item(), rel=1e-10, abs=1e-10)


def test_equals_dpo_where_no_label_is_flipped(policy: PairLogps, reference: PairLogps) -> None:
    robust, plain = RobustDPO(beta=0.1, epsilon=0.0)(policy, reference), DPO(beta=0.1)(policy, reference)
    torch.testing.assert_close(robust.losses, plain.losses, rtol=0, atol=0)


def test_corrects_dpo_in_the_direction_opposite_to_cdpo(close, policy: PairLogps, reference: PairLogps) -> None:
    # Facts, useful identities: at epsilon = 0.25 robust DPO subtracts z / 2 where cDPO adds z / 4.
    robust, plain, smooth = (
        loss(policy, reference).losses for loss in (RobustDPO(beta=0.1, epsilon=0.25), DPO(beta=0.1), CDPO(beta=0.1, epsilon=0.25))
    )
    close(robust - plain, (-0.075, 0.05, 0.075))
    close(smooth - plain, (0.0375, -0.025, -0.0375))


def test_falls_without_bound(close, float64, logps_with_gaps) -> None:
    losses = RobustDPO(beta=0.1, epsilon=0.1)(*logps_with_gaps(float64(-1e4, 1e4))).losses
    close(losses, (1125, -125))  # z = -+1000: 1000 + 1000 / 8, and -1000 / 8
