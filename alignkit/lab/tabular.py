"""The tabular world: a few prompts and responses whose rewards are known, so that every optimum is known too.

A response is one token. What DPO, IPO, PPO and TRPO should reach is a closed form here, and what they do reach is compared with it. All is
float64: what is left between them is the method's own error.

    P prompts, all equally likely   R responses to each   B pairs   N samples
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.optim import LBFGS, Adam

from alignkit.best_of_n import best_of_n
from alignkit.losses.dpo import DPO
from alignkit.losses.ipo import IPO
from alignkit.losses.outputs import PairLogps
from alignkit.losses.ppo import PPO
from alignkit.losses.rollout_outputs import Advantages, PolicyTokens, RolloutTokens, ScoredRollout
from alignkit.trust_region import backtrack, trust_region_step


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TabularWorld:
    """What the reference answers, and what each answer is worth.

    One prompt with three responses: `TabularWorld(reference=log([[0.5, 0.3, 0.2]]), rewards=[[1, 0, 2]])`.

    A policy is a table [P, R] of log-probabilities. Its value is E r - beta KL(policy | reference); Rafailov et al. 2023
    (arXiv:2305.18290), eq. 3 to 5 and appendix A.1.

    Raises:
        ValueError: if the tables are not of one shape [P, R], or a row of the reference does not sum to one.
    """

    reference: Tensor
    """[P, R] float64, log-probabilities in nats."""
    rewards: Tensor
    """[P, R] float64."""

    def __post_init__(self) -> None:
        if self.reference.dim() != 2 or self.reference.shape != self.rewards.shape:
            raise ValueError(f"reference {list(self.reference.shape)}, rewards {list(self.rewards.shape)}; must both be [P, R].")
        if not torch.allclose(self.reference.logsumexp(dim=-1), self.reference.new_zeros(())):
            raise ValueError("a row of the reference does not sum to one; give log-probabilities.")

    def log_partition(self, beta: float) -> Tensor:
        """log Z [P] nats, Z = sum of ref exp(r / beta); beta log Z is the value of the optimum."""
        return (self.reference + self.rewards / beta).logsumexp(dim=-1)

    def optimum(self, beta: float) -> Tensor:
        """[P, R] log-probabilities of the best policy there is, ref exp(r / beta) / Z."""
        return (self.reference + self.rewards / beta).log_softmax(dim=-1)

    def ipo_optimum(self, beta: float) -> Tensor:
        """[P, R] log-probabilities of IPO's optimum, ref exp(p / beta) / Z: p is how often a response is preferred to one of all responses.

        That other response is drawn uniformly, so that it may be the response itself. log(optimum / ref) then differs between any two
        responses by the gap of their p over beta. With two responses that is (P(first preferred) - 1/2) / beta: 1 / (2 beta) where all
        annotators agree, finite. Azar et al. 2023 (arXiv:2310.12036), theorem 1 with Psi the identity, and eq. 17.
        """
        return (self.reference + self.preferences().mean(dim=-1) / beta).log_softmax(dim=-1)

    def best_of(self, n: int) -> Tensor:
        """[P, R] log-probabilities of the best of `n` responses of the reference, exactly; see `alignkit.best_of_n`."""
        rows = zip(self.reference, self.rewards, strict=True)
        best = torch.stack([best_of_n(reference.exp(), rewards, n) for reference, rewards in rows])
        return best.clamp(min=torch.finfo(best.dtype).tiny).log()  # where even that underflows, 0 log 0 would not be a number

    def expected_rewards(self, policy: Tensor) -> Tensor:
        """E r [P] under a policy [P, R]."""
        return (policy.exp() * self.rewards).sum(dim=-1)

    def values(self, policy: Tensor, beta: float) -> Tensor:
        """E r - beta KL(policy | reference) [P] of a policy [P, R], in the unit of the rewards."""
        return self.expected_rewards(policy) - beta * divergences(policy, self.reference)

    def value_gradients(self, policy: Tensor, beta: float) -> Tensor:
        """[P, R]: the exact gradient of each prompt's value in the logits of its row, p (A - E A) with A = r - beta log(p / ref)."""
        return centred(policy, self.rewards - beta * (policy - self.reference))

    def preferences(self) -> Tensor:
        """[P, R, R]: the chance sigmoid(r_i - r_j) that a Bradley-Terry annotator prefers response i to response j."""
        return (self.rewards[:, :, None] - self.rewards[:, None, :]).sigmoid()


def random_world(*, prompts: int, responses: int, seed: int) -> TabularWorld:
    """Logits of the reference and rewards from a standard normal, [P, R]."""
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(prompts, responses, generator=generator, dtype=torch.float64).log_softmax(dim=-1)
    rewards = torch.randn(prompts, responses, generator=generator, dtype=torch.float64)
    return TabularWorld(reference=reference, rewards=rewards)


def centred(policy: Tensor, table: Tensor) -> Tensor:
    """p (table - E table) [P, R]: the gradient of E table in the logits of a policy [P, R], with the table held."""
    probabilities = policy.exp()
    return probabilities * (table - (probabilities * table).sum(dim=-1, keepdim=True))


def divergences(policy: Tensor, other: Tensor) -> Tensor:
    """KL(policy | other) [P] nats between tables [P, R] of log-probabilities."""
    return (policy.exp() * (policy - other)).sum(dim=-1)


def total_variations(policy: Tensor, other: Tensor) -> Tensor:
    """Half the summed distance of probabilities [P], in [0, 1], between tables [P, R] of log-probabilities."""
    return (policy.exp() - other.exp()).abs().sum(dim=-1) / 2


def train_dpo(world: TabularWorld, loss: DPO, *, iterations: int) -> Tensor:
    """The table [P, R] of log-probabilities that DPO reaches from the reference with endless data: that of `TabularWorld.optimum`."""
    return _minimum(world, loss, iterations)


def train_ipo(world: TabularWorld, loss: IPO, *, iterations: int) -> Tensor:
    """The table [P, R] of log-probabilities that IPO reaches from the reference with endless data: that of `TabularWorld.ipo_optimum`."""
    return _minimum(world, loss, iterations)


def _minimum(world: TabularWorld, loss: DPO | IPO, iterations: int) -> Tensor:
    """Where the loss is least when every ordered pair of responses is seen as often as the annotator prefers it.

    Both losses are convex in the logits: L-BFGS goes all the way. DPO's gradient has the factor beta and IPO's the target 1 / (2 beta):
    with DPO's divided out and IPO's multiplied in, both begin near one.
    """
    logits = world.reference.clone().requires_grad_()
    prompts, chosen, rejected = (1 - torch.eye(world.rewards.shape[1])).expand(len(world.rewards), -1, -1).nonzero(as_tuple=True)
    weights = world.preferences()[prompts, chosen, rejected]  # [B]
    scale = loss.beta if isinstance(loss, IPO) else 1 / loss.beta

    def pairs(table: Tensor) -> PairLogps:
        ones = torch.ones_like(prompts)
        return PairLogps(chosen=table[prompts, chosen], rejected=table[prompts, rejected], chosen_tokens=ones, rejected_tokens=ones)

    reference = pairs(world.reference)
    optimizer = LBFGS([logits], max_iter=iterations, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = scale * (weights * loss(pairs(logits.log_softmax(dim=-1)), reference).losses).sum()
        total.backward()
        return total

    optimizer.step(closure)
    return logits.detach().log_softmax(dim=-1)


def train_ppo(world: TabularWorld, loss: PPO, *, updates: int, samples: int, lr: float, generator: torch.Generator) -> Tensor:
    """The table [P, R] of log-probabilities that PPO reaches from the reference, against the penalty `loss.kl_coefficient`.

    Each update samples responses, scores them, and takes `loss.epochs` passes over them in `loss.minibatches` parts, drawn anew each
    time. Values are a table [P] learned beside the logits. Adam; the learning rate falls linearly to 0.

    Args:
        world: who scores.
        loss: with a fixed coefficient: `kl_target` is not looked at.
        updates: rollouts.
        samples: N of a rollout, a multiple of P: every prompt is answered equally often.
        lr: the first learning rate, of logits and values.
        generator: of the CPU.

    Raises:
        ValueError: if `samples` is not a multiple of P.
    """
    prompts = torch.arange(len(world.rewards)).repeat_interleave(samples // len(world.rewards))  # [N]
    if len(prompts) != samples or not samples:
        raise ValueError(f"{samples} samples for {len(world.rewards)} prompts; must be a multiple of them.")
    logits = world.reference.clone().requires_grad_()
    values = torch.zeros_like(world.rewards[:, 0]).requires_grad_()
    optimizer = Adam([logits, values], lr=lr)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = lr * (1 - update / updates)
        with torch.no_grad():
            responses = torch.multinomial(logits.softmax(dim=-1)[prompts], 1, generator=generator).squeeze(-1)  # [N]
            rollout = scored_rollout(world, logits.log_softmax(dim=-1), values, prompts, responses)
        advantages = loss.advantages(rollout, loss.kl_coefficient)
        for _ in range(loss.epochs):
            for part in torch.randperm(samples, generator=generator).chunk(loss.minibatches):
                logps = logits.log_softmax(dim=-1)[prompts[part], responses[part]]
                policy = PolicyTokens(logps=logps, values=values[prompts[part]], entropies=None)
                optimizer.zero_grad()
                loss(policy, part_of(rollout, advantages, part)).losses.mean().backward()
                optimizer.step()
    return logits.detach().log_softmax(dim=-1)


def scored_rollout(world: TabularWorld, policy: Tensor, values: Tensor, prompts: Tensor, responses: Tensor) -> ScoredRollout:
    """What PPO knows of responses [N] to prompts [N] when they are sampled from a policy [P, R]; values [P]. One token is a completion."""
    return ScoredRollout(
        logps=policy[prompts, responses],
        reference_logps=world.reference[prompts, responses],
        values=values[prompts],
        scores=world.rewards[prompts, responses],
        completion_index=torch.arange(len(prompts)),
        example_index=prompts,
    )


def part_of(rollout: ScoredRollout, advantages: Advantages, part: Tensor) -> RolloutTokens:
    """The stored side of a minibatch: the samples of a rollout at positions [n]; on-policy, so that all weigh the same."""
    logps = rollout.logps[part]
    return RolloutTokens(
        logps=logps,
        reference_logps=rollout.reference_logps[part],
        advantages=advantages.advantages[part],
        returns=None if advantages.returns is None else advantages.returns[part],
        values=None if rollout.values is None else rollout.values[part],
        weights=torch.ones_like(logps),
        completion_index=torch.arange(len(part)),
        completions=len(part),
    )


def trust_region_update(
    world: TabularWorld,
    policy: Tensor,
    *,
    beta: float,
    max_kl: float,
    damping: float,
    iterations: int,
    backtracks: int,
    ratio: float,
) -> Tensor:
    """One exact step of TRPO on the value against the KL penalty: the next policy [P, R], the same one where no fraction gains.

    A response is the whole episode, so that the surrogate is the value itself. Gradient and Fisher information of the logits are
    p (A - E A) / P with A = r - beta log(policy / reference), and F v = p (v - E v) / P; the KL is the mean over prompts.
    """

    def fisher_product(vector: Tensor) -> Tensor:
        return centred(policy, vector.view_as(policy)).flatten() / len(policy)

    gradient = world.value_gradients(policy, beta).flatten() / len(policy)
    step = trust_region_step(gradient, fisher_product, max_kl=max_kl, damping=damping, iterations=iterations).view_as(policy)

    def moved(fraction: float) -> Tensor:
        return (policy + fraction * step).log_softmax(dim=-1)

    def evaluate(fraction: float) -> tuple[float, float]:
        new = moved(fraction)
        gain = (world.values(new, beta) - world.values(policy, beta)).mean()
        return float(gain), float(divergences(policy, new).mean())

    fraction = backtrack(evaluate, max_kl=max_kl, backtracks=backtracks, ratio=ratio)
    return moved(fraction) if fraction else policy
