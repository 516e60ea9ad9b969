"""What passes for rounding between a sampler and the code that trains, and what does not."""

from __future__ import annotations

import pytest
import torch

from alignkit.data.examples import EncodedExample
from alignkit.errors import UserError
from alignkit.modules.sampler_check import sampler_error
from alignkit.rollout import Rollout


def rollout(*gaps: float) -> Rollout:
    """One completion whose tokens have log-probs that differ so from those they were drawn with."""
    logps = torch.full((len(gaps),), -2.0, dtype=torch.float64)
    example = EncodedExample(key=0, prompt_ids=(3,), completion_ids=(tuple(range(3, 3 + len(gaps))),))
    return Rollout(
        examples=(example,),
        sampled_logps=logps - torch.tensor(gaps, dtype=torch.float64),
        scores=torch.zeros(1),
        logps=logps,
        reference_logps=logps,
        values=None,
    )


def test_the_error_is_that_of_the_worst_token():
    assert sampler_error(rollout(1e-5, -3e-5, 0), torch.float32, elsewhere=False) == pytest.approx(3e-5)


@pytest.mark.parametrize(
    ("gaps", "products", "elsewhere"),
    [
        ((2e-3, -2e-3), torch.float32, False),  # a token
        ((2e-4, 2e-4), torch.float32, False),  # the mean
        ((1e-6, 1e-6), torch.float64, False),
        ((0.05, 0.05), torch.bfloat16, False),
        ((float("nan"), 0.0), torch.float32, False),
        ((0.2, -0.2), torch.float32, True),
        ((0.02, 0.02), torch.float32, True),
        ((0.2, 0.2), torch.bfloat16, True),
    ],
)
def test_more_than_rounding_is_refused(gaps, products, elsewhere):
    with pytest.raises(UserError, match=r"^rollout: samples were not drawn from the policy that is trained"):
        sampler_error(rollout(*gaps), products, elsewhere=elsewhere)


@pytest.mark.parametrize(
    ("gaps", "products", "elsewhere"),
    [
        ((5e-4, -5e-4), torch.float32, False),
        ((0.4, -0.45), torch.bfloat16, True),
        ((0.3, -0.35), torch.bfloat16, False),
        ((0.05, -0.05), torch.float32, True),
    ],
)
def test_rounding_is_let_through(gaps, products, elsewhere):
    assert sampler_error(rollout(*gaps), products, elsewhere=elsewhere) == pytest.approx(max(map(abs, gaps)))
