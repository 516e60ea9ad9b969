from __future__ import annotations

import math

import pytest
import torch

from alignkit.losses.regression import Regression

LOSS = Regression()


def test_losses_are_squared_errors(close, float64) -> None:
    output = LOSS(float64(1, -0.5, 3), float64(3, 0, 3))
    close(output.losses, (4, 0.25, 0))
    assert output.rewards.tolist() == [1.0, -0.5, 3.0]


def test_gradients_move_scores_to_their_ratings(close, float64) -> None:
    scores = float64(1, -0.5, 3).requires_grad_()
    output = LOSS(scores, float64(3, -1, 3))
    output.losses.sum().backward()
    close(scores.grad, (-4, 1, 0))  # 2 (r - rating)
    assert not output.rewards.requires_grad


def test_the_best_constant_score_is_the_mean_rating(close, float64) -> None:
    ratings = float64(1, 2, 4, 5, 0.5)
    constant = float64(2.5).requires_grad_()  # 12.5 / 5
    (gradient,) = torch.autograd.grad(LOSS(constant.expand(5), ratings).losses.sum(), constant)
    close(gradient, 0.0)


def test_gradients_are_the_derivatives_of_the_losses(float64) -> None:
    assert torch.autograd.gradcheck(lambda scores: LOSS(scores, float64(3, -1)).losses, (float64(1, 0.5).requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_losses_are_float32_at_least(dtype: torch.dtype) -> None:
    # 256 - 0.5: bfloat16 has no number between 255 and 256
    losses = LOSS(torch.tensor([256.0], dtype=dtype), torch.tensor([0.5])).losses
    assert losses.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert losses.item() == 255.5**2


def test_far_out_the_loss_is_finite() -> None:
    assert LOSS(torch.tensor([1e4, -1e4]), torch.zeros(2)).losses.tolist() == [1e8, 1e8]


def test_no_completions_have_no_losses() -> None:
    assert LOSS(torch.zeros(0), torch.zeros(0)).losses.shape == (0,)


def test_a_completion_without_a_rating_is_refused(float64) -> None:
    with pytest.raises(ValueError, match="2 of 3 ratings are NaN"):
        LOSS(float64(1, 2, 3), float64(math.nan, 2, math.nan))


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), ()])
def test_ratings_that_would_broadcast_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="equally long"):
        LOSS(torch.zeros(2), torch.zeros(shape))
