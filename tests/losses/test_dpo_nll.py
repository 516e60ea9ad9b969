from __future__ import annotations

import pytest
import torch

from alignkit.losses.dpo import DPO
from alignkit.losses.dpo_nll import DPONLL
from alignkit.losses.outputs import PairLogps


def test_losses_are_dpo_plus_the_weighted_sum_over_the_completion(close, policy: PairLogps, reference: PairLogps) -> None:
    output = DPONLL(beta=0.1, nll_weight=0.005)(policy, reference)
    # DPO .6209570478 .7443966601 .7709570478 and .005 times 10, 7.5 and 20 nats
    close(output.losses, (0.6709570478, 0.7818966601, 0.8709570478))
    close(output.chosen_rewards, (0.1, -0.05, -0.1))
    close(output.rejected_rewards, (-0.05, 0.05, 0.05))


def test_the_likelihood_adds_a_constant_pull_on_the_chosen_side_alone(close, policy: PairLogps, reference: PairLogps) -> None:
    policy.chosen.requires_grad_()
    policy.rejected.requires_grad_()
    DPONLL(beta=0.1, nll_weight=0.25)(policy, reference).losses.sum().backward()
    close(policy.chosen.grad, (-0.2962570155, -0.3024979187, -0.3037429845))
    close(policy.rejected.grad, (0.0462570155, 0.0524979187, 0.0537429845))


def test_without_its_weight_it_is_dpo(policy: PairLogps, reference: PairLogps) -> None:
    weighted, plain = DPONLL(beta=0.3, nll_weight=0.0)(policy, reference), DPO(beta=0.3)(policy, reference)
    torch.testing.assert_close(weighted.losses, plain.losses, rtol=0, atol=0)
    torch.testing.assert_close(weighted.margins, plain.margins, rtol=0, atol=0)


def test_at_the_reference_it_depends_on_the_pair(close, reference: PairLogps) -> None:
    loss = DPONLL(beta=0.1, nll_weight=0.1)
    assert loss.value_at_reference() is None
    close(loss(reference, reference).losses, (1.7931471806, 1.3931471806, 2.5931471806))  # ln 2 + .1 * (11, 7, 19)


@pytest.mark.parametrize("nll_weight", [0.0, 0.005, 1.0])
def test_losses_fall_as_the_gap_grows(logps_with_gaps, nll_weight: float) -> None:
    losses = DPONLL(beta=0.1, nll_weight=nll_weight)(*logps_with_gaps(torch.linspace(-30, 30, 61, dtype=torch.float64))).losses
    assert (losses.diff() < 0).all()
