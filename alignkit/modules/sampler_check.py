"""Whether samples were drawn from the policy that is trained."""

from __future__ import annotations

import torch

from alignkit.errors import UserError
from alignkit.rollout import Rollout

SAMPLER_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6, torch.bfloat16: 1.0}
"""Largest difference, nats, of a token's log-prob as it was drawn from the one that training computes, by the type of products: rounding.
A temperature that only one side knows is off by tenths."""
MEAN_RATIO_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8, torch.bfloat16: 3e-2}
"""How far the mean ratio of the two may be from 1."""
ENGINE_TOLERANCE = {torch.float32: 0.1, torch.float64: 0.1, torch.bfloat16: 3.0}
ENGINE_MEAN_RATIO_TOLERANCE = {torch.float32: 1e-2, torch.float64: 1e-2, torch.bfloat16: 0.1}
"""The same for an engine of its own, whose kernels round in other places; importance weights are for that. What it says of a single
unlikely token may be far off, but the mean ratio is 1 for every sampler that knows its own log-probs."""


def sampler_error(rollout: Rollout, products: torch.dtype, *, elsewhere: bool) -> float:
    """Largest difference of a token's log-prob as it was drawn from the one that training computes, nats.

    `products` is the type of matrix products; `elsewhere` says whether an engine of its own has sampled.

    Raises:
        UserError: when it is more than rounding: the policy that is trained is not the one that was sampled.
    """
    gaps = rollout.logps - rollout.sampled_logps
    worst, ratio = float(gaps.abs().max()), float(gaps.double().exp().mean())
    tokens = (ENGINE_TOLERANCE if elsewhere else SAMPLER_TOLERANCE)[products]
    mean = (ENGINE_MEAN_RATIO_TOLERANCE if elsewhere else MEAN_RATIO_TOLERANCE)[products]
    if not (worst <= tokens and abs(ratio - 1) <= mean):
        raise UserError(
            f"rollout: samples were not drawn from the policy that is trained: log-probs differ by up to {worst:.3g} nats (at most "
            f"{tokens:g} is rounding), their ratio is {ratio:.6f} in the mean. The model does something beyond its mask and output "
            "embedding, or its sampler does. Try batch.layout=rows model.attention=dense."
        )
    return worst
