"""Layers whose cheap middle results are computed again in the backward pass instead of being kept. What is computed stays what it is.

Norms and the activation of a gated MLP cost next to nothing to compute again, and what they keep is more than a quarter of what a Llama
layer keeps of a position. (`model.checkpointing=full` keeps the least, and computes everything again.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import SiLUActivation

Convert = Callable[[Tensor], Tensor]
"""What a product reads of a weight: under autocast its conversion."""


@final
class Recomputation:
    """The layers of one model that can keep less, found once."""

    def __init__(self, model: nn.Module) -> None:
        compiled = any(module._compiled_call_impl is not None for module in model.modules())  # for the code that they have
        modules = [] if compiled else list(model.modules())
        self._norms = [module for module in modules if is_norm(module)]
        self._mlps = [module for module in modules if is_gated_mlp(module)]

    @contextmanager
    def __call__(self, convert: Convert) -> Iterator[None]:
        """Have them keep less while the block runs, in passes that have a gradient."""
        with ExitStack() as stack:
            for norm in self._norms:
                stack.enter_context(_replaced(norm, _norm(norm)))
            for mlp in self._mlps:
                stack.enter_context(_replaced(mlp, _gated(mlp, convert)))
            yield


def is_norm(module: Any) -> bool:
    """Whether a module computes `weight * (x / sqrt(mean(x^2) + eps))`, which is tried: Gemma's norm adds 1 to its weight."""
    if [name for name, _ in module.named_parameters()] != ["weight"] or module.weight.dim() != 1 or _eps(module) is None:
        return False
    tried = _trial(module.weight, module.weight.numel())
    with torch.no_grad():
        return torch.equal(module(tried), _normalised(tried, _scale(tried, _eps(module)), module.weight))


def is_gated_mlp(module: Any) -> bool:
    """Whether a module computes `down(act(gate(x)) * up(x))`, which is tried: names say what its parts are, not what it does with them."""
    gate, up, down, act = (getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj", "act_fn"))
    if not (isinstance(gate, nn.Linear) and isinstance(up, nn.Linear) and type(down) is nn.Linear and callable(act)):
        return False  # of adapters and quantised weights the gradient is another one
    tried = _trial(gate.weight, gate.in_features)
    with torch.no_grad(), torch.autocast(tried.device.type, enabled=False):
        return torch.equal(module(tried), down(act(gate(tried)) * up(tried)))


def _trial(weight: Tensor, width: int) -> Tensor:
    return torch.linspace(-1, 1, width, dtype=weight.dtype, device=weight.device)[None]


def _eps(module: Any) -> Any:
    return next((value for name in ("variance_epsilon", "eps") if isinstance(value := getattr(module, name, None), float)), None)


def _scale(states: Tensor, eps: float) -> Tensor:
    return torch.rsqrt(states.float().pow(2).mean(-1, keepdim=True) + eps)


def _normalised(states: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    return weight * (states.float() * scale).to(states.dtype)


@contextmanager
def _replaced(module: Any, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def _norm(module: Any) -> Callable[[Tensor], Tensor]:
    usual, eps = module.forward, _eps(module)

    def forward(states: Tensor) -> Tensor:
        keeps = torch.is_grad_enabled() and states.requires_grad
        normalised: Tensor = _Norm.apply(states, module.weight, eps) if keeps else usual(states)  # type: ignore[no-untyped-call]
        return normalised

    return forward


class _Norm(torch.autograd.Function):
    # Keeps what came in, which the residual stream holds anyway, and one number a position.
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = _scale(states, eps)
        ctx.save_for_backward(states, weight, scale)
        return _normalised(states, scale, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, scale = ctx.saved_tensors
        unit = states.float() * scale
        (gradient,) = gradients
        of_weight = (gradient * unit.to(states.dtype)).flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        of_unit = (gradient * weight).float()
        of_states = scale * (of_unit - unit * (of_unit * unit).mean(-1, keepdim=True))
        return of_states.to(states.dtype), of_weight, None


def _gated(module: Any, convert: Convert) -> Callable[[Tensor], Tensor]:
    usual, act, down = module.forward, module.act_fn, module.down_proj

    def forward(states: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and states.requires_grad):
            return usual(states)  # type: ignore[no-any-return]
        weight, bias = convert(down.weight), None if down.bias is None else convert(down.bias)
        output: Tensor = _GatedDown.apply(act, module.gate_proj(states), module.up_proj(states), weight, bias)  # type: ignore[no-untyped-call]
        return output

    return forward


class _GatedDown(torch.autograd.Function):
    # Keeps gate and up; act(gate) and act(gate) * up, which the product's gradient reads, are computed again.
    @staticmethod
    def forward(ctx: Any, act: Callable[[Tensor], Tensor], gate: Tensor, up: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.act = act
        ctx.save_for_backward(gate, up, weight)
        return F.linear(act(gate) * up, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight = ctx.saved_tensors
        (gradient,) = gradients
        rows, of_product = gradient.flatten(0, -2), gradient @ weight
        active, of_gate = _activated(ctx.act, gate, of_product * up)
        of_weight = rows.t() @ (active * up).flatten(0, -2) if ctx.needs_input_grad[3] else None
        return None, of_gate, of_product.mul_(active), of_weight, rows.sum(0) if ctx.needs_input_grad[4] else None


def _activated(act: Callable[[Tensor], Tensor], gate: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """`act(gate)`, and what the gradient of it makes of that of `gate`."""
    if isinstance(act, nn.SiLU | SiLUActivation):
        return F.silu(gate), torch.ops.aten.silu_backward(gradient, gate)
    with torch.enable_grad():
        tracked = gate.detach().requires_grad_()
        active = act(tracked)
    return active.detach(), torch.autograd.grad(active, tracked, gradient)[0]
