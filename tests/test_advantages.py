"""Rewards, advantages and estimates of KL: the fact sheet's values, exact expectations over small vocabularies, padded versions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignkit.advantages import (
    KL_ESTIMATORS,
    bounded_exp,
    clipped_surrogate,
    generalized_advantages,
    group_normalized,
    kl_estimates,
    leave_one_out,
    next_kl_coefficient,
    token_rewards,
    truncated_weights,
    whiten,
)

LENGTHS = (3, 1, 5, 2)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(actual: Tensor, expected: Tensor | list[float] | tuple[float, ...], atol: float = 1e-9) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=atol)


def owners(lengths: tuple[int, ...] = LENGTHS) -> Tensor:
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def padded(values: Tensor, lengths: tuple[int, ...] = LENGTHS) -> NDArray[np.float64]:
    """[C, L] with NaN where there is no token, so that whatever reads it is found."""
    table = np.full((len(lengths), max(lengths)), np.nan)
    for row, part in enumerate(values.split(list(lengths))):
        table[row, : len(part)] = part.numpy()
    return table


def ragged(table: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(table[~np.isnan(table)])


POLICY, REFERENCE = numbers(0.6, 0.3, 0.1), numbers(0.5, 0.3, 0.2)
KL = 0.0400782160


@pytest.mark.parametrize(
    ("estimator", "values", "mean", "deviation"),
    [
        ("k1", (0.1823215568, 0, -0.6931471806), KL, 0.2576503989),
        ("k2", (0.0166205750, 0, 0.2402265070), 0.0339949957, 0.0691445142),
        ("k3", (0.0156548901, 0, 0.3068528194), KL, 0.0892000405),
    ],
)
def test_estimators_over_a_vocabulary_of_three(estimator: str, values: tuple[float, ...], mean: float, deviation: float) -> None:
    estimates = kl_estimates((POLICY / REFERENCE).log(), estimator)
    close(estimates, values)
    expected = POLICY @ estimates
    assert expected.item() == pytest.approx(mean, abs=1e-9)
    assert (POLICY @ (estimates - expected).square()).sqrt().item() == pytest.approx(deviation, abs=1e-9)


def test_the_second_estimator_is_biased_and_the_others_are_not() -> None:
    exact = POLICY @ (POLICY / REFERENCE).log()
    biases = [(POLICY @ kl_estimates((POLICY / REFERENCE).log(), estimator) - exact).item() for estimator in ("k1", "k2", "k3")]
    assert biases == pytest.approx([0, -0.0060832203, 0], abs=1e-9)


@pytest.mark.parametrize(
    ("shift", "estimator", "bias", "deviation"),
    [
        (0.1, "k1", 0, 20),
        (0.1, "k2", 0.0025, 1.417745),
        (0.1, "k3", 0, 1.416575),
        (1.0, "k1", 0, 2),
        (1.0, "k2", 0.25, 1.732051),
        (1.0, "k3", 0, 1.695030),
    ],
)
def test_bias_and_noise_between_two_gaussians(shift: float, estimator: str, bias: float, deviation: float) -> None:
    # N(0, 1) against N(shift, 1), by integration: log pi - log ref = shift^2 / 2 - shift z, and the KL is shift^2 / 2.
    z = torch.linspace(-14, 14, 28001, dtype=torch.float64)
    chances = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi) * 1e-3
    exact = shift**2 / 2
    estimates = kl_estimates(exact - shift * z, estimator)
    mean = chances @ estimates
    assert ((mean - exact) / exact).item() == pytest.approx(bias, abs=1e-9)
    assert ((chances @ (estimates - mean).square()).sqrt() / exact).item() == pytest.approx(deviation, rel=5e-7)


def test_estimates_of_one_policy_are_zero_and_two_are_never_negative() -> None:
    assert all(kl_estimates(torch.zeros(3), estimator).tolist() == [0, 0, 0] for estimator in KL_ESTIMATORS)
    log_ratios = 10 * draw(1000)
    assert (kl_estimates(log_ratios, "k2") >= 0).all()
    assert (kl_estimates(log_ratios, "k3") >= 0).all()
    assert (kl_estimates(log_ratios, "k1") < 0).any()


def test_the_third_estimator_keeps_the_digits_of_small_ratios() -> None:
    # e^-x - 1 + x = x^2 / 2 - x^3 / 6 + ...; in float32 e^-x - 1 has none of them left.
    x = numbers(1e-5, -1e-5)
    close(kl_estimates(x, "k3") / (x.square() / 2 - x**3 / 6), [1, 1], atol=1e-5)


def gradients(seed: int) -> dict[str, Tensor]:
    """Exact gradients in the logits of a softmax over seven tokens: of both KLs, and the expectations of those of the estimators."""
    logits = draw(7, seed=seed).requires_grad_()
    reference = draw(7, seed=seed + 100).log_softmax(-1)
    logps = logits.log_softmax(-1)
    chances, log_ratios = logps.detach().exp(), logps - reference
    losses = {
        "KL(pi | ref)": (logps.exp() * log_ratios).sum(),
        "KL(ref | pi)": -(reference.exp() * log_ratios).sum(),
        "k1 in the reward": (chances * kl_estimates(log_ratios.detach(), "k1") * logps).sum(),
    } | {estimator: (chances * kl_estimates(log_ratios, estimator)).sum() for estimator in KL_ESTIMATORS}
    return {name: torch.autograd.grad(loss, logits, retain_graph=True)[0] for name, loss in losses.items()}


@pytest.mark.parametrize("seed", range(3))
def test_what_an_estimator_pulls_to_as_a_loss_on_samples_of_the_policy(seed: int) -> None:
    found = gradients(seed)
    assert found["k1"].abs().max() < 1e-14
    close(found["k2"], found["KL(pi | ref)"], atol=1e-13)
    close(found["k3"], found["KL(ref | pi)"], atol=1e-13)
    assert (found["KL(pi | ref)"] - found["KL(ref | pi)"]).abs().max() > 1e-2


@pytest.mark.parametrize("seed", range(3))
def test_the_first_estimator_in_the_reward_has_the_gradient_of_the_kl(seed: int) -> None:
    found = gradients(seed)
    close(found["k1 in the reward"], found["KL(pi | ref)"], atol=1e-13)


@pytest.mark.parametrize("estimator", KL_ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_estimates_and_their_slopes_are_finite_far_out_and_point_the_right_way(estimator: str, dtype: torch.dtype) -> None:
    x = torch.tensor([-1e4, -100, 100, 1e4], dtype=dtype, requires_grad=True)
    estimates = kl_estimates(x, estimator)
    (slopes,) = torch.autograd.grad(estimates.sum(), x)
    assert estimates.isfinite().all()
    assert slopes.isfinite().all()
    assert (slopes.sign() == (1 if estimator == "k1" else x.sign())).all()


def test_the_exponential_is_exact_up_to_20_and_goes_on_straight() -> None:
    x = numbers(-1e4, -20, 0, 0.1, 19.999, 20.5, 21).requires_grad_()
    values = bounded_exp(x)
    (slopes,) = torch.autograd.grad(values.sum(), x)
    assert values[:5].tolist() == x[:5].detach().exp().tolist()
    close(values[5:] / math.exp(20), [1.5, 2])
    close(slopes[5:] / math.exp(20), [1, 1])


LOGPS, REFERENCE_LOGPS = numbers(-1, -2, -0.5), numbers(-1.2, -1.5, -0.6)


@pytest.mark.parametrize(
    ("estimator", "estimates"),
    [
        ("k1", (0.2, -0.5, 0.1)),
        ("k2", (0.02, 0.125, 0.005)),
        ("k3", (0.0187307531, 0.1487212707, 0.0048374180)),
    ],
)
def test_a_token_pays_for_its_kl_and_the_last_one_gets_the_score(estimator: str, estimates: tuple[float, ...]) -> None:
    close(kl_estimates(LOGPS - REFERENCE_LOGPS, estimator), estimates)
    one = torch.zeros(3, dtype=torch.int64)
    rewards = token_rewards(numbers(0.8), LOGPS - REFERENCE_LOGPS, one, kl_coefficient=0.15, estimator=estimator)
    close(rewards, [-0.15 * estimates[0], -0.15 * estimates[1], 0.8 - 0.15 * estimates[2]])
    if estimator == "k1":
        close(rewards, [-0.03, 0.075, 0.785])
        assert rewards.sum().item() == pytest.approx(0.83, abs=1e-12)


def test_rewards_of_ragged_completions_are_those_of_padded_ones() -> None:
    scores, log_ratios = draw(4, seed=1), draw(11, seed=2)
    table = -0.3 * padded(log_ratios)
    for completion, length in enumerate(LENGTHS):
        table[completion, length - 1] += scores[completion]
    close(token_rewards(scores, log_ratios, owners(), kl_coefficient=0.3, estimator="k1"), ragged(table), atol=1e-15)


@pytest.mark.parametrize(
    ("discount", "gae_lambda", "advantages", "returns"),
    [
        (1, 0.95, (0.34675, 0.365, 0.7), (0.84675, 0.765, 1)),
        (1, 1, (0.4, 0.4, 0.7), (0.9, 0.8, 1)),
        (0.99, 0.95, (0.3302066750, 0.3553500000, 0.7), (0.8302066750, 0.7553500000, 1)),
        (1, 0, (0, -0.3, 0.7), (0.5, 0.1, 1)),
    ],
)
def test_advantages_of_three_tokens(discount: float, gae_lambda: float, advantages: tuple[float, ...], returns: tuple[float, ...]) -> None:
    rewards, values, one = numbers(0.1, -0.2, 1), numbers(0.5, 0.4, 0.3), torch.zeros(3, dtype=torch.int64)
    found = generalized_advantages(rewards, values, one, discount=discount, gae_lambda=gae_lambda)
    close(found[0], advantages)
    close(found[1], returns)


@pytest.mark.parametrize(("discount", "gae_lambda"), [(1, 0.95), (0.9, 0.7), (1, 1), (0, 0.5)])
def test_advantages_of_ragged_completions_are_those_of_padded_ones(discount: float, gae_lambda: float) -> None:
    rewards, values = draw(11, seed=3), draw(11, seed=4)
    advantages = np.full((len(LENGTHS), max(LENGTHS)), np.nan)
    for row, (reward, value) in enumerate(zip(padded(rewards), padded(values), strict=True)):
        running = next_value = 0.0
        for position in reversed(range(LENGTHS[row])):
            delta = reward[position] + discount * next_value - value[position]
            running = delta + discount * gae_lambda * running
            advantages[row, position], next_value = running, value[position]
    found = generalized_advantages(rewards, values, owners(), discount=discount, gae_lambda=gae_lambda)
    close(found[0], ragged(advantages), atol=1e-14)
    close(found[1], ragged(advantages) + values, atol=1e-14)


def test_with_lambda_1_returns_are_what_is_still_to_come_whatever_the_values() -> None:
    rewards = draw(11, seed=5)
    to_come = torch.cat([part.flip(0).cumsum(0).flip(0) for part in rewards.split(list(LENGTHS))])
    _, returns = generalized_advantages(rewards, draw(11, seed=6), owners(), discount=1, gae_lambda=1)
    close(returns, to_come, atol=1e-14)


def test_exact_values_leave_no_advantage() -> None:
    rewards = draw(11, seed=7)
    values = torch.cat([part.flip(0).cumsum(0).flip(0) for part in rewards.split(list(LENGTHS))])
    advantages, returns = generalized_advantages(rewards, values, owners(), discount=1, gae_lambda=0.95)
    close(advantages, torch.zeros(11), atol=1e-14)
    close(returns, values, atol=1e-14)


def test_no_tokens_have_no_advantages() -> None:
    none, nobody = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    advantages, returns = generalized_advantages(none, none, nobody, discount=1, gae_lambda=0.95)
    assert advantages.shape == returns.shape == (0,)
    assert token_rewards(none, none, nobody, kl_coefficient=0.1, estimator="k1").shape == (0,)
    assert leave_one_out(none, nobody).shape == group_normalized(none, nobody).shape == whiten(none).shape == (0,)


def test_whitening_with_the_population_variance() -> None:
    whitened = whiten(numbers(0.34675, 0.365, 0.7))
    close(whitened, [-0.7625528528, -0.6501712413, 1.4127240941])
    # TRL takes the unbiased variance.
    close(whitened * math.sqrt(2 / 3), [-0.6226218365, -0.5308626291, 1.1534844655], atol=1e-6)


def test_whitening_rewards_keeps_their_mean_where_it_is_not_shifted() -> None:
    rewards = numbers(0.1, -0.2, 1)
    kept = whiten(rewards, shift_mean=False)
    close(kept, [-0.0922322627, -0.6805806568, 1.6728129196])
    assert kept.mean().item() == pytest.approx(rewards.mean().item(), abs=1e-12)


def test_whitened_values_have_mean_0_and_variance_1() -> None:
    values = 3 * draw(1000) + 7
    whitened = whiten(values)
    assert whitened.mean().item() == pytest.approx(0, abs=1e-12)
    assert whitened.square().mean().item() == pytest.approx(1, abs=1e-8)
    close(whitened + values.mean(), whiten(values, shift_mean=False), atol=1e-12)
    close(whiten(5 * values - 2), whitened, atol=1e-8)


def test_equal_values_are_whitened_to_zero() -> None:
    assert whiten(torch.full((5,), 3.0)).tolist() == [0] * 5
    assert whiten(torch.full((1,), 3.0), shift_mean=False).tolist() == [3]


FOUR = torch.zeros(4, dtype=torch.int64)


def test_each_sample_is_compared_with_the_others_of_its_prompt() -> None:
    rewards = numbers(1, 0, 2, 1)
    found = leave_one_out(rewards, FOUR)
    close(found, [0, -1.3333333333, 1.3333333333, 0])
    close(found, 4 / 3 * (rewards - rewards.mean()))


def test_normalised_within_a_prompt_with_the_unbiased_deviation() -> None:
    close(group_normalized(numbers(1, 0, 2, 1), FOUR), [0, -1.2247448714, 1.2247448714, 0])
    close(group_normalized(numbers(1, 0, 2, 1), FOUR) * math.sqrt(4 / 3), [0, -1.4142135624, 1.4142135624, 0])  # the population's
    close(group_normalized(numbers(1, 0, 2, 1), FOUR, scale=False), [0, -1, 1, 0])


def test_prompts_are_compared_each_with_itself() -> None:
    sizes = (4, 2, 3, 1)
    rewards, prompts = draw(10, seed=8), owners(sizes)
    parts = [part.numpy() for part in rewards.split(list(sizes))]
    others = [[value - np.delete(part, place).mean() for place, value in enumerate(part)] for part in parts[:3]]
    close(leave_one_out(rewards, prompts), [*np.concatenate(others), 0], atol=1e-14)
    normal = [(part - part.mean()) / part.std(ddof=1) for part in parts[:3]]
    close(group_normalized(rewards, prompts), [*np.concatenate(normal), 0], atol=1e-14)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6, -0.7])
@pytest.mark.parametrize("samples", [1, 2, 3, 6, 7])
def test_equal_scores_teach_nothing(value: float, samples: int) -> None:
    equal = torch.full((samples,), value)  # 0.1 is not the mean of three: that one is off in its last digit
    assert group_normalized(equal, torch.zeros(samples, dtype=torch.int64)).tolist() == [0] * samples
    close(leave_one_out(equal.double(), torch.zeros(samples, dtype=torch.int64)), [0] * samples, atol=1e-9)


def test_the_scale_of_scores_is_divided_out_however_small() -> None:
    scores = draw(4, seed=9)
    close(group_normalized(1e-6 * scores + 1, FOUR), group_normalized(scores, FOUR), atol=1e-8)
    close(group_normalized(1e-6 * scores, FOUR, scale=False), 1e-6 * (scores - scores.mean()), atol=1e-15)


def test_importance_weights_are_ratios_up_to_a_cap() -> None:
    log_ratios = numbers(0.1, -0.3, 0.5, 2, 1e4, -1e4).requires_grad_()
    weights = truncated_weights(log_ratios, 2.0)
    close(weights, [1.1051709181, 0.7408182207, 1.6487212707, 2, 2, 0])
    assert not weights.requires_grad
    assert truncated_weights(torch.zeros(3), 1.0).tolist() == [1, 1, 1]


def test_a_clipped_surrogate_pays_up_to_the_range_and_costs_in_full() -> None:
    surrogate = clipped_surrogate(numbers(0.1, -0.3, 0.5), numbers(1, -1, 2), 0.2)
    close(surrogate.ratios, [1.1051709181, 0.7408182207, 1.6487212707])
    close(surrogate.losses, [-1.1051709181, 0.8, -2.4])
    assert surrogate.losses.mean().item() == pytest.approx(-0.9017236394, abs=1e-9)
    assert surrogate.clipped.mean().item() == pytest.approx(0.6666666667, abs=1e-9)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "slope"),
    [(0.5, 1, 0), (0.5, -1, math.exp(0.5)), (-0.5, 1, -math.exp(-0.5)), (-0.5, -1, 0), (0, 1, -1), (0, -1, 1), (25, -1, math.exp(20))],
)
def test_a_clipped_action_has_no_gradient_and_others_have_that_of_the_ratio(log_ratio: float, advantage: float, slope: float) -> None:
    x = numbers(log_ratio).requires_grad_()
    surrogate = clipped_surrogate(x, numbers(advantage), 0.2)
    assert torch.autograd.grad(surrogate.losses.sum(), x)[0].item() == pytest.approx(slope, rel=1e-12)
    assert surrogate.clipped.item() == float(slope == 0)


@pytest.mark.parametrize(
    ("measured", "expected"), [(12, 0.151536), (6.6, 0.150768), (6, 0.15), (5.4, 0.149232), (3, 0.148464), (0, 0.148464)]
)
def test_the_price_of_kl_follows_its_target(measured: float, expected: float) -> None:
    assert next_kl_coefficient(0.15, measured, target=6, horizon=1e4, samples=512) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_have_the_precision_of_their_inputs(dtype: torch.dtype) -> None:
    tokens, scores = draw(11).to(dtype), draw(4).to(dtype)
    results = (
        token_rewards(scores, tokens, owners(), kl_coefficient=0.1, estimator="k3"),
        *generalized_advantages(tokens, tokens, owners(), discount=0.9, gae_lambda=0.9),
        whiten(tokens),
        leave_one_out(scores, FOUR),
        group_normalized(scores, FOUR),
        truncated_weights(tokens, 2.0),
        *clipped_surrogate(tokens, tokens, 0.2),
    )
    assert {result.dtype for result in results} == {dtype}
