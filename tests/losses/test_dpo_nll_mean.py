from __future__ import annotations

import torch

from alignkit.losses.dpo import DPO
from alignkit.losses.dpo_nll import DPONLL
from alignkit.losses.dpo_nll_mean import DPONLLMean
from alignkit.losses.outputs import PairLogps


def test_losses_of_the_fact_sheet(close, policy: PairLogps, reference: PairLogps) -> None:
    output = DPONLLMean(beta=0.1, nll_weight=1.0)(policy, reference)
    close(output.losses, (2.6209570478, 3.2443966601, 3.2709570478))
    close(output.losses.mean(), 3.0454369186)
    close(output.chosen_rewards, (0.1, -0.05, -0.1))
    close(output.rejected_rewards, (-0.05, 0.05, 0.05))


def test_each_completion_is_pulled_by_the_weight_over_its_length(close, policy: PairLogps, reference: PairLogps) -> None:
    policy.chosen.requires_grad_()
    policy.rejected.requires_grad_()
    DPONLLMean(beta=0.1, nll_weight=1.0)(policy, reference).losses.sum().backward()
    close(policy.chosen.grad, (-0.0462570155 - 1 / 5, -0.0524979187 - 1 / 3, -0.0537429845 - 1 / 8))
    close(policy.rejected.grad, (0.0462570155, 0.0524979187, 0.0537429845))


def test_without_its_weight_it_is_dpo(policy: PairLogps, reference: PairLogps) -> None:
    weighted, plain = DPONLLMean(beta=0.3, nll_weight=0.0)(policy, reference), DPO(beta=0.3)(policy, reference)
    torch.testing.assert_close(weighted.losses, plain.losses, rtol=0, atol=0)
    torch.testing.assert_close(weighted.margins, plain.margins, rtol=0, atol=0)


def test_single_tokens_cost_the_same_summed_or_averaged(logps_with_gaps) -> None:
    pair = logps_with_gaps(torch.linspace(-5, 5, 11, dtype=torch.float64))
    averaged, summed = DPONLLMean(beta=0.1, nll_weight=0.5)(*pair), DPONLL(beta=0.1, nll_weight=0.5)(*pair)
    torch.testing.assert_close(averaged.losses, summed.losses, rtol=0, atol=0)


def test_at_the_reference_it_depends_on_the_pair(close, reference: PairLogps) -> None:
    loss = DPONLLMean(beta=0.1, nll_weight=0.5)
    assert loss.value_at_reference() is None
    close(loss(reference, reference).losses, [0.6931471806 + 0.5 * mean for mean in (11 / 5, 7 / 3, 19 / 8)])


def test_losses_fall_as_the_gap_grows(logps_with_gaps) -> None:
    losses = DPONLLMean(beta=0.1, nll_weight=1.0)(*logps_with_gaps(torch.linspace(-30, 30, 61, dtype=torch.float64))).losses
    assert (losses.diff() < 0).all()
