"""Cut products (tensor parallel) compute what whole ones do."""

from __future__ import annotations

import copy

import torch
import torch.distributed
from checking import EXAMPLES, FLOAT64, assert_near, assert_same_gradients, check, loss_of, mesh
from conftest import build_lm
from torch.distributed.tensor import DTensor

from alignkit.data.collate import collate
from alignkit.models.backbone import Backbone
from alignkit.models.sharding import full_weights, load_full_weights
from alignkit.models.tensor_parallel import cut_products
from alignkit.sampling.sampler import Distribution
from alignkit.sampling.trunk_sampler import TrunkSampler


def cut(backbone: Backbone) -> Backbone:
    return cut_products(backbone, mesh("tensor_parallel"))


def compare(backbone: Backbone) -> None:
    """Losses and gradients of all examples, which each process sees; no mean is taken."""
    plain = copy.deepcopy(backbone)
    halves = cut(backbone)
    batch = collate([EXAMPLES], halves.layout("packed"))
    for _ in range(2):
        losses = [loss_of(each, batch) for each in (halves, plain)]
        assert_near(losses[0].detach(), losses[1].detach(), "loss")
        for loss in losses:
            loss.backward()
    assert_same_gradients(halves, plain)


@check("llama", "qwen2", "gpt_neox", "gemma", "mistral")
def losses_and_gradients_are_those_of_whole_products(name: str) -> None:
    compare(Backbone(build_lm(name, dtype=FLOAT64)))


@check("tiles", "checkpointed")
def however_layers_are_run(how: str) -> None:
    backbone = Backbone(build_lm("llama", dtype=FLOAT64))
    compare(backbone.use_attention("tiles", "cpu") if how == "tiles" else backbone)
    if how == "checkpointed":
        plain, halves = (Backbone(build_lm("llama", dtype=FLOAT64)) for _ in range(2))
        cut(halves).checkpoint_activations()
        for each in (plain, halves):
            loss_of(each, collate([EXAMPLES], "packed")).backward()
        assert_same_gradients(halves, plain)


@check()
def each_process_holds_half_of_each_product() -> None:
    halves = cut(Backbone(build_lm("llama")))
    for name, parameter in halves.layers()[0].named_parameters():
        whole = parameter.numel()
        held = parameter.to_local().numel() if isinstance(parameter, DTensor) else whole
        assert held == (whole // 2 if parameter.ndim == 2 else whole), name


@check()
def both_processes_draw_the_samples_of_one() -> None:
    plain = Backbone(build_lm("llama"))
    halves = cut(copy.deepcopy(plain))
    prompts = [example.prompt_ids for example in EXAMPLES]

    def sampled(policy: Backbone) -> list[list[tuple[int, ...]]]:
        sampler = TrunkSampler(policy, terminator=2, max_tokens=8, distribution=Distribution(temperature=1.0), tokens=10_000)
        return [[sample.ids for sample in own] for own in sampler(prompts, samples=2, seed=0)]

    assert sampled(halves) == sampled(plain)


@check()
def full_weights_of_cut_products_come_and_go() -> None:
    plain = Backbone(build_lm("llama"))
    halves = cut(copy.deepcopy(plain))
    weights, expected = full_weights(halves), plain.state_dict()
    if torch.distributed.get_rank() == 0:
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    load_full_weights(halves, {name: weight * 2 for name, weight in expected.items()})
    for name, parameter in halves.named_parameters():
        assert_near(parameter, expected[name] * 2, name)
