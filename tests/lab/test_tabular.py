"""Facts 2.1 and 5 (E0): the exact optimum, and who reaches it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignkit.best_of_n import best_of_n
from alignkit.lab.tabular import (
    TabularWorld,
    divergences,
    part_of,
    scored_rollout,
    total_variations,
    train_dpo,
    train_ppo,
    trust_region_update,
)
from alignkit.losses.dpo import DPO
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


def random_world(seed: int, prompts: int = 4, responses: int = 5) -> tuple[TabularWorld, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(prompts, responses, generator=generator, dtype=torch.float64).log_softmax(dim=-1)
    rewards = torch.randn(prompts, responses, generator=generator, dtype=torch.float64)
    return TabularWorld(reference=reference, rewards=rewards), generator


def random_policy(world: TabularWorld, generator: torch.Generator) -> Tensor:
    return torch.randn(world.rewards.shape, generator=generator, dtype=torch.float64).log_softmax(dim=-1)


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
    world, generator = random_world(seed)
    policy = random_policy(world, generator)
    gap = beta * world.log_partition(beta) - world.values(policy, beta)
    close(gap, beta * divergences(policy, world.optimum(beta)))
    assert (gap >= 0).all()


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_reward_and_divergence_of_the_optimum_fall_with_beta(seed: int) -> None:
    world, _ = random_world(seed)
    optima = [world.optimum(beta) for beta in (0.1, 0.3, 1.0, 3.0)]
    assert (torch.stack([world.expected_rewards(best) for best in optima]).diff(dim=0) < 0).all()
    assert (torch.stack([divergences(best, world.reference) for best in optima]).diff(dim=0) < 0).all()


@given(seed=st.integers(0, 2**31), n=st.integers(2, 64))
@settings(max_examples=20, deadline=None)
def test_no_best_of_n_beats_the_optimum_of_its_own_divergence(seed: int, n: int) -> None:
    world, _ = random_world(seed, prompts=1)
    best = best_of_n(world.reference[0].exp(), world.rewards[0], n).log()[None]
    for beta in (0.1, 1.0):
        assert (world.values(best.clamp(min=-700), beta) <= beta * world.log_partition(beta) + 1e-9).all()


def test_rejection_samples_follow_the_optimum() -> None:
    world, _ = random_world(3, prompts=1)
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
    world, _ = random_world(0)
    assert float(total_variations(train_dpo(world, DPO(beta=0.5), iterations=300), world.optimum(0.5)).max()) < 1e-6


@pytest.mark.parametrize("beta", TABLE)
def test_ppo_reaches_the_optimum(beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    policy = train_ppo(WORLD, ppo(beta), updates=60, samples=512, lr=0.1, generator=generator)
    assert float(total_variations(policy, WORLD.optimum(beta))) < 0.02


def test_ppo_reaches_the_optimum_of_every_prompt() -> None:
    world, generator = random_world(1, prompts=3)
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
    world, generator = random_world(2)
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
    world, generator = random_world(seed)
    policy = random_policy(world, generator)
    new = trust_region_update(world, policy, beta=beta, **TRPO)
    assert float(divergences(policy, new).mean()) <= 0.01
    assert float((world.values(new, beta) - world.values(policy, beta)).mean()) > 0


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"reference \[1, 3\], rewards \[3\]"):
        TabularWorld(reference=WORLD.reference, rewards=WORLD.rewards[0])
    with pytest.raises(ValueError, match="does not sum to one"):
        TabularWorld(reference=WORLD.reference.exp(), rewards=WORLD.rewards)
    world, generator = random_world(0)
    with pytest.raises(ValueError, match="10 samples for 4 prompts"):
        train_ppo(world, ppo(0.5), updates=1, samples=10, lr=0.1, generator=generator)
