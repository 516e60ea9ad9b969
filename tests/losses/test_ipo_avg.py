from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from alignkit.errors import UserError
from alignkit.losses.ipo import IPO
from alignkit.losses.ipo_avg import IPOAvg
from alignkit.losses.outputs import PairLogps


@pytest.mark.parametrize(
    ("beta", "losses", "mean"),
    [
        (0.1, (22.2469444444, 29.3402777778, 27.0028698980), 26.1966973734),
        (0.5, (0.5136111111, 2.0069444444, 1.4314413265), 1.3173322940),
    ],
)
def test_losses_of_the_fact_sheet(close, policy: PairLogps, reference: PairLogps, beta: float, losses: tuple, mean: float) -> None:
    output = IPOAvg(beta=beta)(policy, reference)
    close(output.losses, losses)
    close(output.losses.mean(), mean)


def test_rewards_are_the_averages_that_the_loss_compares(close, float64, policy: PairLogps, reference: PairLogps) -> None:
    output = IPOAvg(beta=0.1)(policy, reference)
    close(output.chosen_rewards, 0.1 * float64(1 / 5, -0.5 / 3, -1 / 8))
    close(output.rejected_rewards, 0.1 * float64(-0.5 / 6, 0.5 / 2, 0.5 / 7))
    close(output.margins, 0.1 * float64(0.28333333333, -0.41666666667, -0.19642857143))


def test_accuracy_follows_the_average_where_the_sum_says_otherwise() -> None:
    # Sums: 2 against 3, the rejected side is ahead; per token: 1 against .5, the chosen side is.
    zeros = torch.zeros(1)
    counts = {"chosen_tokens": torch.tensor([2]), "rejected_tokens": torch.tensor([6])}
    policy = PairLogps(chosen=torch.tensor([2.0]), rejected=torch.tensor([3.0]), **counts)
    reference = PairLogps(chosen=zeros, rejected=zeros, **counts)
    assert IPOAvg(beta=0.1)(policy, reference).accuracies.tolist() == [1.0]
    assert IPO(beta=0.1)(policy, reference).accuracies.tolist() == [0.0]


@pytest.mark.parametrize(("beta", "value"), [(0.1, 25.0), (0.5, 1.0), (1.0, 0.25)])
def test_policy_at_reference_costs_one_over_four_beta_squared(close, reference: PairLogps, beta: float, value: float) -> None:
    assert IPOAvg(beta=beta).value_at_reference() == pytest.approx(value, rel=1e-15)
    close(IPOAvg(beta=beta)(reference, reference).losses, value)


def test_gradients_are_shared_by_the_tokens_of_a_completion(close, float64, policy: PairLogps, reference: PairLogps) -> None:
    policy.chosen.requires_grad_()
    policy.rejected.requires_grad_()
    IPOAvg(beta=0.1)(policy, reference).losses.sum().backward()
    pull = 2 * (float64(17 / 60, -5 / 12, -11 / 56) - 5)  # 17/60 = 1/5 + .5/6, -5/12 = -.5/3 - .5/2, -11/56 = -1/8 - .5/7
    close(policy.chosen.grad, pull / float64(5, 3, 8))
    close(policy.rejected.grad, -pull / float64(6, 2, 7))


def test_losses_fall_up_to_the_target_and_rise_beyond(logps_with_gaps) -> None:
    losses = IPOAvg(beta=0.1)(*logps_with_gaps(torch.linspace(-20, 30, 51, dtype=torch.float64))).losses  # the target is the 26th
    assert (losses.diff()[:25] < 0).all()
    assert (losses.diff()[25:] > 0).all()


def test_equals_ipo_on_completions_of_one_token(float64, logps_with_gaps) -> None:
    pairs = logps_with_gaps(float64(-3, 0, 4))
    torch.testing.assert_close(IPOAvg(beta=0.1)(*pairs).losses, IPO(beta=0.1)(*pairs).losses)


def test_repeating_a_completion_changes_nothing(policy: PairLogps, reference: PairLogps) -> None:
    def tripled(logps: PairLogps) -> PairLogps:
        counted = {field.name: getattr(logps, field.name) for field in dataclasses.fields(logps)}
        return PairLogps(**{name: 3 * values for name, values in counted.items() if values is not None})

    loss = IPOAvg(beta=0.1)
    torch.testing.assert_close(loss(tripled(policy), tripled(reference)).losses, loss(policy, reference).losses)


def test_integer_and_float_counts_agree(policy: PairLogps, reference: PairLogps) -> None:
    counted = dataclasses.replace(policy, chosen_tokens=policy.chosen_tokens.double(), rejected_tokens=policy.rejected_tokens.double())
    torch.testing.assert_close(IPOAvg(beta=0.1)(counted, reference).losses, IPOAvg(beta=0.1)(policy, reference).losses, rtol=0, atol=0)


def test_completions_without_tokens_stay_finite(close) -> None:
    zeros, none = torch.zeros(2, dtype=torch.float64, requires_grad=True), torch.tensor([0, 0])
    empty = PairLogps(chosen=zeros, rejected=zeros, chosen_tokens=none, rejected_tokens=none)
    losses = IPOAvg(beta=0.1)(empty, empty).losses
    close(losses, 25.0)
    (gradient,) = torch.autograd.grad(losses.sum(), zeros)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("beta", [0, -0.1, math.inf, math.nan, "0.1", None, True])
def test_beta_out_of_range_is_named(beta: object) -> None:
    with pytest.raises(UserError, match=r"loss\.beta = .*\(0, inf\)"):
        IPOAvg(beta=beta)  # type: ignore[arg-type]
