"""An update of PPO against PPO as the books write it: padded rows, masks, logits of the whole vocabulary, one backward pass a minibatch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from alignkit.data.packing import Packing
from alignkit.losses.ppo import PPO
from alignkit.models.backbone import Backbone
from alignkit.models.reference import LiveReference
from alignkit.rollout import Rollout

Step = dict[str, Tensor]


@dataclass
class Recorded:
    """What a module did in its only update."""

    rollout: Rollout | None = None
    minibatches: list[list[int]] = field(default_factory=list)
    """Places of the prompts of each."""
    gradients: list[Step] = field(default_factory=list)
    """Of each optimiser step, before clipping."""


def record(module: Any) -> Recorded:
    """Watch an update."""
    seen = Recorded()
    improve, minibatches, clip = module.improve, module.minibatches, module.clip_gradients_by_norm

    def watched_improve(rollout: Rollout, *others: Any) -> None:
        seen.rollout = rollout
        improve(rollout, *others)

    def watched_minibatches(rollout: Rollout, *others: Any):
        for minibatch in minibatches(rollout, *others):
            seen.minibatches.append([key for batch in minibatch.batches for key in batch.example_keys])
            yield minibatch

    def watched_clip() -> float:
        named = module.named_parameters()
        seen.gradients.append({name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None})
        return clip()

    module.improve, module.minibatches, module.clip_gradients_by_norm = watched_improve, watched_minibatches, watched_clip
    return seen


class Textbook:
    """B samples, each a row of T positions: its prompt, its completion, padding."""

    def __init__(
        self, loss: PPO, lm: PreTrainedModel, reference: PreTrainedModel, head: Tensor, rollout: Rollout, temperature: float
    ) -> None:
        self.loss, self.lm, self.reference, self.head, self.temperature = loss, lm, reference, head.requires_grad_(), temperature
        rows = [(example.prompt_ids, ids) for example in rollout.examples for ids in example.completion_ids]
        self.owners = torch.tensor([n for n, example in enumerate(rollout.examples) for _ in example.completion_ids])
        width = max(len(prompt) + len(ids) for prompt, ids in rows)
        self.ids = torch.zeros(len(rows), width, dtype=torch.int64)
        self.attention = torch.zeros(len(rows), width, dtype=torch.int64)
        self.mask = torch.zeros(len(rows), width - 1, dtype=torch.bool)  # positions that predict a token of a completion
        for row, (prompt, ids) in enumerate(rows):
            end = len(prompt) + len(ids)
            self.ids[row, :end] = torch.tensor([*prompt, *ids])
            self.attention[row, :end] = 1
            self.mask[row, len(prompt) - 1 : end - 1] = True
        self.last = self.mask.long().cumsum(1).argmax(1)

    def forward(self, lm: PreTrainedModel) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T - 1] log-probs, values and entropies."""
        output = lm(self.ids, attention_mask=self.attention, output_hidden_states=True)
        logps = (output.logits[:, :-1] / self.temperature).log_softmax(-1)
        chosen = logps.gather(-1, self.ids[:, 1:, None])[:, :, 0]
        return chosen, output.hidden_states[-1][:, :-1] @ self.head, -(logps.exp() * logps).sum(-1)

    def store(self, scores: Tensor) -> None:
        """The numbers that the epochs hold fixed, under the weights as they are."""
        with torch.no_grad():
            self.old_logps, self.old_values, _ = self.forward(self.lm)
            log_ratios = self.old_logps - self.forward(self.reference)[0]
            rewards = -self.loss.kl_coefficient * log_ratios * self.mask
            rewards[torch.arange(len(scores)), self.last] += scores
            values = self.old_values * self.mask
            advantages = torch.zeros_like(rewards)
            running = torch.zeros(len(rewards), dtype=rewards.dtype)
            for t in reversed(range(rewards.shape[1])):
                following = values[:, t + 1] if t + 1 < rewards.shape[1] else torch.zeros_like(running)
                delta = rewards[:, t] + self.loss.discount * following - values[:, t]
                running = (delta + self.loss.discount * self.loss.gae_lambda * running) * self.mask[:, t]
                advantages[:, t] = running
            self.returns = advantages + values
            count = self.mask.sum()
            mean = (advantages * self.mask).sum() / count
            variance = ((advantages - mean).square() * self.mask).sum() / count
            self.advantages = (advantages - mean) / (variance + 1e-8).sqrt()

    def minibatch_loss(self, prompts: Sequence[int]) -> Tensor:
        """[] of the samples of some prompts."""
        loss = self.loss
        mask = self.mask & torch.isin(self.owners, torch.tensor(prompts))[:, None]
        logps, values, entropies = self.forward(self.lm)
        ratio = (logps - self.old_logps).exp()
        policy = -torch.min(ratio * self.advantages, ratio.clamp(1 - loss.clip_range, 1 + loss.clip_range) * self.advantages)
        assert loss.value_clip_range is not None
        near = torch.max(torch.min(values, self.old_values + loss.value_clip_range), self.old_values - loss.value_clip_range)
        value = 0.5 * torch.max((values - self.returns) ** 2, (near - self.returns) ** 2)
        each = policy + loss.value_coefficient * value - loss.entropy_coefficient * entropies
        return (each * mask).sum() / mask.sum()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("entropy", [0.0, 0.03])
def test_every_optimiser_step_of_an_update_is_that_of_textbook_ppo(
    temperature, entropy, sampled_loss, ending_lm, examples_factory, rollout_module, fit_samples
):
    loss = sampled_loss("ppo", epochs=2, minibatches=2, kl_coefficient=0.1, entropy_coefficient=entropy, value_coefficient=0.5)
    lm = ending_lm(dtype=torch.float64)
    before, other = copy.deepcopy(lm).eval(), copy.deepcopy(lm).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter *= 1.05
    packing = Packing(layout="packed", tokens=40, row_tokens=20)
    reference = LiveReference(Backbone(other))
    module = rollout_module(loss, lm, temperature=temperature, samples=3, packing=packing, reference=lambda _: reference)
    head = module.heads["value"].score.weight.detach()[0].clone()
    seen = record(module)
    fit_samples(module, examples_factory(5, completions=1), pairs=5)
    rollout = seen.rollout
    assert rollout is not None
    assert len(set(torch.bincount(rollout.completion_index).tolist())) > 1, "ragged"
    assert len(seen.gradients) == len(seen.minibatches) == 4
    assert sorted(seen.minibatches[0] + seen.minibatches[1]) == [0, 1, 2, 3, 4] == sorted(seen.minibatches[2] + seen.minibatches[3])

    assert rollout.kl.abs().mean() > 0.1
    book = Textbook(loss, before, other, head, rollout, temperature)
    book.store(rollout.scores.double())
    names = {f"backbone.lm.{name}": parameter for name, parameter in before.named_parameters()} | {"heads.value.score.weight": book.head}
    optimizer = torch.optim.AdamW(names.values(), lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    for gradients, prompts in zip(seen.gradients, seen.minibatches, strict=True):
        optimizer.zero_grad()
        book.minibatch_loss(prompts).backward()
        assert gradients.keys() == names.keys()
        for name, parameter in names.items():
            assert parameter.grad is not None
            error = (gradients[name].flatten() - parameter.grad.flatten()).abs().max()
            assert error < 1e-9 * parameter.grad.abs().max(), name
        torch.nn.utils.clip_grad_norm_(list(names.values()), 1.0)
        optimizer.step()
    after = dict(module.named_parameters())
    for name, parameter in names.items():
        assert (after[name].flatten() - parameter.flatten()).abs().max() < 1e-9, name


def test_textbook_and_module_part_where_an_advantage_changes_its_sign(
    sampled_loss, ending_lm, examples_factory, rollout_module, fit_samples
):
    # the comparison above would see it
    loss = sampled_loss("ppo", epochs=1)
    lm = ending_lm(dtype=torch.float64)
    before = copy.deepcopy(lm).eval()
    module = rollout_module(loss, lm)
    head = module.heads["value"].score.weight.detach()[0].clone()
    seen = record(module)
    fit_samples(module, examples_factory(4, completions=1))
    assert seen.rollout is not None
    book = Textbook(loss, before, before, head, seen.rollout, 1.0)
    book.store(-seen.rollout.scores.double())
    book.minibatch_loss(seen.minibatches[0]).backward()
    (gradients,) = seen.gradients
    name, parameter = next(iter(before.named_parameters()))
    assert parameter.grad is not None
    assert (gradients[f"backbone.lm.{name}"] - parameter.grad).abs().max() > 0.1 * parameter.grad.abs().max()
