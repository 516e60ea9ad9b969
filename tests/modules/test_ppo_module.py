"""What an update of a policy on its own samples does, whatever the loss: see `test_ppo_textbook` for the numbers of PPO itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alignkit.data.packing import Packing
from alignkit.errors import UserError
from alignkit.metrics import (
    APPROX_KL,
    CLIP_FRACTION,
    EPOCHS,
    IMPORTANCE,
    KL,
    KL_COEFFICIENT,
    PTX_LOSS,
    RATIO,
    RLHF_REWARD,
    SAMPLER_ERROR,
    SCORES,
    TRAIN,
    VALIDATION,
    metric,
)
from alignkit.model_settings import AdapterSettings
from alignkit.models.adapters import add_adapters
from alignkit.models.reference import AdapterOffReference, MovingReference, fingerprint, frozen_copy, trunk_fingerprint
from alignkit.modules.rollout_module import RolloutModule
from alignkit.sampling.sampler import Distribution
from alignkit.sampling.trunk_sampler import TrunkSampler

SECONDS = ("seconds/", "throughput/")
Rows = list[dict[str, float]]


def watch_rows(module: RolloutModule[Any]) -> Rows:
    """What the module logs, without `train/` and times."""
    rows: Rows = []

    def emit(values: Mapping[str, float]) -> None:
        named = {name.removeprefix(TRAIN): value for name, value in values.items()}
        rows.append({name: value for name, value in named.items() if not name.startswith(SECONDS)})

    module.emit = emit
    return rows


def watch(module: RolloutModule[Any], method: str) -> list[Any]:
    """The first argument of each call of a method."""
    seen: list[Any] = []
    original = getattr(module, method)

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(args[0])
        return original(*args, **kwargs)

    setattr(module, method, watched)
    return seen


def watch_gradients(module: RolloutModule[Any]) -> list[dict[str, Tensor]]:
    """The gradient of each optimiser step before it is clipped."""
    seen: list[dict[str, Tensor]] = []
    clip = module.clip_gradients_by_norm

    def watched() -> float:
        named = module.named_parameters()
        seen.append({name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None})
        return clip()

    module.clip_gradients_by_norm = watched
    return seen


@pytest.fixture
def prompts(examples_factory):
    return examples_factory(6, completions=1)


@pytest.fixture
def still(adamw):
    """An optimizer that moves nothing that can be seen."""
    return dataclasses.replace(adamw, lr=1e-30)


@pytest.fixture
def double(ending_lm) -> Callable[..., Any]:
    """A model in float64, where what should be equal is."""
    return lambda name="gpt2": ending_lm(name, dtype=torch.float64)


@pytest.mark.parametrize("name", ["ppo", "rloo", "grpo"])
def test_neither_layout_nor_cut_nor_padding_changes_an_update_or_a_metric(name, sampled_loss, double, rollout_module, prompts, fit_samples):
    loss = sampled_loss(name, epochs=2, minibatches=2, entropy_coefficient=0.01, ptx_coefficient=0.3)
    ends, logged = [], []
    for packing in (
        Packing(layout="packed", tokens=4000, row_tokens=4000),
        Packing(layout="packed", tokens=30, row_tokens=10, multiple=64),
        Packing(layout="rows", tokens=4000),
        Packing(layout="rows", tokens=16),
    ):
        module = rollout_module(loss, double(), packing=packing)
        rows = watch_rows(module)
        fit_samples(module, prompts)
        ends.append(dict(module.named_parameters()))
        logged.append(rows)
    for parameters, rows in zip(ends[1:], logged[1:], strict=True):
        for parameter, weights in parameters.items():
            assert (weights - ends[0][parameter]).abs().max() < 1e-9, parameter
        for row, first in zip(rows, logged[0], strict=True):
            assert row == pytest.approx(first, abs=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.4])
def test_the_first_update_is_certified(temperature, sampled_loss, double, rollout_module, prompts, fit_samples):
    module = rollout_module(sampled_loss("ppo", minibatches=2), double(), temperature=temperature, reference_is_policy=True, steps=2)
    rows = watch_rows(module)
    fit_samples(module, prompts)
    certificate = module.certificate
    assert certificate.pop("stored_tensors_unchanged") == 8  # 3 of the rollout, 2 of advantages, weights, values, returns
    assert certificate.pop("first_clip_fraction") == 0
    assert certificate.keys() == {"first_ratio_error", "first_approx_kl", "first_kl_error"}
    assert max(certificate.values()) < 1e-10
    assert rows[0][KL] == pytest.approx(0, abs=1e-10)
    assert abs(rows[1][KL]) > 1e-3
    assert max(row[SAMPLER_ERROR] for row in rows) < 1e-10


def test_one_pass_leaves_every_ratio_at_one(sampled_loss, double, rollout_module, prompts, fit_samples):
    logged = []
    for epochs in (1, 3):
        module = rollout_module(sampled_loss("ppo", epochs=epochs), double())
        logged.append(watch_rows(module))
        fit_samples(module, prompts)
    ((first,), (later,)) = logged
    assert (first[RATIO], first[APPROX_KL], first[CLIP_FRACTION]) == pytest.approx((1, 0, 0), abs=1e-10)
    assert later[APPROX_KL] > 1e-4
    assert later[CLIP_FRACTION] > 0


def test_in_bf16_every_pass_runs_on_the_weights_of_the_step_before(sampled_loss, ending_lm, rollout_module, prompts, fit_samples):
    # an autocast with a cache keeps converted weights until its context ends, and that of a training step holds all passes
    module = rollout_module(sampled_loss("ppo", epochs=3), ending_lm())
    original, passes = module.policy_tokens, []

    def compared(batch, **options):
        tokens = original(batch, **options)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            passes.append(torch.equal(tokens.logps, original(batch, **options).logps))
        return tokens

    module.policy_tokens = compared
    fit_samples(module, prompts, precision="bf16-mixed")
    assert len(passes) > 3
    assert all(passes)


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_the_first_step_without_a_value_head_is_reinforce(name, sampled_loss, double, rollout_module, prompts, fit_samples):
    # policy and reference are one, so that no KL is paid; completions count alike, and grpo takes the mean over their tokens
    module = rollout_module(sampled_loss(name), double(), samples=3)
    seen, gradients = watch(module, "improve"), watch_gradients(module)
    lm = frozen_copy(module.backbone).lm.requires_grad_(True)
    fit_samples(module, prompts)
    (rollout,), total = seen, torch.zeros((), dtype=torch.float64)
    scores = rollout.scores.double().view(-1, 3)
    advantages = 1.5 * (scores - scores.mean(1, keepdim=True))
    if name == "grpo":
        advantages = (scores - scores.mean(1, keepdim=True)) / scores.std(1, keepdim=True)
    completions = [(example.prompt_ids, ids) for example in rollout.examples for ids in example.completion_ids]
    for (prompt, ids), advantage in zip(completions, advantages.flatten().tolist(), strict=True):
        logits = lm(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        logps = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])
        total = total - advantage * (logps.mean() if name == "grpo" else logps.sum()) / len(completions)
    total.backward()
    for parameter, weights in lm.named_parameters():
        error = (gradients[0][f"backbone.lm.{parameter}"] - weights.grad).abs().max()
        assert error < (1e-6 if name == "grpo" else 1e-9) * weights.grad.abs().max(), parameter  # float32 divides float32 scores


def test_an_update_ends_once_the_policy_has_moved_too_far(sampled_loss, double, rollout_module, prompts, fit_samples):
    module = rollout_module(sampled_loss("ppo", epochs=5, minibatches=2, stop_kl=1e-6), double())
    rows, steps = watch_rows(module), watch_gradients(module)
    fit_samples(module, prompts)
    # the first minibatch has not moved yet; the second one finds that the first step did
    assert (rows[0][EPOCHS], len(steps)) == (1, 2)
    module = rollout_module(sampled_loss("ppo", epochs=5, minibatches=2, stop_kl=1e6), double())
    rows, steps = watch_rows(module), watch_gradients(module)
    fit_samples(module, prompts)
    assert (rows[0][EPOCHS], len(steps)) == (5, 10)


def test_the_price_of_kl_follows_its_target(sampled_loss, double, rollout_module, prompts, fit_samples, adamw):
    loss = sampled_loss("ppo", kl_coefficient=0.15, kl_target=0.2, kl_horizon=100)
    module = rollout_module(loss, double(), steps=4, optimizer=dataclasses.replace(adamw, lr=3e-3))
    rows = watch_rows(module)
    fit_samples(module, prompts, pairs=3)
    expected = 0.15
    for row in rows:
        assert row[KL_COEFFICIENT] == pytest.approx(expected, rel=1e-12)
        assert row[RLHF_REWARD] == pytest.approx(row[SCORES] - expected * row[KL], abs=1e-6)
        expected *= 1 + min(max(row[KL] / 0.2 - 1, -0.2), 0.2) * 6 / 100
    assert module.kl_coefficient == pytest.approx(expected, rel=1e-12)
    assert rows[1][KL_COEFFICIENT] < 0.15, "the first update starts at the reference"


def test_a_price_without_a_target_stays(sampled_loss, double, rollout_module, prompts, fit_samples):
    module = rollout_module(sampled_loss("ppo", kl_coefficient=0.15), double(), steps=2)
    rows = watch_rows(module)
    fit_samples(module, prompts)
    assert [row[KL_COEFFICIENT] for row in rows] == [0.15, 0.15]


def test_ptx_adds_the_gradient_of_sft_and_nothing_else(sampled_loss, double, rollout_module, prompts, fit_samples):
    gradients, rows = [], []
    for weight in (0.0, 0.4):
        module = rollout_module(sampled_loss("ppo", ptx_coefficient=weight), double(), temperature=0.7)
        gradients.append(watch_gradients(module))
        rows.append(watch_rows(module))
        lm = frozen_copy(module.backbone).lm.requires_grad_(True)
        seen = watch(module, "collect")
        fit_samples(module, prompts)
    asked = seen[0].examples
    total = torch.zeros((), dtype=torch.float64)
    for example in asked:
        (ids,) = example.completion_ids
        logits = lm(torch.tensor([[*example.prompt_ids, *ids]])).logits[0, len(example.prompt_ids) - 1 : -1]
        total = total - logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).sum()
    loss = total / sum(len(example.completion_ids[0]) for example in asked)
    loss.backward()
    for name, weights in lm.named_parameters():
        ours = gradients[1][0][f"backbone.lm.{name}"] - gradients[0][0][f"backbone.lm.{name}"]
        assert (ours - 0.4 * weights.grad).abs().max() < 1e-9, name
    assert PTX_LOSS not in rows[0][0]
    assert rows[1][0][PTX_LOSS] < loss.item(), "the mean over four epochs, which lower it"


def test_a_sampler_of_another_temperature_is_refused(sampled_loss, ending_lm, rollout_module, prompts, fit_samples):
    def hotter(backbone, settings):
        return TrunkSampler(backbone, terminator=2, max_tokens=6, distribution=Distribution(temperature=1.1), tokens=1000)

    module = rollout_module(sampled_loss("ppo"), ending_lm(), sampler=hotter)
    with pytest.raises(
        UserError, match=r"^rollout: samples were not drawn from the policy that is trained: log-probs differ by up to 0\.\d"
    ):
        fit_samples(module, prompts)


def test_a_model_with_dropout_on_is_refused(sampled_loss, ending_lm, rollout_module, prompts, fit_samples):
    class Noise(nn.Module):
        def forward(self, states: Tensor) -> Tensor:
            return nn.functional.dropout(states, 0.1, training=True)

    lm = ending_lm()
    lm.transformer.drop = Noise()
    with pytest.raises(UserError, match=r"^rollout: samples were not drawn from the policy that is trained"):
        fit_samples(rollout_module(sampled_loss("ppo"), lm), prompts)


def test_whoever_changes_what_is_stored_is_caught(sampled_loss, ending_lm, rollout_module, prompts, fit_samples):
    module = rollout_module(sampled_loss("ppo"), ending_lm())
    learn = module._learn

    def meddle(stored, *others, **named):
        stored.rollout.values.mul_(2)
        return learn(stored, *others, **named)

    module._learn = meddle
    with pytest.raises(AssertionError, match="what a rollout stored was changed"):
        fit_samples(module, prompts)


def test_a_reference_that_should_be_the_policy_and_is_not_is_refused(sampled_loss, ending_lm, rollout_module, prompts, fit_samples):
    def shifted(backbone):
        with torch.no_grad():
            backbone.lm.transformer.h[0].mlp.c_fc.weight.mul_(1.01)

    module = rollout_module(sampled_loss("ppo"), ending_lm(), prepare=shifted, reference_is_policy=True)
    with pytest.raises(UserError, match=r"^rollout: policy and reference start as the same weights, but their log-probs differ by up to"):
        fit_samples(module, prompts)


def test_earlier_samples_are_trained_on_again(sampled_loss, double, rollout_module, prompts, fit_samples, still):
    # six prompts, four a time: updates of 4, 2, 4, 2 prompts, and of so many more of the two before
    module = rollout_module(sampled_loss("ppo", epochs=1), double(), reuse=2, steps=4, optimizer=still)
    rows, seen = watch_rows(module), watch(module, "improve")
    fit_samples(module, prompts)
    assert [len(rollout.examples) for rollout in seen] == [4, 4 + 2, 4 + 2 + 4, 2 + 4 + 2]
    for rollout in seen:
        assert len({example.key for example in rollout.examples}) == len(rollout.examples)
        assert (rollout.logps - rollout.sampled_logps).abs().max() < 1e-10
    assert [row[IMPORTANCE] for row in rows] == pytest.approx([1] * 4, abs=1e-10), "a policy that does not move"
    own, earlier = seen[0].examples, seen[1].examples[2:]
    assert [(example.prompt_ids, example.completion_ids) for example in own] == [
        (example.prompt_ids, example.completion_ids) for example in earlier
    ]
    assert torch.equal(seen[1].scores[4:], seen[0].scores)


def test_earlier_samples_weigh_what_the_policy_says_of_them_now_up_to_a_cap(sampled_loss, double, rollout_module, prompts, fit_samples):
    module = rollout_module(sampled_loss("ppo", epochs=2), double(), reuse=1, importance_cap=1.5, steps=2)
    stored = watch(module, "_learn")
    rollouts = watch(module, "improve")
    fit_samples(module, prompts)
    lm_now, old = rollouts[1].logps, rollouts[1].sampled_logps
    weights = stored[-1].weights
    new = len(rollouts[1].logps) - len(rollouts[0].logps)
    assert weights[:new].sub(1).abs().max() < 1e-10
    assert torch.equal(rollouts[1].sampled_logps[new:], rollouts[0].sampled_logps)
    assert weights[new:].sub(1).abs().max() > 0.01
    assert float(weights.max()) == 1.5
    ratios = (lm_now - old).exp()
    assert (ratios > 1.5).any()
    assert torch.equal(weights, ratios.where(ratios < 1.5, 1.5))


def test_without_reuse_nothing_is_kept_and_nothing_weighed(sampled_loss, double, rollout_module, prompts, fit_samples):
    module = rollout_module(sampled_loss("ppo"), double(), steps=2)
    rows, seen = watch_rows(module), watch(module, "improve")
    fit_samples(module, prompts)
    assert [len(rollout.examples) for rollout in seen] == [4, 2]
    assert all(IMPORTANCE not in row for row in rows)


LORA = AdapterSettings(rank=4, alpha=8.0, dropout=0.0, targets=None, export="merged")


def test_a_policy_with_adapters_is_its_own_reference_without_them(sampled_loss, double, rollout_module, prompts, fit_samples):
    module = rollout_module(
        sampled_loss("ppo"),
        double(),
        reference=AdapterOffReference,
        prepare=lambda backbone: add_adapters(backbone, LORA),
        reference_is_policy=True,
        steps=2,
    )
    before = trunk_fingerprint(module.backbone)
    rows = watch_rows(module)
    fit_samples(module, prompts)
    assert rows[0][KL] == pytest.approx(0, abs=1e-6)  # adapters are float32
    assert module.certificate["first_ratio_error"] < 1e-6
    assert abs(rows[1][KL]) > 1e-3
    assert trunk_fingerprint(module.backbone) == before


def test_a_moving_reference_follows_the_policy(sampled_loss, double, rollout_module, prompts, fit_samples):
    def moving(backbone):
        return MovingReference(frozen_copy(backbone), mix=1.0, every=1)

    module = rollout_module(sampled_loss("ppo"), double(), reference=moving, steps=3)
    before = fingerprint(module.reference)
    rows = watch_rows(module)
    fit_samples(module, prompts)
    assert [row[KL] for row in rows] == pytest.approx([0, 0, 0], abs=1e-10)
    assert fingerprint(module.reference) != before
    assert fingerprint(module.reference.backbone) == fingerprint(module.backbone)


def test_a_separate_value_trunk_spares_the_policy_the_value_loss(sampled_loss, double, rollout_module, prompts, fit_samples):
    gradients = {}
    for name, separate, weight in (("separate", True, 0.5), ("shared", False, 0.5), ("none", False, 0.0)):
        module = rollout_module(sampled_loss("ppo", value_coefficient=weight), double(), value_trunk=separate)
        seen = watch_gradients(module)
        fit_samples(module, prompts)
        gradients[name] = seen[0]
    trunk = [name for name in gradients["none"] if name.startswith("backbone.")]
    apart = max(float((gradients["separate"][name] - gradients["none"][name]).abs().max()) for name in trunk)
    together = max(float((gradients["shared"][name] - gradients["none"][name]).abs().max()) for name in trunk)
    assert apart < 1e-12
    assert together > 1e-4
    assert any(name.startswith("value_trunk.") for name in gradients["separate"])
    assert torch.equal(gradients["separate"]["heads.value.score.weight"], gradients["shared"]["heads.value.score.weight"])


def test_held_out_samples_are_the_same_at_every_validation_of_the_same_weights(
    sampled_loss, double, rollout_module, prompts, examples_factory, fit_samples, still
):
    held_out = examples_factory(3, completions=1, seed=9)
    module = rollout_module(sampled_loss("ppo"), double(), optimizer=still)
    trainer = fit_samples(module, prompts, validation=held_out)
    rows = watch_rows(module)
    for _ in range(2):
        trainer.validate(module, datamodule=trainer.datamodule, verbose=False)
    assert rows[0] == rows[1]
    assert {name.partition("/")[0] for name in rows[0]} == {VALIDATION.rstrip("/")}
    assert all(metric(name.removeprefix(VALIDATION)).meaning for name in rows[0])


def test_everything_that_is_logged_is_explained(sampled_loss, double, rollout_module, prompts, fit_samples):
    module = rollout_module(sampled_loss("ppo", ptx_coefficient=0.1, kl_target=1.0), double(), reuse=1)
    rows = watch_rows(module)
    fit_samples(module, prompts)
    assert all(metric(name).meaning for name in rows[0])
