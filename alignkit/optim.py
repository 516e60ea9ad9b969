"""Optimizers with prior regularisation, parameter groups, and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from alignkit.optimizer_settings import AdamWSettings, LaPropSettings, OptimizerSettings, RMSpropSettings, ScheduleSettings

PRIOR = "prior"
"""Key, in the optimizer's state of a parameter, of the weights that it decays towards."""


class _DecoupledDecay(torch.optim.Optimizer):
    """Adds decoupled decay towards the initial weights or towards zero, before the base optimizer's own step.

        p <- p - lr * decay * (p - p0)        p0: the weights at the first step (`towards_init`), or 0

    p0 is part of the optimizer's state, so that a resumed run keeps its prior; groups that do not need one store none
    (Hadji-Kyriacou & Arandjelovic 2024, arXiv:2405.20053: prior regularisation).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        first: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            rate = group["lr"] * group["decay"]
            if group["decay"] == 0:
                continue
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if not group["towards_init"]:
                    parameter.mul_(1.0 - rate)
                elif PRIOR in self.state.get(parameter, {}):
                    parameter.lerp_(self.state[parameter][PRIOR], rate)
                else:
                    first.append((parameter, parameter.detach().clone()))
        result = super().step(closure)
        # Only now: base optimizers take an empty state for a parameter they have not met.
        for parameter, weights in first:
            self.state[parameter][PRIOR] = weights
        return result


@final
class AdamW(_DecoupledDecay, torch.optim.AdamW):
    """AdamW (arXiv:1711.05101) that may decay towards the initial weights; one fused pass over weights and moments."""


@final
class RMSprop(_DecoupledDecay, torch.optim.RMSprop):
    """RMSprop that may decay, decoupled from its step size statistics."""


class _LaPropStep(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "step" not in state:
                    state |= {"step": 0, "mean_lr": 0.0, "v": torch.zeros_like(parameter), "m": torch.zeros_like(parameter)}
                state["step"] += 1
                state["mean_lr"] = beta1 * state["mean_lr"] + (1 - beta1) * lr
                bias1 = state["mean_lr"] / lr if lr > 0 else 1.0
                bias2 = 1 - beta2 ** state["step"]
                state["v"].mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
                scaled = parameter.grad / state["v"].sqrt().add_(group["eps"])
                state["m"].mul_(beta1).add_(scaled, alpha=(1 - beta1) * lr * math.sqrt(bias2))
                parameter.sub_(state["m"], alpha=1 / bias1)
        return loss


@final
class LaProp(_DecoupledDecay, _LaPropStep):
    """Normalises the gradient first and takes its momentum then, where Adam does the reverse (arXiv:2002.04839).

        v <- b2 v + (1 - b2) g^2        m <- b1 m + (1 - b1) lr g sqrt(1 - b2^t) / (sqrt(v) + eps)        p <- p - m / c1

    c1 is the same moving average over lr / lr, so that a changing learning rate keeps its bias correction. As in the DPH
    authors' code; like every optimizer here it may decay towards the initial weights.
    """

    def __init__(self, params: Iterable[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})


def build_optimizer(
    settings: OptimizerSettings, *, trunk: Mapping[str, nn.Parameter], heads: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimizer of a run over named trunk parameters and head parameters; frozen ones are left out."""
    groups = parameter_groups(settings, trunk=trunk, heads=heads)
    # Torch takes a list of whole tensors or one of cut ones, not both at once.
    alike = all(len({isinstance(parameter, DTensor) for parameter in group["params"]}) == 1 for group in groups)
    together = {"fused": True} if alike else {"foreach": False}
    match settings:
        case AdamWSettings():
            return AdamW(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=settings.eps, weight_decay=0.0, **together)
        case LaPropSettings():
            return LaProp(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=settings.eps)
        case RMSpropSettings():
            return RMSprop(groups, lr=settings.lr, alpha=settings.alpha, eps=settings.eps, foreach=None if alike else False)
        case _:
            raise AssertionError(f"no optimizer for {type(settings).__name__}")


def parameter_groups(
    settings: OptimizerSettings, *, trunk: Mapping[str, nn.Parameter], heads: Iterable[nn.Parameter]
) -> list[dict[str, Any]]:
    """Decayed trunk, undecayed trunk and heads; empty groups are left out.

    Towards zero, one-dimensional trunk parameters (norms, biases) are not decayed, as is usual; towards the initial weights
    all are that `decay_exclude` does not name.
    """
    to_init = settings.decay_towards == "init"
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in trunk.items():
        if parameter.requires_grad:
            excluded = any(part in name for part in settings.decay_exclude) or (not to_init and parameter.ndim < 2)
            (undecayed if excluded else decayed).append(parameter)
    head_parameters = [parameter for parameter in heads if parameter.requires_grad]
    head_lr = settings.lr * settings.head_lr_multiplier
    groups = [
        {"name": "trunk", "params": decayed, "lr": settings.lr, "decay": settings.weight_decay, "towards_init": to_init},
        {"name": "trunk_undecayed", "params": undecayed, "lr": settings.lr, "decay": 0.0, "towards_init": False},
        {"name": "heads", "params": head_parameters, "lr": head_lr, "decay": settings.head_weight_decay, "towards_init": False},
    ]
    return [group for group in groups if group["params"]]


def learning_rate_factor(settings: ScheduleSettings, step: int, steps: int) -> float:
    """Factor on the learning rate of optimiser step `step` (0-based) out of `steps`.

    Linear warm-up ends at 1 in step `warmup_steps` (the step after the warm-up); then `final_ratio` is reached in the last step.
    """
    if step < settings.warmup_steps:
        return (step + 1) / (settings.warmup_steps + 1)
    if settings.name == "constant":
        return 1.0
    progress = (step - settings.warmup_steps) / max(1, steps - 1 - settings.warmup_steps)
    progress = min(1.0, progress)
    shape = 1.0 - progress if settings.name == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return settings.final_ratio + (1.0 - settings.final_ratio) * shape


def build_schedule(settings: ScheduleSettings, optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
    """The learning-rate schedule, advanced once an optimiser step."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(settings, step, steps))
