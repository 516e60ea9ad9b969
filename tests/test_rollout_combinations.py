"""Settings of samples that cannot work together are refused before anything is loaded, with what to type instead."""

from __future__ import annotations

import pytest

from alignkit.command_line import precheck
from alignkit.errors import UserError
from alignkit.modules.rollout_objective import RolloutObjective
from alignkit.objectives import build_objective, check_combination
from alignkit.rollout_settings import UNUSED_REWARD, UNUSED_ROLLOUT


def check(*overrides: str) -> None:
    (settings,) = precheck(overrides)
    objective, _ = build_objective(settings.loss, settings.allow_code)
    check_combination(settings, objective)


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        check(*overrides)
    return str(caught.value)


PPO = ("loss=ppo", "scorer=vader")


@pytest.mark.parametrize(
    "overrides",
    [
        PPO,
        ("loss=rloo", "scorer=vader", "rollout.samples=2"),
        ("loss=grpo", "scorer=length", "scorer.target=5"),
        (*PPO, "rollout.temperature=0.7", "rollout.samples=1"),
        (*PPO, "rollout.reuse=1", "rollout.importance_cap=1.5"),
        (*PPO, "model.adapter=lora", "reference=memory"),
        (*PPO, "reward.clip=1", "reward.length_penalty=0.1", "reward.missing_terminator_penalty=1"),
        (*PPO, "reference=moving"),
        ("loss=dpo",),
    ],
)
def test_what_can_work_is_let_through(overrides):
    check(*overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("loss=ppo",), "scorer = 'none' with loss=ppo: somebody must say how good samples are. Type scorer=vader"),
        ((*PPO, "model.train=heads"), "model.train = 'heads' with loss=ppo: the policy is the trunk. Type model.train=all"),
        ((*PPO, "rollout.top_k=5"), "rollout.top_k = 5, rollout.top_p = 1 with loss=ppo: tokens that are cut off have no log-probability"),
        ((*PPO, "rollout.top_p=0.9"), "rollout.top_k = 0, rollout.top_p = 0.9 with loss=ppo: tokens that are cut off"),
        (("loss=rloo", "scorer=vader", "rollout.samples=1"), "rollout.samples = 1 with loss=rloo: it compares the samples of a prompt."),
        (("loss=grpo", "scorer=vader", "rollout.samples=1"), "rollout.samples = 1 with loss=grpo: it compares the samples of a prompt."),
        ((*PPO, "rollout.importance_cap=3"), "rollout.importance_cap = 3 has no effect while rollout.reuse = 0. Try rollout.reuse=1."),
        ((*PPO, "callbacks.gradient_cosine=true"), "callbacks.gradient_cosine = true with loss=ppo: there are no chosen and rejected"),
        (
            (*PPO, "model.adapter=lora", "model.lora.dropout=0.1"),
            "model.lora.dropout = 0.1 with loss=ppo: the policy that is trained must be the one that was sampled",
        ),
        ((*PPO, "loss.head.dropout=0.1"), "loss.head.dropout = 0.1: values are stored when samples are drawn"),
        ((*PPO, "loss.head.layers=[0,-1]"), "loss.head: a value is read from the last state of each token."),
        ((*PPO, "loss.head=null"), "loss.head is missing: it predicts returns."),
        (("loss=dpo", "scorer=vader"), "scorer = 'vader' has no effect with loss=dpo: it learns from given completions."),
        (
            ("loss=dpo", "rollout.temperature=0.7"),
            "rollout.temperature = 0.7 has no effect with loss=dpo: it learns from given completions.",
        ),
        (("loss=sft", "rollout.samples=8"), "rollout.samples = 8 has no effect with loss=sft"),
        (("loss=con_dph", "reward.clip=1"), "reward.clip = 1.0 has no effect with loss=con_dph"),
        (
            (*PPO, "model.adapter=lora", "model.quantize=nf4", "model.lora.export=adapter", "reference=moving"),
            "reference.source = 'moving' with model.quantize: weights of 4 bits cannot be mixed.",
        ),
    ],
)
def test_what_cannot_work_is_refused(overrides, message):
    assert refusal(*overrides).startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.samples=0", "rollout.samples = 0; must be a number in [1, inf)"),
        ("rollout.max_tokens=0", "rollout.max_tokens = 0; must be a number in [1, inf)"),
        ("rollout.temperature=0", "rollout.temperature = 0.0; must be a number in (0, inf)"),
        ("rollout.top_k=-1", "rollout.top_k = -1; must be a number in [0, inf)"),
        ("rollout.top_p=0", "rollout.top_p = 0.0; must be a number in (0, 1]"),
        ("rollout.tokens=1", "rollout.tokens = 1; must be a number in [16, inf)"),
        ("rollout.backend=vlm", "rollout.backend = 'vlm'; must be one of torch, vllm. Did you mean 'vllm'?"),
        ("rollout.reuse=-1", "rollout.reuse = -1; must be a number in [0, inf)"),
        ("rollout.importance_cap=0.5", "rollout.importance_cap = 0.5; must be a number in [1, inf)"),
        ("reward.clip=0", "reward.clip = 0.0; must be a number in (0, inf)"),
        ("reward.length_penalty=-1", "reward.length_penalty = -1.0; must be a number in [0, inf)"),
        ("reward.missing_terminator_penalty=-1", "reward.missing_terminator_penalty = -1.0; must be a number in [0, inf)"),
    ],
)
def test_values_out_of_range_are_refused_by_name(override, message):
    assert refusal(*PPO, override).startswith(message)


def test_what_is_not_used_is_what_the_files_say():
    (settings,) = precheck(["loss=dpo"])
    assert (settings.rollout, settings.reward) == (UNUSED_ROLLOUT, UNUSED_REWARD)


def test_a_loss_without_a_value_head_has_none():
    for name, heads in (("ppo", ["value"]), ("rloo", []), ("grpo", [])):
        (settings,) = precheck([f"loss={name}", "scorer=vader"])
        objective, built = build_objective(settings.loss, settings.allow_code)
        assert isinstance(objective, RolloutObjective)
        assert list(built) == heads
