from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.errors import UserError
from alignkit.losses.outputs import PairRewards
from alignkit.losses.sep_dph import SepDPH


@pytest.mark.parametrize(
    ("epsilon", "chosen_terms", "rejected_terms", "mean"),
    [
        (0.0, (0.3132616875, 0.9740769842, 0.1269280110), (0.6931471806, 0.9740769842, 0.3132616875), 1.1315841783),
        (0.1, (0.4132616875, 0.9240769842, 0.3269280110), (0.6931471806, 0.9240769842, 0.4132616875), 1.2315841783),
        (0.25, (0.5632616875, 0.8490769842, 0.6269280110), (0.6931471806, 0.8490769842, 0.5632616875), 1.3815841783),
    ],
)
def test_losses_of_the_fact_sheet(
    close, float64, scores: PairRewards, epsilon: float, chosen_terms: tuple, rejected_terms: tuple, mean: float
) -> None:
    output = SepDPH(epsilon=epsilon)(scores)
    close(output.losses, float64(*chosen_terms) + float64(*rejected_terms))
    close(output.losses.mean(), mean)


def test_rewards_are_the_scores(scores: PairRewards) -> None:
    output = SepDPH(epsilon=0.1)(scores)
    assert output.chosen_rewards.tolist() == [1.0, -0.5, 2.0]
    assert output.rejected_rewards.tolist() == [0.0, 0.5, -1.0]
    assert output.margins.tolist() == [1.0, -1.0, 3.0]
    assert output.accuracies.tolist() == [1.0, 0.0, 1.0]


def test_gradients_of_the_fact_sheet(close, scores: PairRewards) -> None:
    scores.chosen.requires_grad_()
    scores.rejected.requires_grad_()
    SepDPH(epsilon=0.1)(scores).losses.sum().backward()
    close(scores.chosen.grad, (-0.1689414214, -0.5224593312, -0.0192029220))
    close(scores.rejected.grad, (0.4, 0.5224593312, 0.1689414214))


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.4])
def test_a_head_that_scores_zero_costs_two_ln_2(close, float64, epsilon: float) -> None:
    zero = float64(0.0)
    close(SepDPH(epsilon=epsilon)(PairRewards(chosen=zero, rejected=zero)).losses, 1.3862943611)


@pytest.mark.parametrize(
    ("epsilon", "reward", "minimum"),
    [(0.01, 4.5951198501, 0.1120030687), (0.1, 2.1972245773, 0.6501659468), (0.3, 0.8472978604, 1.2217286041)],
)
def test_the_minimum_is_where_both_scores_are_the_log_odds(close, float64, epsilon: float, reward: float, minimum: float) -> None:
    chosen, rejected = float64(reward).requires_grad_(), float64(-reward).requires_grad_()
    losses = SepDPH(epsilon=epsilon)(PairRewards(chosen=chosen, rejected=rejected)).losses
    close(losses, minimum)
    for gradient in torch.autograd.grad(losses.sum(), (chosen, rejected)):
        close(gradient, 0.0)


@pytest.mark.parametrize(("wins", "reward"), [(1.0, 2.1972245773), (0.75, 0.8472978604), (0.5, 0.0), (0.25, -0.8472978604)])
def test_a_completion_is_scored_by_how_often_it_wins(close, float64, wins: float, reward: float) -> None:
    score, other = float64(reward).requires_grad_(), float64(0.0)
    loss = SepDPH(epsilon=0.1)
    won, lost = loss(PairRewards(chosen=score, rejected=other)), loss(PairRewards(chosen=other, rejected=score))
    close(torch.autograd.grad((wins * won.losses + (1 - wins) * lost.losses).sum(), score)[0], 0.0)


def test_losses_fall_with_the_chosen_and_rise_with_the_rejected_score() -> None:
    grid = torch.linspace(-30, 30, 61, dtype=torch.float64)
    loss, zeros = SepDPH(epsilon=0.0), torch.zeros_like(grid)
    assert (loss(PairRewards(chosen=grid, rejected=zeros)).losses.diff() < 0).all()
    assert (loss(PairRewards(chosen=zeros, rejected=grid)).losses.diff() > 0).all()


def test_a_shift_of_both_scores_is_noticed(scores: PairRewards) -> None:
    loss = SepDPH(epsilon=0.1)
    shifted = PairRewards(chosen=scores.chosen + 5, rejected=scores.rejected + 5)
    assert (loss(shifted).losses > loss(scores).losses + 0.1).all()


@settings(derandomize=True, deadline=None)
@given(chosen=st.floats(-1e3, 1e3), rejected=st.floats(-1e3, 1e3), epsilon=st.floats(0, 0.499))
def test_losses_are_two_textbook_cross_entropies(float64, exact_logistic, chosen: float, rejected: float, epsilon: float) -> None:
    loss = SepDPH(epsilon=epsilon)(PairRewards(chosen=float64(chosen), rejected=float64(rejected))).losses.item()
    assert loss == pytest.approx(exact_logistic(chosen, epsilon) + exact_logistic(-rejected, epsilon), rel=1e-12, abs=1e-15)


@settings(derandomize=True, deadline=None)
@given(chosen=st.floats(-50, 50), rejected=st.floats(-50, 50), epsilon=st.floats(0, 0.499))
def test_negating_and_swapping_the_scores_changes_nothing(float64, chosen: float, rejected: float, epsilon: float) -> None:
    loss = SepDPH(epsilon=epsilon)
    there = loss(PairRewards(chosen=float64(chosen), rejected=float64(rejected))).losses.item()
    back = loss(PairRewards(chosen=float64(-rejected), rejected=float64(-chosen))).losses.item()
    assert there == pytest.approx(back, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("epsilon", [-0.01, 0.5, 1, math.nan, "0.1", None, False])
def test_epsilon_out_of_range_is_named(epsilon: object) -> None:
    with pytest.raises(UserError, match=r"loss\.epsilon = .*\[0, 0\.5\).*flipped"):
        SepDPH(epsilon=epsilon)  # type: ignore[arg-type]
