"""Optimizers against scalar versions written out in float64, and schedules against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from alignkit.optim import PRIOR, build_optimizer, build_schedule, learning_rate_factor
from alignkit.optimizer_settings import AdamWSettings, LaPropSettings, OptimizerSettings, RMSpropSettings, ScheduleSettings

GRADIENTS = [0.5, -0.3, 0.2, 0.7, -0.1, 0.4]


@pytest.fixture
def rmsprop() -> RMSpropSettings:
    return RMSpropSettings(
        name="rmsprop",
        lr=1e-2,
        weight_decay=0.0,
        decay_towards="init",
        decay_exclude=[],
        head_lr_multiplier=1.0,
        head_weight_decay=0.0,
        clip_norm=1.0,
        alpha=0.9,
        eps=1e-8,
    )


@pytest.fixture
def laprop(adamw) -> LaPropSettings:
    return LaPropSettings(**{**dataclasses.asdict(adamw), "name": "laprop"})


def weights(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor([values], dtype=torch.float64))


def train(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, gradients: Sequence[float]) -> list[float]:
    """The parameter's first element after each step with the given gradient."""
    path = []
    for gradient in gradients:
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        path.append(parameter.flatten()[0].item())
    return path


def adam_by_hand(start: float, gradients: Sequence[float], *, decay: float, prior: float, settings: AdamWSettings) -> list[float]:
    """p <- p - lr * decay * (p - prior), then Adam's step (Kingma & Ba 2015, algorithm 1)."""
    p, m, v, path = start, 0.0, 0.0, []
    for t, g in enumerate(gradients, start=1):
        p = p - settings.lr * decay * (p - prior)
        m = settings.beta1 * m + (1 - settings.beta1) * g
        v = settings.beta2 * v + (1 - settings.beta2) * g * g
        p = p - settings.lr * (m / (1 - settings.beta1**t)) / (math.sqrt(v / (1 - settings.beta2**t)) + settings.eps)
        path.append(p)
    return path


def build(settings: OptimizerSettings, parameter: nn.Parameter, **changes: object) -> torch.optim.Optimizer:
    return build_optimizer(dataclasses.replace(settings, **changes), trunk={"w": parameter}, heads=[])


def test_decay_towards_the_initial_weights_is_adam_after_a_step_back_to_them(adamw):
    settings = dataclasses.replace(adamw, lr=0.1, weight_decay=0.5, decay_towards="init")
    parameter = weights(1.7, -3.0)
    expected = adam_by_hand(1.7, GRADIENTS, decay=0.5, prior=1.7, settings=settings)
    assert train(build(settings, parameter), parameter, GRADIENTS) == pytest.approx(expected, abs=1e-12)
    assert parameter[0, 1].item() == pytest.approx(adam_by_hand(-3.0, GRADIENTS, decay=0.5, prior=-3.0, settings=settings)[-1], abs=1e-12)


def test_the_first_two_steps_by_hand(adamw):
    # step 1: nothing to decay; Adam moves by lr: 1 - .1 = .9
    # step 2: .9 - .1 * .5 * (.9 - 1) = .905; m = .9 * .05 + .1 * .5 = .095, v = .95 * .0125 + .05 * .25 = .024375; m / (1 - .81) = .5,
    #         v / (1 - .9025) = .25, so Adam moves by .1 * .5 / .5: .805
    parameter = weights(1.0)
    optimizer = build(adamw, parameter, lr=0.1, weight_decay=0.5, beta2=0.95, eps=2e-38)
    assert train(optimizer, parameter, [0.5, 0.5]) == pytest.approx([0.9, 0.805], abs=1e-12)


def test_the_first_step_decays_nothing(adamw, laprop, rmsprop):
    for settings in (adamw, laprop, rmsprop):
        decayed, plain = weights(1.7), weights(1.7)
        train(build(settings, decayed, weight_decay=50.0), decayed, [0.5])
        train(build(settings, plain), plain, [0.5])
        assert torch.equal(decayed, plain)
        train(build(settings, decayed, weight_decay=50.0), decayed, [0.5])


def test_the_prior_is_the_weights_at_the_first_step_and_part_of_the_state(adamw):
    parameter = weights(1.7)
    optimizer = build(adamw, parameter, weight_decay=0.5)
    parameter.data.fill_(2.5)  # as loading weights into a built model does
    train(optimizer, parameter, GRADIENTS)
    assert optimizer.state[parameter][PRIOR].tolist() == [[2.5]]
    assert optimizer.state_dict()["state"][0]["prior"].tolist() == [[2.5]]


@pytest.mark.parametrize("changes", [{"weight_decay": 0.0}, {"weight_decay": 0.5, "decay_towards": "zero"}])
def test_no_prior_is_stored_where_none_is_needed(changes, adamw):
    parameter = weights(1.7)
    optimizer = build(adamw, parameter, **changes)
    train(optimizer, parameter, GRADIENTS)
    assert PRIOR not in optimizer.state[parameter]


@pytest.mark.parametrize("name", ["adamw", "laprop", "rmsprop"])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(name, request):
    settings = dataclasses.replace(request.getfixturevalue(name), lr=0.1, weight_decay=0.5)
    whole = weights(1.7, -3.0)
    path = train(build(settings, whole), whole, GRADIENTS)
    first = weights(1.7, -3.0)
    before = build(settings, first)
    train(before, first, GRADIENTS[:3])
    file = io.BytesIO()
    torch.save(before.state_dict(), file)
    file.seek(0)
    second = nn.Parameter(first.detach().clone())
    resumed = build(settings, second)
    resumed.load_state_dict(torch.load(file))
    assert train(resumed, second, GRADIENTS[3:]) == path[3:]
    assert resumed.state[second][PRIOR].tolist() == [[1.7, -3.0]]
    # and without the state the prior would silently be another
    fresh = nn.Parameter(first.detach().clone())
    assert train(build(settings, fresh), fresh, GRADIENTS[3:]) != path[3:]


def test_decay_towards_zero_is_torchs_adamw(adamw):
    settings = dataclasses.replace(adamw, lr=0.1, weight_decay=0.5, decay_towards="zero")
    ours, theirs = weights(1.7, -3.0), weights(1.7, -3.0)
    betas = (settings.beta1, settings.beta2)
    torchs = torch.optim.AdamW([theirs], lr=settings.lr, betas=betas, eps=settings.eps, weight_decay=0.5)
    assert train(build(settings, ours), ours, GRADIENTS) == pytest.approx(train(torchs, theirs, GRADIENTS), abs=1e-12)
    assert (ours - theirs).abs().max() < 1e-12


def test_rmsprop_without_decay_is_torchs(rmsprop):
    ours, theirs = weights(1.7, -3.0), weights(1.7, -3.0)
    torchs = torch.optim.RMSprop([theirs], lr=rmsprop.lr, alpha=rmsprop.alpha, eps=rmsprop.eps)
    assert train(build(rmsprop, ours), ours, GRADIENTS) == train(torchs, theirs, GRADIENTS)


@pytest.mark.parametrize(
    ("decay", "towards", "expected"),
    [
        (0.5, "init", [0.9000000089, 0.8961598408, 0.8747387304]),
        (0.5, "zero", [0.8500000089, 0.7986598408, 0.7321137304]),
        (0.0, "init", [0.9000000089, 0.8911598412, 0.8645467229]),
    ],
)
def test_laprop_moves_as_in_the_fact_sheet(decay, towards, expected, laprop):
    # facts 1.6: p0 = 1, g = (.5, -.3, .2), lr .1, betas (.9, .95), eps 1e-8
    settings = dataclasses.replace(laprop, lr=0.1, weight_decay=decay, decay_towards=towards, beta1=0.9, beta2=0.95, eps=1e-8)
    parameter = weights(1.0)
    assert train(build(settings, parameter), parameter, [0.5, -0.3, 0.2]) == pytest.approx(expected, abs=2e-10)


@pytest.mark.parametrize(("towards", "prior"), [("init", 1.7), ("zero", 0.0)])
def test_rmsprops_decay_stays_out_of_its_statistics(towards, prior, rmsprop):
    # p <- p - lr * decay * (p - prior); v <- alpha v + (1 - alpha) g^2; p <- p - lr g / (sqrt(v) + eps)
    settings = dataclasses.replace(rmsprop, lr=0.1, weight_decay=0.5, decay_towards=towards)
    p, v, expected = 1.7, 0.0, []
    for g in GRADIENTS:
        p -= settings.lr * 0.5 * (p - prior)
        v = settings.alpha * v + (1 - settings.alpha) * g * g
        p -= settings.lr * g / (math.sqrt(v) + settings.eps)
        expected.append(p)
    parameter = weights(1.7)
    assert train(build(settings, parameter), parameter, GRADIENTS) == pytest.approx(expected, abs=1e-12)


def test_a_parameter_without_gradient_is_left_alone(adamw):
    used, unused = weights(1.7), weights(1.7)
    for towards in ("init", "zero"):
        settings = dataclasses.replace(adamw, weight_decay=0.5, decay_towards=towards)
        optimizer = build_optimizer(settings, trunk={"used": used, "unused": unused}, heads=[])
        train(optimizer, used, GRADIENTS)
        assert unused.tolist() == [[1.7]]


def groups_of(settings: OptimizerSettings, frozen: Sequence[str] = ()) -> dict[str, tuple[set[str], float, float, bool]]:
    """Names of parameters, learning rate, decay and whether towards the initial weights, of each group."""
    trunk = {name: nn.Parameter(torch.ones(shape)) for name, shape in {"embed": (4, 3), "mlp": (3, 3), "mlp.bias": 3, "norm": 3}.items()}
    heads = {"head.map": nn.Parameter(torch.ones(3, 3)), "head.bias": nn.Parameter(torch.ones(3))}
    for name in frozen:
        {**trunk, **heads}[name].requires_grad_(False)
    names = {parameter: name for name, parameter in {**trunk, **heads}.items()}
    optimizer = build_optimizer(settings, trunk=trunk, heads=heads.values())
    return {
        group["name"]: ({names[p] for p in group["params"]}, group["lr"], group["decay"], group["towards_init"])
        for group in optimizer.param_groups
    }


def test_towards_the_initial_weights_every_trunk_parameter_decays_that_is_not_excluded(adamw):
    settings = dataclasses.replace(adamw, lr=0.1, weight_decay=0.5, head_weight_decay=0.2, head_lr_multiplier=10, decay_exclude=["emb"])
    assert groups_of(settings) == {
        "trunk": ({"mlp", "mlp.bias", "norm"}, 0.1, 0.5, True),
        "trunk_undecayed": ({"embed"}, 0.1, 0.0, False),
        "heads": ({"head.map", "head.bias"}, 1.0, 0.2, False),
    }


def test_towards_zero_norms_and_biases_of_the_trunk_do_not_decay(rmsprop):
    settings = dataclasses.replace(rmsprop, lr=0.1, weight_decay=0.5, decay_towards="zero", decay_exclude=["emb"])
    assert groups_of(settings) == {
        "trunk": ({"mlp"}, 0.1, 0.5, False),
        "trunk_undecayed": ({"embed", "mlp.bias", "norm"}, 0.1, 0.0, False),
        "heads": ({"head.map", "head.bias"}, 0.1, 0.0, False),
    }


def test_frozen_parameters_are_in_no_group(adamw):
    assert groups_of(adamw, frozen=["embed", "mlp", "mlp.bias", "norm"]).keys() == {"heads"}
    assert groups_of(adamw, frozen=["mlp", "head.map"])["trunk"][0] == {"embed", "mlp.bias", "norm"}
    assert groups_of(adamw, frozen=["mlp", "head.map"])["heads"][0] == {"head.bias"}


def test_heads_decay_towards_zero_while_the_trunk_decays_towards_its_start(adamw):
    settings = dataclasses.replace(adamw, lr=0.1, weight_decay=0.5, head_weight_decay=0.3, head_lr_multiplier=2.0)
    trunk, head = weights(1.7), weights(1.7)
    optimizer = build_optimizer(settings, trunk={"w": trunk}, heads=[head])
    for gradient in GRADIENTS:
        trunk.grad, head.grad = (torch.full_like(p, gradient) for p in (trunk, head))
        optimizer.step()
    assert trunk.item() == pytest.approx(adam_by_hand(1.7, GRADIENTS, decay=0.5, prior=1.7, settings=settings)[-1], abs=1e-12)
    faster = dataclasses.replace(settings, lr=0.2)
    assert head.item() == pytest.approx(adam_by_hand(1.7, GRADIENTS, decay=0.3, prior=0.0, settings=faster)[-1], abs=1e-12)


def schedule(name: str, *, warmup: int, ratio: float) -> ScheduleSettings:
    return ScheduleSettings(name=name, warmup_steps=warmup, final_ratio=ratio)


def test_warm_up_climbs_in_equal_parts_and_reaches_one_in_the_step_after_it():
    # (s + 1) / (W + 1), the DPO repository's min(1, (s + 1) / 151) at W = 150 (facts 2.3)
    for name in ("constant", "linear", "cosine"):
        factors = [learning_rate_factor(schedule(name, warmup=4, ratio=0.1), step, 20) for step in range(5)]
        assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0], abs=1e-15)
    assert learning_rate_factor(schedule("constant", warmup=150, ratio=1.0), 0, 1000) == pytest.approx(1 / 151)


def test_a_constant_schedule_stays_at_one():
    assert {learning_rate_factor(schedule("constant", warmup=2, ratio=1.0), step, 20) for step in range(2, 20)} == {1.0}


def test_a_line_to_the_final_ratio():
    # warm-up ends in step 2, the last step is 10: eight equal steps from 1 to .2, each .1
    factors = [learning_rate_factor(schedule("linear", warmup=2, ratio=0.2), step, 11) for step in range(2, 11)]
    assert factors == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2], abs=1e-12)


def test_half_a_cosine_to_the_final_ratio():
    # .1 + .9 (1 + cos(pi x)) / 2 at x = 0, 1/4, 1/3, 1/2, 3/4, 1: cos = 1, .7071067812, .5, 0, -.7071067812, -1
    steps = {5: 1.0, 8: 0.8681980515, 9: 0.775, 11: 0.55, 14: 0.2318019485, 17: 0.1}
    factors = {step: learning_rate_factor(schedule("cosine", warmup=5, ratio=0.1), step, 18) for step in steps}
    assert factors == pytest.approx(steps, abs=1e-10)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_last_step_has_the_final_ratio_and_nothing_comes_after_it(name):
    for steps, warmup in [(2, 0), (10, 0), (10, 8), (500, 10)]:
        assert learning_rate_factor(schedule(name, warmup=warmup, ratio=0.25), steps - 1, steps) == pytest.approx(0.25)
        assert learning_rate_factor(schedule(name, warmup=warmup, ratio=0.25), steps, steps) == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_a_run_of_one_step_trains_at_the_full_rate(name):
    assert learning_rate_factor(schedule(name, warmup=0, ratio=0.0), 0, 1) == 1.0


def test_trunk_and_heads_follow_the_schedule_each_from_its_own_rate(adamw):
    settings = dataclasses.replace(adamw, lr=0.1, head_lr_multiplier=10.0)
    trunk, head = weights(1.0), weights(1.0)
    optimizer = build_optimizer(settings, trunk={"w": trunk}, heads=[head])
    scheduler = build_schedule(schedule("linear", warmup=1, ratio=0.0), optimizer, steps=4)
    rates = []
    for _ in range(4):
        rates.append([group["lr"] for group in optimizer.param_groups])
        train(optimizer, trunk, [0.1])
        scheduler.step()
    # warm-up 1/2, then 1, 1/2, 0
    assert rates == [pytest.approx([r, 10 * r]) for r in (0.05, 0.1, 0.05, 0.0)]
