"""Layers that keep less: the same states and gradients, fewer bytes, and nothing else than what is known to be computed that way."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from alignkit.models.conversions import conversions_kept
from alignkit.models.recomputation import Recomputation, is_gated_mlp, is_norm

WIDTH = 16


class Norm(nn.Module):
    """A norm of root mean squares; `shift` is added to its weight, as in Gemma."""

    def __init__(self, shift: float = 0.0, width: int = WIDTH) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.eps, self.shift = 1e-6, shift

    def forward(self, states: Tensor) -> Tensor:
        wide = states.float()
        return (self.weight + self.shift) * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(states.dtype)


class MLP(nn.Module):
    """A gated MLP; `factor` is what others may do beside."""

    def __init__(self, act: str = "silu", *, bias: bool = False, factor: float = 1.0) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(WIDTH, 3 * WIDTH, bias=bias) for _ in range(2))
        self.down_proj = nn.Linear(3 * WIDTH, WIDTH, bias=bias)
        self.act_fn, self.factor = ACT2FN[act], factor

    def forward(self, states: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(states)) * self.up_proj(states)) * self.factor


def passed(model: nn.Module, inputs: Tensor, *, recomputes: bool, autocast: bool = False) -> tuple[Tensor, dict[str, Tensor], int]:
    """What a model says, all gradients of a sum of it, and the bytes of what it keeps for them, its weights aside."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.zero_grad()
    with ExitStack() as stack:
        if autocast:
            stack.enter_context(torch.autocast("cpu", torch.bfloat16, cache_enabled=False))
        convert = stack.enter_context(conversions_kept("cpu"))
        stack.enter_context(Recomputation(model)(convert) if recomputes else nullcontext())
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            said: Any = model(inputs)
            states: Tensor = getattr(said, "last_hidden_state", said)
        (states.float() * torch.linspace(-1, 1, states.shape[-1])).sum().backward()
    return (
        states.detach(),
        {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None},
        sum(kept.values()),
    )


def check_same(model: nn.Module, inputs: Tensor, **options: bool) -> tuple[int, int]:
    """Equal to the bit in the forward pass, within rounding in the backward pass; bytes kept, usually and so."""
    states, gradients, usual = passed(model, inputs, recomputes=False, **options)
    again, others, kept = passed(model, inputs, recomputes=True, **options)
    assert torch.equal(states, again)
    assert gradients.keys() == others.keys()
    close = 2e-2 if options else 1e-5
    for name, gradient in gradients.items():
        assert others[name].dtype == gradient.dtype
        assert torch.allclose(others[name], gradient, rtol=0, atol=close * float(gradient.abs().max())), name
    return usual, kept


def test_states_and_gradients_are_the_same_for_every_architecture(architecture, lm_factory):
    lm = lm_factory(architecture).eval()
    usual, kept = check_same(lm.base_model, torch.arange(3, 40)[None])
    assert kept <= usual


@pytest.mark.parametrize("autocast", [False, True])
def test_a_llama_keeps_a_quarter_less(autocast, lm_factory):
    lm = lm_factory("llama")
    usual, kept = check_same(lm.base_model, torch.arange(3, 60)[None], **({"autocast": True} if autocast else {}))
    assert kept < 0.76 * usual


def test_the_layers_of_a_llama_are_found_and_are_themselves_again_afterwards(lm_factory):
    decoder = lm_factory("llama").base_model
    found = Recomputation(decoder)
    norms = [module for module in decoder.modules() if is_norm(module)]
    assert len(norms) == 2 * len(decoder.layers) + 1
    assert all(is_gated_mlp(layer.mlp) for layer in decoder.layers)
    with found(lambda tensor: tensor):
        assert sum("forward" in vars(module) for module in decoder.modules()) == len(norms) + len(decoder.layers)
    assert not [module for module in decoder.modules() if "forward" in vars(module)]


@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_pytorch_tanh", "relu"])
@pytest.mark.parametrize("bias", [False, True])
def test_any_activation_with_or_without_bias(act, bias):
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), MLP(act, bias=bias))
    check_same(mlp, torch.randn(2, 5, WIDTH))
    check_same(mlp, torch.randn(2, 5, WIDTH), autocast=True)


def test_frozen_weights_get_no_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), Norm(), MLP(bias=True))
    model[1:].requires_grad_(False)
    check_same(model, torch.randn(3, WIDTH))


def test_what_computes_something_else_is_left_alone():
    assert is_norm(Norm())
    assert not is_norm(Norm(shift=1.0))
    assert not is_norm(nn.LayerNorm(WIDTH))
    assert not is_norm(nn.Linear(WIDTH, 1, bias=False))
    assert is_gated_mlp(MLP())
    assert not is_gated_mlp(MLP(factor=2.0))
    assert not is_gated_mlp(nn.Linear(WIDTH, WIDTH))


def test_an_adapter_on_the_last_map_is_left_alone():
    class Adapted(nn.Linear):
        def forward(self, states: Tensor) -> Tensor:
            return F.linear(states, self.weight)

    mlp = MLP()
    mlp.down_proj = Adapted(3 * WIDTH, WIDTH, bias=False)
    assert not is_gated_mlp(mlp)


def test_a_compiled_model_is_left_alone():
    model = nn.Sequential(Norm(), MLP())
    model[1].compile(backend="eager")
    with Recomputation(model)(lambda tensor: tensor):
        assert not [module for module in model.modules() if "forward" in vars(module)]
