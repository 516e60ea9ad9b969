"""Cut weights (FSDP2) compute what whole ones do."""

from __future__ import annotations

import copy
import os
from contextlib import nullcontext

import torch
import torch.distributed
from checking import (
    EXAMPLES,
    FLOAT64,
    assert_all_cut,
    assert_near,
    assert_same_gradients,
    check,
    loss_of,
    mesh,
    share,
    shares,
)
from conftest import build_lm
from torch import Tensor
from torch.distributed.tensor import DTensor

from alignkit.batches import PackedBatch
from alignkit.loss_settings import HeadSettings
from alignkit.losses.forward_kl import ForwardKL
from alignkit.model_settings import AdapterSettings
from alignkit.models.adapters import add_adapters
from alignkit.models.backbone import Backbone
from alignkit.models.freezing import freeze_layers
from alignkit.models.heads import Heads
from alignkit.models.reference import AdapterOffReference, LiveReference, MovingReference, frozen_copy
from alignkit.models.sharding import full_weights, load_full_weights, shard, whole_weights
from alignkit.modules.gradients import average_gradients
from alignkit.sampling.sampler import Distribution
from alignkit.sampling.trunk_sampler import TrunkSampler

RANKS = int(os.environ["WORLD_SIZE"])


def compare(backbone: Backbone, *, layout: str = "packed", reshard: bool = True, steps: int = 3) -> None:
    """Losses and gradients of a backbone that is cut and its copy that is not; the weights move in between."""
    plain = copy.deepcopy(backbone)
    cut = shard(backbone, mesh(), precision="32-true", reshard=reshard)
    assert_all_cut(cut)
    optimizers = [torch.optim.SGD([p for p in each.parameters() if p.requires_grad], lr=1e-3) for each in (plain, cut)]
    for _ in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        with torch.no_grad():
            assert_near(loss_of(cut, share(layout)), loss_of(plain, share(layout)), "loss without gradient")
        assert_all_cut(cut)
        for _ in range(2):  # two micro-batches
            loss = loss_of(cut, share(layout))
            assert_near(loss.detach(), loss_of(plain, share(layout)).detach(), "loss")
            loss.backward()
            for batch in shares(layout):
                loss_of(plain, batch).backward()
        assert_same_gradients(cut, plain, of=RANKS)
        for group in optimizers[0].param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad /= RANKS
        for optimizer in optimizers:
            optimizer.step()


@check("llama", "gpt2", "qwen2", "gpt_neox", "gemma", "opt")
def losses_and_gradients_are_those_of_whole_weights(name: str) -> None:
    compare(Backbone(build_lm(name, dtype=FLOAT64)))


@check()
def rows_too() -> None:
    compare(Backbone(build_lm("mistral", dtype=FLOAT64)), layout="rows")


@check("llama", "gpt2")
def tied_embeddings_get_both_of_their_gradients(name: str) -> None:
    backbone = Backbone(build_lm(name, dtype=FLOAT64, tie_word_embeddings=True))
    assert backbone.lm.get_output_embeddings().weight is backbone.lm.get_input_embeddings().weight
    compare(backbone)


@check()
def layers_may_stay_whole_until_the_backward_pass() -> None:
    compare(Backbone(build_lm("llama", dtype=FLOAT64)), reshard=False)


@check("llama", "gpt2")
def layers_may_be_computed_again(name: str) -> None:
    backbone = Backbone(build_lm(name, dtype=FLOAT64))
    plain = copy.deepcopy(backbone)
    cut = shard(backbone.checkpoint_activations(), mesh(), precision="32-true")
    loss_of(cut, share()).backward()
    for batch in shares():
        loss_of(plain, batch).backward()
    assert_same_gradients(cut, plain, of=RANKS)


@check()
def attention_by_tiles_too() -> None:
    compare(Backbone(build_lm("llama", dtype=FLOAT64)).use_attention("tiles", "cpu"))


@check()
def a_part_of_the_layers_may_be_frozen() -> None:
    compare(freeze_layers(Backbone(build_lm("llama", dtype=FLOAT64)), 1))


@check("llama", "gpt2")
def adapters_are_trained_and_switched_off_for_the_reference(name: str) -> None:
    backbone = add_adapters(
        Backbone(build_lm(name, dtype=FLOAT64)), AdapterSettings(rank=2, alpha=4.0, dropout=0.0, targets=None, export="merged")
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter_name, parameter in backbone.named_parameters():
            if "lora_B" in parameter_name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    plain = copy.deepcopy(backbone)
    cut = shard(backbone, mesh(), precision="32-true")
    batch = share()
    # The reference runs first, then in between the policy's forward and backward pass.
    assert_near(AdapterOffReference(cut).token_logps(batch), AdapterOffReference(plain).token_logps(batch), "reference")
    hidden = cut.hidden_states(batch)
    reference = AdapterOffReference(cut).token_logps(batch)
    logps = cut.token_scores(hidden, batch).logps
    AdapterOffReference(cut).token_logps(batch)
    (logps - reference).sin().sum().backward()
    for part in shares():
        difference = plain.token_scores(plain.hidden_states(part), part).logps - AdapterOffReference(plain).token_logps(part)
        difference.sin().sum().backward()
    assert_same_gradients(cut, plain, of=RANKS)
    assert sum(parameter.grad is not None for parameter in cut.parameters()) > 0


@check()
def divergences_from_a_frozen_reference_are_the_same() -> None:
    backbone = Backbone(build_lm("llama", dtype=FLOAT64))
    reference = frozen_copy(backbone)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(1.1)
    plain, plain_reference = copy.deepcopy(backbone), copy.deepcopy(reference)
    live = LiveReference(shard(reference, mesh(), precision="32-true"))
    cut = shard(backbone, mesh(), precision="32-true")

    def divergence(policy: Backbone, frozen: LiveReference, batch: PackedBatch) -> Tensor:
        hidden = policy.hidden_states(batch)
        model, states = frozen.hidden_states(batch)
        with torch.no_grad():
            said = model.vocabulary(states, batch)
        return policy.token_divergences(hidden, batch, said, ForwardKL()).sum()

    found, expected = divergence(cut, live, share()), divergence(plain, LiveReference(plain_reference), share())
    assert_near(found.detach(), expected.detach(), "divergence")
    found.backward()
    for batch in shares():
        divergence(plain, LiveReference(plain_reference), batch).backward()
    assert_same_gradients(cut, plain, of=RANKS)
    assert_all_cut(reference)


@check()
def heads_stay_whole_and_their_gradients_are_averaged() -> None:
    backbone = Backbone(build_lm("llama", dtype=FLOAT64))
    head = HeadSettings(name="dph", pooler="bert", dropout=0.0, init_std=0.5)
    torch.manual_seed(1)
    heads = Heads(backbone.hidden_width, {"dph": head}).to(FLOAT64)
    plain, plain_heads = copy.deepcopy(backbone), copy.deepcopy(heads)
    cut = shard(backbone, mesh(), precision="32-true")
    loss_of(cut, share(), heads.head("dph")).backward()
    average_gradients(list(heads.parameters()), torch.distributed.group.WORLD)
    for batch in shares():
        loss_of(plain, batch, plain_heads.head("dph")).backward()
    assert_same_gradients(cut, plain, of=RANKS)
    assert_same_gradients(heads, plain_heads, of=RANKS)


@check("llama", "gpt2")
def samples_are_those_of_whole_weights(name: str) -> None:
    backbone = Backbone(build_lm(name, dtype=FLOAT64))
    with torch.no_grad():
        backbone.lm.get_output_embeddings().weight[2] *= 3
    plain = copy.deepcopy(backbone)
    cut = shard(backbone, mesh(), precision="32-true")
    prompts = [example.prompt_ids for example in EXAMPLES[torch.distributed.get_rank() * 3 :][:4]]

    def sampled(policy: Backbone) -> list[list[tuple[int, ...]]]:
        sampler = TrunkSampler(policy, terminator=2, max_tokens=8, distribution=Distribution(temperature=1.0), tokens=60)
        return [[sample.ids for sample in own] for own in sampler(prompts, samples=2, seed=torch.distributed.get_rank())]

    assert sampled(cut) == sampled(plain)
    assert_all_cut(cut)
    compare_after(cut, plain)
    assert sampled(cut) == sampled(plain)


def compare_after(cut: Backbone, plain: Backbone) -> None:
    loss_of(cut, share()).backward()
    for batch in shares():
        loss_of(plain, batch).backward()
    assert_same_gradients(cut, plain, of=RANKS)


@check()
def whole_weights_are_plain_tensors_for_a_while() -> None:
    plain = Backbone(build_lm("llama", dtype=FLOAT64))
    cut = shard(copy.deepcopy(plain), mesh(), precision="32-true")
    expected = dict(plain.named_parameters())
    with whole_weights(cut), torch.no_grad():
        for name, parameter in cut.named_parameters():
            assert not isinstance(parameter, DTensor)
            assert torch.equal(parameter, expected[name]), name
        if torch.distributed.get_rank() == 0:  # nobody waits for the other
            loss_of(cut, share())
    compare_after(cut, plain)


@check("bf16-mixed", "bf16-true")
def bf16_is_that_of_one_process(precision: str) -> None:
    backbone = Backbone(build_lm("llama", dtype=torch.bfloat16 if precision == "bf16-true" else torch.float32))
    plain = copy.deepcopy(backbone)
    cut = shard(backbone, mesh(), precision=precision)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False) if precision == "bf16-mixed" else nullcontext():
        loss = loss_of(cut, share())
        assert torch.equal(loss, loss_of(plain, share()))
        loss.backward()
        for batch in shares():
            loss_of(plain, batch).backward()
    assert_same_gradients(cut, plain, of=RANKS, tolerance=1e-6 if precision == "bf16-mixed" else 2e-2)


@check("llama", "gpt2")
def full_weights_come_and_go(name: str) -> None:
    plain = Backbone(build_lm(name, dtype=FLOAT64))
    expected = {key: value.clone() for key, value in plain.state_dict().items()}
    cut = shard(copy.deepcopy(plain), mesh(), precision="32-true")
    weights = full_weights(cut)
    if torch.distributed.get_rank() == 0:
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[key], expected[key]) for key in expected)
    else:
        assert not weights
    doubled = {key: value * 2 for key, value in expected.items()}
    load_full_weights(cut, doubled)
    for key, parameter in cut.named_parameters():
        assert isinstance(parameter, DTensor)
        assert torch.equal(parameter.full_tensor(), doubled[key])


@check("trained", "with_adapters")
def a_reference_follows_the_policy(kind: str) -> None:
    backbone = Backbone(build_lm("llama", dtype=FLOAT64))
    reference = frozen_copy(backbone)
    if kind == "with_adapters":
        add_adapters(backbone, AdapterSettings(rank=2, alpha=4.0, dropout=0.0, targets=None, export="merged"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=FLOAT64))
    plain, plain_reference = copy.deepcopy(backbone), copy.deepcopy(reference)
    for policy, frozen in ((plain, plain_reference), (backbone, reference)):
        if policy is backbone:
            shard(policy, mesh(), precision="32-true")
            shard(frozen, mesh(), precision="32-true")
        moving = MovingReference(frozen, mix=0.25, every=1)
        moving.token_logps(share())
        policy.hidden_states(share()).sum().backward()
        assert moving.after_step(1, policy)
    for name, parameter in reference.named_parameters():
        assert_near(parameter, dict(plain_reference.named_parameters())[name], name)
