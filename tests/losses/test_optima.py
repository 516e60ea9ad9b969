"""What each loss says that it pulls to (`optimum`), found again by minimising it with the values of its file."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit.configuration import loss_settings, packaged
from alignkit.loss_table import loss_names
from alignkit.losses.aot import rank_partners
from alignkit.losses.families import AdaptivePairLoss, PairRewardsLoss, ReferenceFreeLoss
from alignkit.losses.outputs import CompletionLogps, PairLogps, PairRewards, Ranking, TokenLogps
from alignkit.losses.rollout_families import SampledLoss
from alignkit.losses.rollout_outputs import PolicyTokens, RolloutTokens, ScoredRollout
from alignkit.resolution import LOSSES, loss_fields, resolve

TOKENS = 4
"""Of each completion, so that a sum is no mean."""
GAP = 2.0
"""Rating gap of each pair."""
LN_9 = 2.1972245773362196
"""log((1 - 0.1) / 0.1): facts 1.5."""

EQUATIONS = {
    "cdpo": LN_9,
    "centered_rewards": 0.0,
    "con_dph": LN_9,
    "exo": 6.906754778648554,  # ln 999
    "ipo": 5.0,
    "ipo_avg": 5.0,
    "l2_rewards": 0.0,
    "reward_aware_dpo": GAP,
    "reward_aware_dpo_kl": GAP,
    "sep_dph": LN_9,
    "sppo": 5.0,
}
"""Losses of pairs that are least where an equation holds, and what both sides of it are with the values of the files."""
PARTING = ("apo_zero", "bradley_terry", "discopop", "dpo", "dpo_js", "dpo_reference_free", "dpop", "re_po", "robust_dpo", "ropo", "simpo")
FAR_OUT = dict.fromkeys(PARTING, (20, -20)) | {
    "apo_down": (-20, -40),
    "dpo_alpha": (1, -1),  # exponential in the rejected side
    "dpo_forward_kl": (1, -1),
    "dpo_nll": (0, -20),
    "dpo_nll_mean": (0, -20),
    "nca": (0, -20),
    "orpo": (0, -20),
}
"""Losses of pairs that fall without end, and the way that their two log-ratios or scores go."""
FAR_OUT_OF_OTHERS = ("bco", "kto", "plackett_luce", "plackett_luce_dpo")
SAMPLING = ("grpo", "ppo", "rloo", "trpo")
OTHERS = ("aot", "contrastive", "forward_kl", "hinge", "orthogonality", "regression", "reverse_kl", "sft", "slic", *SAMPLING)
"""Those of this line and of the one above have tests of their own below."""


def build(name: str, **changes: Any) -> Any:
    options = loss_settings(packaged("loss")[name], allow_code=()).options
    kind = resolve(LOSSES, name)
    return kind(**{field.name: changes.get(field.name, loss_fields(options)[field.name]) for field in dataclasses.fields(kind)})


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def logps(chosen: Tensor, rejected: Tensor) -> PairLogps:
    lengths, gaps = torch.full(chosen.shape, TOKENS), torch.full_like(chosen, GAP, requires_grad=False)
    return PairLogps(chosen=chosen, rejected=rejected, chosen_tokens=lengths, rejected_tokens=lengths, margins=gaps)


def pair_losses(loss: Any, chosen: Tensor, rejected: Tensor) -> Tensor:
    """[B] losses of head scores, or of log-probs under a policy whose reference finds everything certain, so that they are log-ratios."""
    if isinstance(loss, PairRewardsLoss):
        return loss(PairRewards(chosen=chosen, rejected=rejected)).losses
    if isinstance(loss, ReferenceFreeLoss):
        return loss(logps(chosen, rejected)).losses
    zeros = torch.zeros_like(chosen, requires_grad=False)
    level = (numbers(loss.start)[0],) if isinstance(loss, AdaptivePairLoss) else ()
    return loss(logps(chosen, rejected), logps(zeros, zeros), *level).losses


def least(function: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where a smooth function [] of a tensor is least, downhill from `start`."""
    point = start.double().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([point], max_iter=1000, tolerance_grad=1e-13, tolerance_change=1e-15, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = function(point)
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    return point.detach()


def evaluate(side: str, loss: Any, chosen: float, rejected: float) -> float:
    """One side of a stated equation: `beta h` and `1 / (2 beta)` become products."""
    per_token = TOKENS if loss.optimum.endswith("per token") else 1
    names = {field.name: getattr(loss, field.name) for field in dataclasses.fields(loss)}
    names |= {"log": math.log, "h": (chosen - rejected) / per_token, "g": GAP, "u": chosen, "v": rejected}
    names |= {"r_chosen": chosen, "r_rejected": rejected}
    side = side.replace("log(pi/ref)(chosen)", "u").replace("log(pi/ref)(rejected)", "v")
    return eval(re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", side), {}, names)


def test_each_loss_is_tested_for_what_it_says() -> None:
    assert sorted([*EQUATIONS, *FAR_OUT, *FAR_OUT_OF_OTHERS, *OTHERS]) == sorted(loss_names())
    endless = {name for name in loss_names() if resolve(LOSSES, name).optimum.startswith("none: ")}
    assert endless == {*FAR_OUT, *FAR_OUT_OF_OTHERS}


@pytest.mark.parametrize("start", [(0.0, 0.0), (3.0, -1.0), (-2.0, 4.0)])
@pytest.mark.parametrize("name", EQUATIONS)
def test_a_pair_goes_where_the_equation_holds(name: str, start: tuple[float, float]) -> None:
    loss = build(name)
    chosen, rejected = least(lambda sides: pair_losses(loss, sides[:1], sides[1:]).sum(), numbers(*start)).tolist()
    for side in loss.optimum.partition(", ")[0].split(" = "):
        assert evaluate(side, loss, chosen, rejected) == pytest.approx(EQUATIONS[name], abs=1e-5)


@pytest.mark.parametrize("name", EQUATIONS)
def test_nowhere_is_the_loss_lower(name: str) -> None:
    loss = build(name)
    bottom = least(lambda sides: pair_losses(loss, sides[:1], sides[1:]).sum(), numbers(0, 0))
    grid = torch.linspace(-200, 200, 201, dtype=torch.float64)
    everywhere = pair_losses(loss, *(side.flatten() for side in torch.meshgrid(grid, grid, indexing="ij")))
    assert everywhere.min() >= pair_losses(loss, bottom[:1], bottom[1:]) - 1e-12


@pytest.mark.parametrize("name", FAR_OUT)
def test_the_loss_still_falls_far_out(name: str) -> None:
    loss = build(name)
    chosen, rejected = (torch.arange(1, 9, dtype=torch.float64) * step for step in FAR_OUT[name])
    assert (pair_losses(loss, chosen, rejected).diff() < 0).all()


@pytest.mark.parametrize("name", ["cdpo", "con_dph", "sep_dph"])
def test_without_smoothing_there_is_no_finite_optimum(name: str) -> None:
    loss = build(name, epsilon=0.0)
    steps = torch.arange(20, 180, 20, dtype=torch.float64)
    assert (pair_losses(loss, steps, -steps).diff() < 0).all()


def test_without_smoothing_aot_parts_its_ranks_without_end() -> None:
    losses = [aot_loss(build("aot"), step * numbers(1, 3), step * numbers(-5, -1)).item() for step in (1, 2, 4, 8, 16)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-2


def aot_loss(loss: Any, chosen: Tensor, rejected: Tensor) -> Tensor:
    zeros = torch.zeros_like(chosen, requires_grad=False)
    return loss(logps(chosen, rejected), logps(zeros, zeros), rank_partners(chosen, rejected)).losses.sum()


def test_aot_parts_equal_ranks_by_the_stated_gap() -> None:
    sides = least(lambda sides: aot_loss(build("aot", epsilon=0.1), sides[:3], sides[3:]), numbers(3, -1, 2, 0, 5, -4))
    gaps = sides[:3].sort().values - sides[3:].sort().values
    assert (0.1 * gaps).tolist() == pytest.approx([LN_9] * 3, abs=1e-5)


def test_hinge_is_zero_from_one_over_beta_on() -> None:
    losses = pair_losses(build("hinge"), numbers(9.999, 10, 10.001, 1000), numbers(0, 0, 0, 0))
    assert losses[0] > 0
    assert losses[1:].tolist() == [0, 0, 0]


def test_slic_is_zero_where_the_chosen_side_is_certain_and_the_gap_is_delta() -> None:
    chosen, rejected = numbers(0, 0, 0, -0.1, -3), numbers(-1, -50, -0.99, -50, -4)
    assert (pair_losses(build("slic"), chosen, rejected) > 0).tolist() == [False, False, True, True, True]
    assert (pair_losses(build("slic", nll_weight=0.0), chosen, rejected) > 0).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("name", ["dpo_nll", "dpo_nll_mean", "orpo"])
def test_the_likelihood_of_the_chosen_side_is_raised_until_it_is_certain(name: str) -> None:
    chosen = numbers(-40, -4, -1, -0.1, -0.001, 0)
    assert (pair_losses(build(name), chosen, torch.full_like(chosen, -1000)).diff() < 0).all()


@pytest.mark.parametrize("rejected", [-4.0, -40.0])
def test_apo_down_pulls_the_chosen_side_to_half_the_rejected_one(rejected: float) -> None:
    chosen = least(lambda side: pair_losses(build("apo_down"), side, numbers(rejected)).sum(), numbers(rejected / 2 + 1))
    assert chosen.item() == pytest.approx(rejected / 2, abs=1e-3)


@pytest.mark.parametrize("rejected", [0.0, -400.0])
def test_nca_pulls_the_chosen_reward_to_ln_2(rejected: float) -> None:
    chosen = least(lambda side: pair_losses(build("nca"), side, numbers(rejected)).sum(), numbers(0))
    assert 0.1 * chosen.item() == pytest.approx(0.6931471805599453, abs=1e-6)


@pytest.mark.parametrize("margin", [2.0, 20.0])
def test_centering_keeps_the_sum_of_bradley_terrys_rewards_at_zero(margin: float) -> None:
    loss = build("bradley_terry", centering=0.01)
    shift = least(lambda shift: pair_losses(loss, shift + margin, shift - margin).sum(), numbers(3))
    assert 2 * shift.item() == pytest.approx(0, abs=1e-6)
    assert (pair_losses(loss, numbers(2, 4, 8, 16), -numbers(2, 4, 8, 16)).diff() < 0).all()


def test_discopop_holds_an_untrained_pair_at_a_local_minimum() -> None:
    z = torch.linspace(-2, 0, 20001, dtype=torch.float64)
    lowest = pair_losses(build("discopop"), z / 0.05, torch.zeros_like(z)).argmin()
    assert z[lowest].item() == pytest.approx(-0.1186, abs=1.01e-4)


@pytest.mark.parametrize(("name", "rise"), [("dpo_alpha", 2.0), ("dpo_forward_kl", 1.0), ("dpo_js", math.log(2))])
def test_the_score_of_a_chosen_side_is_bounded(name: str, rise: float) -> None:
    # From policy = reference up: from 0 to 1 / alpha, from -1 to 0, from log(1/2) to 0.
    losses = pair_losses(build(name), numbers(5, 1e4), numbers(0, 0))
    assert losses[0] > losses[1]
    assert losses[1].item() == pytest.approx(math.log1p(math.exp(-0.1 * rise)), abs=1e-9)


def test_dpop_charges_for_a_chosen_side_below_the_reference() -> None:
    below, at, above = pair_losses(build("dpop"), numbers(-1, 0, 5), numbers(-11, -10, -5)).tolist()
    assert below > at == above


def test_robust_dpo_never_loses_its_slope() -> None:
    z = torch.linspace(-50, 1000, 500, dtype=torch.float64).requires_grad_()
    (slopes,) = torch.autograd.grad(pair_losses(build("robust_dpo"), z / 0.1, torch.zeros_like(z)).sum(), z)
    assert (slopes <= -0.125 + 1e-12).all()  # 0.1 / (1 - 0.2)
    assert slopes[-1].item() == pytest.approx(-0.125, abs=1e-12)


@pytest.mark.parametrize(("eta", "sign"), [(0.4, 1), (0.5, 0), (0.6, -1), (0.9, -1)])
def test_re_po_parts_a_pair_while_labels_are_right_more_often_than_not(eta: float, sign: int) -> None:
    loss, gap = build("re_po"), numbers(3).requires_grad_()
    policy, reference = (logps(side, torch.zeros_like(side)) for side in (gap, torch.zeros_like(gap)))
    slope = torch.autograd.grad(loss(policy, reference, numbers(eta)[0]).losses.sum(), gap)[0].item()
    assert (slope > 1e-9) - (slope < -1e-9) == sign


@pytest.mark.parametrize("name", ["bco", "kto"])
@pytest.mark.parametrize("desirable", [True, False])
def test_a_labelled_completion_goes_up_or_down_without_end(name: str, desirable: bool) -> None:
    ratios = torch.arange(0, 160, 20, dtype=torch.float64) * (1 if desirable else -1)
    reference = CompletionLogps(logps=torch.zeros_like(ratios), tokens=torch.ones(8))
    policy = CompletionLogps(logps=ratios, tokens=torch.ones(8))
    losses = build(name)(policy, reference, torch.full((8,), desirable), numbers(0.7)[0]).losses
    assert (losses.diff() < 0).all()


RANKING = Ranking(example_index=torch.zeros(4, dtype=torch.int64), ranks=torch.tensor([0, 1, 1, 2]), examples=1)


def ranking_loss(name: str, rewards: Tensor) -> Tensor:
    if name == "plackett_luce":
        return build(name)(rewards, RANKING).losses.sum()
    reference = CompletionLogps(logps=torch.zeros_like(rewards, requires_grad=False), tokens=torch.ones(4))
    return build(name)(CompletionLogps(logps=rewards / 0.1, tokens=torch.ones(4)), reference, RANKING).losses.sum()


@pytest.mark.parametrize("name", ["plackett_luce", "plackett_luce_dpo"])
def test_ranks_part_without_end_and_ties_meet(name: str) -> None:
    losses = [ranking_loss(name, step * numbers(1, 0, 0, -1)).item() for step in (1, 2, 4, 8, 16, 32)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(2 * math.log(2), abs=1e-9)  # each of the tied two is the better one with chance 1/2
    tied = least(lambda tied: ranking_loss(name, torch.cat([numbers(9), tied, numbers(-9)])), numbers(3, -2))
    assert (tied[0] - tied[1]).item() == pytest.approx(0, abs=1e-6)


def test_regression_goes_to_the_rating() -> None:
    ratings = numbers(-3, 0.5, 7)
    scores = least(lambda scores: build("regression")(scores, ratings).losses.sum(), numbers(0, 0, 0))
    torch.testing.assert_close(scores, ratings)


def test_sft_is_least_where_each_token_is_certain() -> None:
    losses = build("sft")(TokenLogps(token_logps=numbers(-9, -1, -0.001, 0))).losses
    assert (losses.diff() < 0).all()
    assert losses[-1] == 0


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl"])
def test_divergences_end_at_the_reference(name: str) -> None:
    reference = numbers(0.5, 0.3, 0.15, 0.05).log()[None]
    logits = least(lambda logits: build(name)(logits.log_softmax(-1)[None], reference).sum(), numbers(-1, 0, 2, 1))
    torch.testing.assert_close(logits.softmax(-1), reference[0].exp(), rtol=0, atol=1e-6)


def test_contrastive_is_least_where_the_best_lie_with_the_prompt_and_the_others_opposite() -> None:
    loss, prompt = build("contrastive"), numbers(1, 2, -1)[None]
    ranking = Ranking(example_index=torch.zeros(3, dtype=torch.int64), ranks=torch.tensor([0, 1, 2]), examples=1)
    stated = loss(prompt, torch.cat([prompt, -prompt, -2 * prompt]), ranking).item()
    assert stated == pytest.approx(math.log1p(2 * math.exp(-40)), rel=1e-9)  # cosines of -1 and 1, over 0.05
    draws = torch.randn(200, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert all(loss(prompt, states, ranking).item() > stated for states in draws)


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (3, 3)])
def test_orthogonality_brings_all_singular_values_to_one(shape: tuple[int, int]) -> None:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    matrix = least(lambda matrix: build("orthogonality")((matrix,)).square(), start)  # squared: smooth where it is least
    torch.testing.assert_close(torch.linalg.svdvals(matrix), torch.ones(min(shape), dtype=torch.float64), rtol=0, atol=1e-5)


REFERENCE = numbers(0.5, 0.3, 0.2).log()
SCORES = numbers(1, 0, 0.5)
GROUPS = torch.cartesian_prod(torch.arange(3), torch.arange(3))
"""All that two samples of one prompt can be, whose answers are three tokens of which one is drawn."""


def expected_gradient(loss: SampledLoss, logits: Tensor) -> Tensor:
    """[3] of an update's first step, in the logits of the policy: the mean over all groups that it may draw."""
    logits = logits.detach().requires_grad_()
    logps = logits.log_softmax(-1)
    drawn, owners = GROUPS.flatten(), torch.arange(18)
    old, none = logps.detach()[drawn], torch.zeros(18, dtype=torch.float64)
    made = loss.advantages(
        ScoredRollout(
            logps=old,
            reference_logps=REFERENCE[drawn],
            values=none,
            scores=SCORES[drawn],
            completion_index=owners,
            example_index=owners // 2,
        ),
        loss.kl_coefficient,
    )
    stored = RolloutTokens(
        logps=old,
        reference_logps=REFERENCE[drawn],
        advantages=made.advantages,
        returns=made.returns,
        values=none,
        weights=none + 1,
        completion_index=owners,
        completions=18,
    )
    losses = loss(PolicyTokens(logps=logps[drawn], values=none), stored).losses
    chances = logps.detach()[GROUPS].sum(1).exp()
    return torch.autograd.grad(chances @ losses.view(9, 2).sum(1), logits)[0]


def trained(loss: SampledLoss) -> Tensor:
    """[3] log-probs where descent along that gradient ends."""
    logits = numbers(0, 1, -1)
    for _ in range(400):
        logits = logits - 2 * expected_gradient(loss, logits)
    assert expected_gradient(loss, logits).abs().max() < 1e-9
    return logits.log_softmax(-1)


@pytest.mark.parametrize("name", ["ppo", "rloo", "trpo"])
def test_rewards_that_pay_for_kl_tilt_the_reference_by_the_score(name: str) -> None:
    loss = build(name, kl_coefficient=0.7) if name == "rloo" else build(name, kl_coefficient=0.7, whiten_advantages=False)
    stated = (REFERENCE + SCORES / 0.7).log_softmax(-1)
    torch.testing.assert_close(trained(loss), stated, rtol=0, atol=1e-7)


def test_whitening_scales_the_gradient_of_ppo_and_leaves_its_direction() -> None:
    logits = numbers(0, 1, -1)
    plain, white = (expected_gradient(build("ppo", whiten_advantages=whitened), logits) for whitened in (False, True))
    assert torch.cosine_similarity(plain, white, dim=0).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
@pytest.mark.parametrize("scale", [True, False])
def test_grpo_ends_where_mean_advantages_and_the_pull_of_its_estimator_balance(estimator: str, scale: bool) -> None:
    policy = trained(build("grpo", kl_coefficient=0.7, kl_estimator=estimator, scale_by_std=scale))
    # Of two, the better one is half the gap above the mean, and one over root 2 unbiased deviations, whatever the gap.
    gaps = SCORES[:, None] - SCORES
    advantages = (gaps.sign() / math.sqrt(2) if scale else gaps / 2) @ policy.exp()
    if estimator == "k2":
        stated = (REFERENCE + advantages / 0.7).log_softmax(-1)
        torch.testing.assert_close(policy, stated, rtol=0, atol=1e-7)
    else:
        constant = advantages + 0.7 * (REFERENCE - policy).exp()
        torch.testing.assert_close(constant, constant[:1].expand(3), rtol=0, atol=1e-7)
