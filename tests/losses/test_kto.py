from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alignkit.losses.kto import KTO
from alignkit.losses.outputs import CompletionLogps, PairLogps

PAIRS_OF_THREE = torch.tensor([True, True, True, False, False, False])


def completions(pairs: PairLogps) -> CompletionLogps:
    """The chosen completions and after them the rejected ones."""
    return CompletionLogps(logps=torch.cat([pairs.chosen, pairs.rejected]), tokens=torch.cat([pairs.chosen_tokens, pairs.rejected_tokens]))


def at_log_ratios(loss: KTO, log_ratios: Tensor, desirable: bool, level: float = 0.0) -> Tensor:
    """[C] losses of completions of one class."""
    tokens = torch.ones(len(log_ratios))
    start = torch.full_like(log_ratios, -7.0, requires_grad=False)
    policy, reference = CompletionLogps(logps=start + log_ratios, tokens=tokens), CompletionLogps(logps=start, tokens=tokens)
    labels = torch.full(log_ratios.shape, desirable)
    return loss(policy, reference, labels, torch.tensor(level, dtype=log_ratios.dtype)).losses


@pytest.mark.parametrize(
    ("level", "losses", "mean", "weighted_mean"),
    [
        (
            0.0,
            (0.4750208125, 0.5124973965, 0.5249791875, 0.4875026035, 0.5124973965, 0.5124973965),
            0.5041657988,
            0.6302072485,
        ),
        (
            0.3,
            (0.4825071423, 0.5199893402, 0.5324543064, 0.4800106598, 0.5049998333, 0.5049998333),
            0.5041601859,
            0.6283277131,
        ),
    ],
)
def test_losses_of_the_fact_sheet(
    close, float64, policy: PairLogps, reference: PairLogps, level: float, losses: tuple, mean: float, weighted_mean: float
) -> None:
    z = torch.tensor(level, dtype=torch.float64)
    output = KTO(beta=0.1, desirable_weight=1.0, undesirable_weight=1.0)(completions(policy), completions(reference), PAIRS_OF_THREE, z)
    close(output.losses, losses)
    close(output.losses.mean(), mean)
    close(output.rewards, (0.1, -0.05, -0.1, -0.05, 0.05, 0.05))  # the level is in the losses alone
    weighted = KTO(beta=0.1, desirable_weight=1.0, undesirable_weight=1.5)
    close(weighted(completions(policy), completions(reference), PAIRS_OF_THREE, z).losses.mean(), weighted_mean)


@pytest.mark.parametrize(("log_ratios", "level"), [((-0.4, 0.1, 0.9), 0.2), ((-0.4, -0.1, 0.2), 0.0), ((), 0.0), ((0.7,), 0.7)])
def test_levels_of_the_fact_sheet(close, float64, log_ratios: tuple, level: float) -> None:
    found = KTO(beta=0.1, desirable_weight=1.0, undesirable_weight=1.0).level(float64(*log_ratios).requires_grad_())
    assert found.shape == ()
    assert not found.requires_grad
    close(found, level)


def test_gradient_of_the_fact_sheet_and_of_the_other_class(close, float64) -> None:
    loss = KTO(beta=0.1, desirable_weight=1.0, undesirable_weight=1.0)
    for desirable, slope in ((True, -0.0249376040), (False, 0.0249376040)):
        log_ratios = float64(1.0).requires_grad_()
        close(torch.autograd.grad(at_log_ratios(loss, log_ratios, desirable).sum(), log_ratios)[0], slope)


def test_policy_at_reference_costs_half_the_weight(close, reference: PairLogps) -> None:
    loss = KTO(beta=0.7, desirable_weight=1.2, undesirable_weight=0.8)
    same = completions(reference)
    close(loss(same, same, PAIRS_OF_THREE, torch.tensor(0.0)).losses, (0.6, 0.6, 0.6, 0.4, 0.4, 0.4))


@pytest.mark.parametrize("desirable", [True, False])
def test_the_value_saturates_on_both_sides(close, float64, desirable: bool) -> None:
    loss = KTO(beta=0.1, desirable_weight=2.0, undesirable_weight=2.0)
    log_ratios = float64(-1e4, -300, 0.5, 300, 1e4).requires_grad_()
    losses = at_log_ratios(loss, log_ratios, desirable, level=0.5)
    close(losses, (2, 2, 1, 0, 0) if desirable else (0, 0, 1, 2, 2))
    # Steepest at the level: weight * beta / 4; flat for what is right by far and for what is wrong by far.
    sign = -1 if desirable else 1
    close(torch.autograd.grad(losses.sum(), log_ratios)[0], (0, 0, sign * 0.05, 0, 0))


def test_losses_fall_for_desirable_and_rise_for_undesirable_completions() -> None:
    loss = KTO(beta=0.1, desirable_weight=1.0, undesirable_weight=1.3)
    line = torch.linspace(-30, 30, 61, dtype=torch.float64)
    assert (at_log_ratios(loss, line, desirable=True, level=0.3).diff() < 0).all()
    assert (at_log_ratios(loss, line, desirable=False, level=0.3).diff() > 0).all()


def test_a_label_and_its_opposite_cost_one_weight_together(close) -> None:
    loss = KTO(beta=0.3, desirable_weight=1.0, undesirable_weight=1.0)
    line = torch.linspace(-9, 9, 19, dtype=torch.float64)
    close(at_log_ratios(loss, line, desirable=True, level=0.4) + at_log_ratios(loss, line, desirable=False, level=0.4), 1.0)


def test_a_batch_of_one_class_is_that_part_of_a_mixed_batch(policy: PairLogps, reference: PairLogps) -> None:
    loss, z = KTO(beta=0.1, desirable_weight=1.0, undesirable_weight=1.5), torch.tensor(0.1, dtype=torch.float64)
    whole = loss(completions(policy), completions(reference), PAIRS_OF_THREE, z).losses
    for side, tokens, before, label, part in (
        (policy.chosen, policy.chosen_tokens, reference.chosen, True, whole[:3]),
        (policy.rejected, policy.rejected_tokens, reference.rejected, False, whole[3:]),
    ):
        alone = loss(
            CompletionLogps(logps=side.requires_grad_(), tokens=tokens),
            CompletionLogps(logps=before, tokens=tokens),
            torch.full((3,), label),
            z,
        ).losses
        torch.testing.assert_close(alone, part)
        assert torch.autograd.grad(alone.sum(), side)[0].isfinite().all()


def test_labels_must_be_those_of_the_completions(policy: PairLogps, reference: PairLogps) -> None:
    loss = KTO(beta=0.1, desirable_weight=1.0, undesirable_weight=1.0)
    with pytest.raises(ValueError, match=r"policy has 6 completions, reference has 6, desirable is \[1\]"):
        loss(completions(policy), completions(reference), torch.tensor([True]), torch.tensor(0.0))
