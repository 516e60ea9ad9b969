from __future__ import annotations

import math
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignkit.losses.orpo import ORPO, log1mexp
from alignkit.losses.outputs import PairLogps


def single_tokens(chosen: Tensor, rejected: Tensor) -> PairLogps:
    tokens = torch.ones(len(chosen), dtype=torch.int64)
    return PairLogps(chosen=chosen, rejected=rejected, chosen_tokens=tokens, rejected_tokens=tokens)


def test_losses_of_the_fact_sheet(close, policy: PairLogps) -> None:
    output = ORPO(odds_weight=0.1)(policy)
    close(output.losses, (2.0693147181, 2.5461161250, 2.5618789704))
    close(output.losses.mean(), 2.3924366045)
    close(output.chosen_rewards, (-2.0, -2.5, -2.5))
    close(output.rejected_rewards, (-2.0, -3.0, -18.5 / 7))


def test_log_odds_of_the_fact_sheet(close, policy: PairLogps) -> None:
    # What the weight multiplies is -log sigmoid of the log-odds ratios 0, .5345813028, .1546913506.
    terms = ORPO(odds_weight=1.0)(policy).losses - ORPO(odds_weight=0.0)(policy).losses
    close(terms, [math.log(1 + math.exp(-odds)) for odds in (0.0, 0.5345813028, 0.1546913506)])
    close(terms.mean(), 0.5910327117)


def test_without_its_weight_it_is_the_likelihood_per_token(close, policy: PairLogps) -> None:
    close(ORPO(odds_weight=0.0)(policy).losses, (2.0, 2.5, 2.5))


@pytest.mark.parametrize(
    ("a", "value"),
    [(-1e-3, -6.9082552373), (-1e-8, -18.420680749), (-1e-17, -39.143946581), (-50.0, -1.928749848e-22), (-200.0, -1.3838965267e-87)],
)
def test_log1mexp_of_the_fact_sheet(float64, a: float, value: float) -> None:
    assert log1mexp(float64(a)).item() == pytest.approx(value, rel=1e-10)


@settings(derandomize=True, deadline=None)
@given(a=st.floats(-300, -1e-12))
def test_log1mexp_equals_the_plain_formula_in_200_digits(float64, a: float) -> None:
    with localcontext() as context:
        context.prec = 200
        expected = float((1 - Decimal(a).exp()).ln())
    assert log1mexp(float64(a)).item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("a", [-1e-7, -1e-3, -math.log(2), -1.0, -100.0, -1e4])
def test_log1mexp_has_the_slope_of_minus_the_odds(a: float) -> None:
    point = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(log1mexp(point), point)
    assert slope.item() == pytest.approx(1 / math.expm1(-a) * -1 if a > -700 else 0.0, rel=1e-9)


@settings(derandomize=True, deadline=None)
@given(p=st.floats(0.01, 0.99), q=st.floats(0.01, 0.99), weight=st.floats(0, 5))
def test_losses_equal_odds_taken_from_probabilities(float64, p: float, q: float, weight: float) -> None:
    odds = (p / (1 - p)) / (q / (1 - q))
    expected = -math.log(p) - weight * math.log(odds / (1 + odds))  # sigmoid(log odds) is odds / (1 + odds)
    losses = ORPO(odds_weight=weight)(single_tokens(float64(math.log(p)), float64(math.log(q)))).losses
    assert losses.item() == pytest.approx(expected, rel=1e-11)


def test_losses_fall_with_the_chosen_and_rise_with_the_rejected_likelihood() -> None:
    line, fixed = torch.linspace(-12, -0.01, 50, dtype=torch.float64), torch.full((50,), -1.5, dtype=torch.float64)
    assert (ORPO(odds_weight=0.1)(single_tokens(line, fixed)).losses.diff() < 0).all()
    assert (ORPO(odds_weight=0.1)(single_tokens(fixed, line)).losses.diff() > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_odds_end_where_a_completion_is_certain(dtype: torch.dtype) -> None:
    # log odds(-1e-7) = -1e-7 - ln(1e-7) = 16.118; against even odds, a = -ln 2, the ratio is e^16.118.
    certain = torch.tensor([0.0, -1e-9, -1e-7], dtype=dtype, requires_grad=True)
    even = torch.full((3,), -math.log(2), dtype=dtype)
    right, wrong = ORPO(odds_weight=1.0)(single_tokens(certain, even)).losses, ORPO(odds_weight=1.0)(single_tokens(even, certain)).losses
    assert right.tolist() == pytest.approx([1e-7, 1e-7, 2e-7], abs=2e-9)
    assert wrong.tolist() == pytest.approx([math.log(2) + 16.1180957] * 3, rel=1e-6)
    (slope,) = torch.autograd.grad(wrong.sum(), certain)
    assert slope.tolist() == pytest.approx([0.0, 0.0, 1e7], rel=1e-6)
