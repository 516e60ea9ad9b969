from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignkit.errors import UserError
from alignkit.losses.bradley_terry import BradleyTerry
from alignkit.losses.cdpo import CDPO
from alignkit.losses.con_dph import ConDPH
from alignkit.losses.outputs import PairLogps, PairRewards


def at_margins(margins: Tensor) -> PairRewards:
    return PairRewards(chosen=0.3 + margins, rejected=torch.full_like(margins, 0.3, requires_grad=False))


@pytest.mark.parametrize(
    ("epsilon", "losses", "mean"),
    [
        (0.0, (0.3132616875, 1.3132616875, 0.0485873516), 0.5583702422),
        (0.1, (0.4132616875, 1.2132616875, 0.3485873516), 0.6583702422),
        (0.25, (0.5632616875, 1.0632616875, 0.7985873516), 0.8083702422),
    ],
)
def test_losses_of_the_fact_sheet(close, scores: PairRewards, epsilon: float, losses: tuple, mean: float) -> None:
    output = ConDPH(epsilon=epsilon)(scores)
    close(output.losses, losses)
    close(output.losses.mean(), mean)


def test_rewards_are_the_scores(scores: PairRewards) -> None:
    output = ConDPH(epsilon=0.1)(scores)
    assert output.chosen_rewards.tolist() == [1.0, -0.5, 2.0]
    assert output.rejected_rewards.tolist() == [0.0, 0.5, -1.0]
    assert output.margins.tolist() == [1.0, -1.0, 3.0]
    assert output.accuracies.tolist() == [1.0, 0.0, 1.0]


def test_gradients_of_the_fact_sheet(close, float64, scores: PairRewards) -> None:
    scores.chosen.requires_grad_()
    scores.rejected.requires_grad_()
    ConDPH(epsilon=0.1)(scores).losses.sum().backward()
    expected = float64(-0.1689414214, -0.6310585786, 0.0525741268)
    close(scores.chosen.grad, expected)
    close(scores.rejected.grad, -expected)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.4])
def test_a_head_that_scores_zero_costs_ln_2(close, float64, epsilon: float) -> None:
    close(ConDPH(epsilon=epsilon)(at_margins(float64(0.0))).losses, 0.6931471806)


@pytest.mark.parametrize(
    ("epsilon", "margin", "minimum"),
    [(0.01, 4.5951198501, 0.0560015344), (0.1, 2.1972245773, 0.3250829734), (0.3, 0.8472978604, 0.6108643021)],
)
def test_the_gradient_turns_where_the_margin_is_the_log_odds(close, float64, epsilon: float, margin: float, minimum: float) -> None:
    margins = float64(margin - 1, margin, margin + 1).requires_grad_()
    losses = ConDPH(epsilon=epsilon)(at_margins(margins)).losses
    (gradient,) = torch.autograd.grad(losses.sum(), margins)
    assert gradient[0] < -1e-3
    close(gradient[1], 0.0)
    assert gradient[2] > 1e-3
    close(losses[1], minimum)


@pytest.mark.parametrize(
    ("flips", "epsilon", "margin"),
    [(0.1, 0.0, 2.1972245773), (0.1, 0.1, 1.5163474894), (0.2, 0.1, 1.0459685552), (0.3, 0.1, 0.6632942174), (0.4, 0.1, 0.3227733923)],
)
def test_flipped_labels_and_smoothing_shrink_the_margin_together(close, float64, flips: float, epsilon: float, margin: float) -> None:
    margins = float64(margin).requires_grad_()
    loss = ConDPH(epsilon=epsilon)
    expected_loss = (1 - flips) * loss(at_margins(margins)).losses + flips * loss(at_margins(-margins)).losses
    close(torch.autograd.grad(expected_loss.sum(), margins)[0], 0.0)


def test_losses_fall_as_the_margin_grows_where_labels_are_sure() -> None:
    assert (ConDPH(epsilon=0.0)(at_margins(torch.linspace(-30, 30, 61, dtype=torch.float64))).losses.diff() < 0).all()


def test_a_shift_of_both_scores_changes_nothing(scores: PairRewards) -> None:
    loss = ConDPH(epsilon=0.1)
    shifted = PairRewards(chosen=scores.chosen + 5, rejected=scores.rejected + 5)
    torch.testing.assert_close(loss(shifted).losses, loss(scores).losses)


def test_far_out_the_loss_is_linear_on_both_sides(close, float64) -> None:
    losses = ConDPH(epsilon=0.1)(PairRewards(chosen=float64(-1e4, 1e4), rejected=float64(0, 0))).losses
    close(losses, (9000, 1000))  # (1 - epsilon) * 1e4 when wrong, epsilon * 1e4 when too sure


def test_equals_bradley_terry_without_smoothing(scores: PairRewards) -> None:
    plain = BradleyTerry(use_margin=False, centering=0.0)(scores)
    torch.testing.assert_close(ConDPH(epsilon=0.0)(scores).losses, plain.losses, rtol=0, atol=0)


def test_on_implicit_rewards_it_is_cdpo(close, policy: PairLogps, reference: PairLogps) -> None:
    implicit = PairRewards(chosen=0.1 * (policy.chosen - reference.chosen), rejected=0.1 * (policy.rejected - reference.rejected))
    ours, theirs = ConDPH(epsilon=0.2)(implicit), CDPO(beta=0.1, epsilon=0.2)(policy, reference)
    close(ours.losses, theirs.losses)
    close(ours.margins, theirs.margins)


@settings(derandomize=True, deadline=None)
@given(chosen=st.floats(-1e3, 1e3), rejected=st.floats(-1e3, 1e3), epsilon=st.floats(0, 0.499))
def test_losses_equal_the_textbook_form_in_60_digits(float64, exact_logistic, chosen: float, rejected: float, epsilon: float) -> None:
    loss = ConDPH(epsilon=epsilon)(PairRewards(chosen=float64(chosen), rejected=float64(rejected))).losses.item()
    assert loss == pytest.approx(exact_logistic(chosen - rejected, epsilon), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("epsilon", [-0.01, 0.5, 1, math.nan, "0.1", None, False])
def test_epsilon_out_of_range_is_named(epsilon: object) -> None:
    with pytest.raises(UserError, match=r"loss\.epsilon = .*\[0, 0\.5\).*flipped"):
        ConDPH(epsilon=epsilon)  # type: ignore[arg-type]
