"""Facts 2.1 and 5 (E0): the exact optimum, and who reaches it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignkit.best_of_n import kl_bound
from alignkit.lab.tabular import (
    TabularWorld,
    divergences,
    part_of,
    random_world,
    scored_rollout,
    total_variations,
    train_dpo,
    train_ipo,
    train_ppo,
    trust_region_update,
)
from alignkit.losses.dpo import DPO
from alignkit.losses.ipo import IPO
from alignkit.losses.ppo import PPO
from alignkit.losses.rollout_outputs import PolicyTokens
from alignkit.rejection import acceptance_chances

WORLD = TabularWorld(
    reference=torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log(), rewards=torch.tensor([[1.0, 0.0, 2.0]], dtype=torch.float64)
)
TABLE = {
    0.1: ([0.0001134869, 0.0000000031, 0.9998865100], 18.3906755840, 1.9998865069, 1.6081894847, 1.8390675584),
    0.5: ([0.2477195183, 0.0201151147, 0.7321653670], 2.7023109669, 1.7120502523, 0.7217895377, 1.3511554834),
    1.0: ([0.4332679799, 0.0956342294, 0.4710977907], 1.1432516706, 1.3754635613, 0.2322118907, 1.1432516706),
    5.0: ([0.5051016389, 0.2481253471, 0.2467730140], 0.1898484242, 0.9986476668, 0.0098811091, 0.9492421211),
}
TRPO = {"max_kl": 0.01, "damping": 0.1, "iterations": 10, "backtracks": 10, "ratio": 0.8}


def close(actual: Tensor, expected: object) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=torch.float64).expand_as(actual), rtol=0, atol=1e-9)


def any_world(seed: int, prompts: int = 4, responses: int = 5) -> tuple[TabularWorld, torch.Generator]:
    """A world, and what else is drawn for the test."""
    return random_world(prompts=prompts, responses=responses, seed=seed), torch.Generator().manual_seed(seed + 1)


def random_policy(world: TabularWorld, generator: torch.Generator) -> Tensor:
    return torch.randn(world.rewards.shape, generator=generator, dtype=torch.float64).log_softmax(dim=-1)


def single_prompt(reference: list[float], rewards: list[float]) -> TabularWorld:
    table = torch.tensor([reference, rewards], dtype=torch.float64)
    return TabularWorld(reference=table[:1].log(), rewards=table[1:])


def ppo(beta: float, **changes: object) -> PPO:
    """Nothing whitened: at the optimum all rewards of a prompt are equal, and the noise of the sample ends with them."""
    fixed = {
        "kl_coefficient": beta,
        "kl_estimator": "k1",
        "kl_target": None,
        "kl_horizon": 10_000.0,
        "clip_range": 0.2,
        "value_clip_range": None,
        "value_coefficient": 0.5,
        "value_trunk": "shared",
        "discount": 1.0,
        "gae_lambda": 0.95,
        "entropy_coefficient": 0.0,
        "ptx_coefficient": 0.0,
        "epochs": 4,
        "minibatches": 1,
        "stop_kl": None,
        "whiten_rewards": False,
        "whiten_advantages": False,
    }
    return PPO(**{**fixed, **changes})


@pytest.mark.parametrize("beta", TABLE)
def test_the_optimum_is_that_of_the_fact_sheet(beta: float) -> None:
    optimum, log_partition, reward, divergence, value = TABLE[beta]
    best = WORLD.optimum(beta)
    close(best.exp(), [optimum])
    close(WORLD.log_partition(beta), [log_partition])
    close(WORLD.expected_rewards(best), [reward])
    close(divergences(best, WORLD.reference), [divergence])
    close(WORLD.values(best, beta), [value])
    close(beta * WORLD.log_partition(beta), [value])


@pytest.mark.parametrize("beta", TABLE)
def test_beta_h_of_the_optimum_is_the_true_reward_gap(beta: float) -> None:
    implicit = beta * (WORLD.optimum(beta) - WORLD.reference)[0]
    close(torch.stack((implicit[0] - implicit[1], implicit[2] - implicit[0], implicit[2] - implicit[1])), [1.0, 1.0, 2.0])


def test_the_annotator_prefers_as_the_fact_sheet_says() -> None:
    chances = WORLD.preferences()[0]
    close(torch.stack((chances[0, 1], chances[2, 0], chances[2, 1])), [0.7310585786, 0.7310585786, 0.8807970780])
    close(chances + chances.T, 1.0)


@given(seed=st.integers(0, 2**31), beta=st.floats(0.05, 10))
@settings(max_examples=30, deadline=None)
def test_what_a_policy_lacks_in_value_is_beta_times_its_divergence_from_the_optimum(seed: int, beta: float) -> None:
    world, generator = any_world(seed)
    policy = random_policy(world, generator)
    gap = beta * world.log_partition(beta) - world.values(policy, beta)
    close(gap, beta * divergences(policy, world.optimum(beta)))
    assert (gap >= 0).all()


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_reward_and_divergence_of_the_optimum_fall_with_beta(seed: int) -> None:
    world, _ = any_world(seed)
    optima = [world.optimum(beta) for beta in (0.1, 0.3, 1.0, 3.0)]
    assert (torch.stack([world.expected_rewards(best) for best in optima]).diff(dim=0) < 0).all()
    assert (torch.stack([divergences(best, world.reference) for best in optima]).diff(dim=0) < 0).all()


@given(seed=st.integers(0, 2**31), n=st.integers(2, 64))
@settings(max_examples=20, deadline=None)
def test_no_best_of_n_beats_the_optimum_of_its_own_divergence(seed: int, n: int) -> None:
    world, _ = any_world(seed)
    best = world.best_of(n)
    assert (divergences(best, world.reference) <= kl_bound(n) + 1e-12).all()
    for beta in (0.1, 1.0):
        assert (world.values(best, beta) <= beta * world.log_partition(beta) + 1e-9).all()


def test_the_best_of_n_is_counted_for_each_prompt_alone() -> None:
    # Of two samples at (.5, .3, .2) the best has the chances (.25, .39, .36), and where no sample is better than another .5, .3, .2.
    world = TabularWorld(reference=WORLD.reference.expand(2, -1), rewards=torch.tensor([[1.0, 2.0, 3.0], [7.0, 7.0, 7.0]]).double())
    close(world.best_of(2).exp(), [[0.25, 0.39, 0.36], [0.5, 0.3, 0.2]])
    close(divergences(world.best_of(2), world.reference), [0.1406384674, 0.0])


def test_the_best_of_more_samples_than_can_be_told_apart_is_the_best_response() -> None:
    best = WORLD.best_of(100_000)
    close(best.exp(), [[0.0, 0.0, 1.0]])
    close(divergences(best, WORLD.reference), -WORLD.reference[0, 2])


@given(seed=st.integers(0, 2**31), beta=st.floats(0.05, 10))
@settings(max_examples=20, deadline=None)
def test_exact_gradients_of_the_value_are_those_of_autograd_and_vanish_at_the_optimum(seed: int, beta: float) -> None:
    world, generator = any_world(seed)
    policy = random_policy(world, generator)
    logits = policy.clone().requires_grad_()
    world.values(logits.log_softmax(dim=-1), beta).sum().backward()
    close(world.value_gradients(policy, beta), logits.grad)
    close(world.value_gradients(world.optimum(beta), beta), 0.0)


def test_ppo_climbs_the_exact_gradient_of_the_value_in_expectation() -> None:
    # All responses in place of samples, each weighed by its chance: what the first pass over an endless rollout would sum up to.
    world, generator = any_world(5)
    beta, loss, policy = 0.4, ppo(0.4), random_policy(world, generator)
    prompts = torch.arange(4).repeat_interleave(5)
    responses = torch.arange(5).repeat(4)
    values = torch.randn(4, generator=generator, dtype=torch.float64)  # any baseline will do
    rollout = scored_rollout(world, policy, values, prompts, responses)
    stored = part_of(rollout, loss.advantages(rollout, beta), torch.arange(20))
    logits = policy.clone().requires_grad_()
    logps = logits.log_softmax(dim=-1)[prompts, responses]
    losses = loss(PolicyTokens(logps=logps, values=values[prompts], entropies=None), stored).losses
    (policy.exp().flatten() * losses).sum().backward()
    close(-logits.grad, world.value_gradients(policy, beta))


def test_rejection_samples_follow_the_optimum() -> None:
    world, _ = any_world(3, prompts=1)
    kept = world.reference[0].exp() * acceptance_chances(world.rewards[0], 0.5)
    close(kept / kept.sum(), world.optimum(0.5)[0].exp())


@pytest.mark.parametrize("beta", TABLE)
def test_dpo_reaches_the_optimum(beta: float) -> None:
    policy = train_dpo(WORLD, DPO(beta=beta), iterations=300)
    assert float(total_variations(policy, WORLD.optimum(beta))) < 1e-6
    # Where the probability is 3e-9 as well: every implicit gap is the true one.
    implicit = beta * (policy - WORLD.reference)[0]
    torch.testing.assert_close(implicit - implicit[1], WORLD.rewards[0], rtol=0, atol=1e-4)


def test_dpo_reaches_the_optimum_of_every_prompt() -> None:
    world, _ = any_world(0)
    assert float(total_variations(train_dpo(world, DPO(beta=0.5), iterations=300), world.optimum(0.5)).max()) < 1e-6


@pytest.mark.parametrize("beta", [0.01, *TABLE])
def test_ipo_reaches_the_closed_form_of_its_paper(beta: float) -> None:
    # P(first preferred to any) = (1/2 + s(1) + s(-1)) / 3 = .5: its own half, and two chances that add up to one.
    chances = torch.tensor([0.5, (0.5 + 0.2689414214 + 0.1192029220) / 3, (0.5 + 0.7310585786 + 0.8807970780) / 3], dtype=torch.float64)
    tilted = WORLD.reference[0].exp() * (chances / beta).exp()
    close(WORLD.ipo_optimum(beta).exp(), (tilted / tilted.sum())[None])
    assert float(total_variations(train_ipo(WORLD, IPO(beta=beta), iterations=300), WORLD.ipo_optimum(beta))) < 1e-9


@given(seed=st.integers(0, 2**31), beta=st.floats(0.05, 5))
@settings(max_examples=10, deadline=None)
def test_ipo_reaches_its_optimum_of_every_prompt_in_every_gap_of_log_ratios(seed: int, beta: float) -> None:
    world, _ = any_world(seed)
    found, exact = (policy - world.reference for policy in (train_ipo(world, IPO(beta=beta), iterations=300), world.ipo_optimum(beta)))
    close(found - found[:, :1], exact - exact[:, :1])


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_where_all_annotators_agree_ipo_stops_at_half_the_inverse_of_beta_and_dpo_does_not(beta: float) -> None:
    # A gap of 800 is preferred with chance 1: sigmoid(800) rounds to it.
    world = single_prompt([0.3, 0.7], [800.0, 0.0])

    def gap(policy: Tensor) -> float:
        ratios = (policy - world.reference)[0]
        return float(ratios[0] - ratios[1])

    assert gap(train_ipo(world, IPO(beta=beta), iterations=300)) == pytest.approx(1 / (2 * beta), abs=1e-9)
    shorter, longer = (gap(train_dpo(world, DPO(beta=beta), iterations=steps)) for steps in (8, 32))
    assert shorter < longer > 1 / (2 * beta)


@pytest.mark.parametrize(("chance", "gap"), [(0.9, 4.0), (0.75, 2.5), (0.5, 0.0)])
def test_ipo_parts_two_responses_by_what_annotators_agree_on(chance: float, gap: float) -> None:
    # (p - 1/2) / beta at beta = .1.
    world = single_prompt([0.6, 0.4], [torch.tensor(chance).logit().item(), 0.0])
    ratios = (train_ipo(world, IPO(beta=0.1), iterations=300) - world.reference)[0]
    assert float(ratios[0] - ratios[1]) == pytest.approx(gap, abs=1e-6)


@pytest.mark.parametrize("beta", TABLE)
def test_ppo_reaches_the_optimum(beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    policy = train_ppo(WORLD, ppo(beta), updates=60, samples=512, lr=0.1, generator=generator)
    assert float(total_variations(policy, WORLD.optimum(beta))) < 0.02


def test_ppo_reaches_the_optimum_of_every_prompt() -> None:
    world, generator = any_world(1, prompts=3)
    policy = train_ppo(world, ppo(0.5, minibatches=2, epochs=2), updates=60, samples=1536, lr=0.1, generator=generator)
    assert float(total_variations(policy, world.optimum(0.5)).max()) < 0.02


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_ppo_reaches_the_optimum_with_whitened_advantages_and_clipped_values(beta: float) -> None:
    # Whitening blows the last noise up to variance one; the learning rate falls to zero under it.
    loss = ppo(beta, whiten_advantages=True, value_clip_range=0.2, value_coefficient=0.1)
    policy = train_ppo(WORLD, loss, updates=60, samples=1024, lr=0.1, generator=torch.Generator().manual_seed(0))
    assert float(total_variations(policy, WORLD.optimum(beta))) < 0.02


def test_at_the_optimum_ppo_has_nothing_to_learn() -> None:
    # All rewards of a prompt are beta log Z there: no advantage, no ratio, no error of the value.
    world, generator = any_world(2)
    beta, loss, prompts = 0.7, ppo(0.7), torch.arange(4).repeat_interleave(64)
    best, values = world.optimum(beta), beta * world.log_partition(beta)
    responses = torch.multinomial(best.exp()[prompts], 1, generator=generator).squeeze(-1)
    rollout = scored_rollout(world, best, values, prompts, responses)
    stored = part_of(rollout, loss.advantages(rollout, beta), torch.arange(256))
    close(stored.advantages, 0.0)
    close(loss(PolicyTokens(logps=rollout.logps, values=rollout.values, entropies=None), stored).losses, 0.0)


@pytest.mark.parametrize("beta", TABLE)
def test_trpo_climbs_within_its_region_to_the_optimum(beta: float) -> None:
    policy, values = WORLD.reference, []
    for _ in range(150):
        new = trust_region_update(WORLD, policy, beta=beta, **TRPO)
        if new is policy:
            break
        assert float(divergences(policy, new).mean()) <= 0.01
        values.append(float(WORLD.values(new, beta).mean()))
        policy = new
    assert values == sorted(values)
    assert float(total_variations(policy, WORLD.optimum(beta))) < 0.02


@given(seed=st.integers(0, 2**31), beta=st.floats(0.1, 5))
@settings(max_examples=20, deadline=None)
def test_a_step_of_trpo_never_loses_and_never_leaves_the_region(seed: int, beta: float) -> None:
    world, generator = any_world(seed)
    policy = random_policy(world, generator)
    new = trust_region_update(world, policy, beta=beta, **TRPO)
    assert float(divergences(policy, new).mean()) <= 0.01
    assert float((world.values(new, beta) - world.values(policy, beta)).mean()) > 0


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"reference \[1, 3\], rewards \[3\]"):
        TabularWorld(reference=WORLD.reference, rewards=WORLD.rewards[0])
    with pytest.raises(ValueError, match="does not sum to one"):
        TabularWorld(reference=WORLD.reference.exp(), rewards=WORLD.rewards)
    world, generator = any_world(0)
    with pytest.raises(ValueError, match="10 samples for 4 prompts"):
        train_ppo(world, ppo(0.5), updates=1, samples=10, lr=0.1, generator=generator)
