from __future__ import annotations

import pytest
import torch

from alignkit.losses.apo_down import APODown
from alignkit.losses.outputs import PairLogps


def test_is_the_sigmoid_of_the_chosen_reward_and_of_the_negative_margin(close, float64, policy: PairLogps, reference: PairLogps) -> None:
    # Facts 4.4 and 4.7 (d): sigmoid(.1) = 1 - .4750208125, sigmoid(-.05) = 1 - .5124973965, sigmoid(-.1) = 1 - .5249791875.
    chosen, margins = 1 - float64(0.4750208125, 0.5124973965, 0.5249791875), float64(0.4625701547, 0.5249791875, 0.5374298453)
    close(APODown(beta=0.1)(policy, reference).losses, chosen + margins)


@pytest.mark.parametrize(
    ("chosen", "rejected", "sign"),
    [(0.0, 0.0, 0), (3.0, 0.0, 0), (0.0, -4.0, 1), (-1.0, -4.0, 1), (-2.0, -4.0, 0), (-3.0, -4.0, -1), (0.0, 4.0, 1), (3.0, 4.0, -1)],
)
def test_the_chosen_side_turns_at_half_the_log_ratio_of_the_rejected_one(float64, chosen: float, rejected: float, sign: int) -> None:
    a, b, start = float64(chosen).requires_grad_(), float64(rejected).requires_grad_(), float64(0)
    policy = PairLogps(chosen=a, rejected=b, chosen_tokens=start, rejected_tokens=start)
    reference = PairLogps(chosen=start, rejected=start, chosen_tokens=start, rejected_tokens=start)
    APODown(beta=0.5)(policy, reference).losses.sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    assert (a.grad.sign() if abs(a.grad) > 1e-12 else 0) == sign
    assert b.grad > 0


def test_equals_the_symmetric_loss_where_the_chosen_side_has_not_moved(close, reference: PairLogps) -> None:
    gaps = torch.tensor([-10.0, 0.0, 20.0], dtype=torch.float64)
    policy = PairLogps(
        chosen=reference.chosen,
        rejected=reference.rejected - gaps,
        chosen_tokens=reference.chosen_tokens,
        rejected_tokens=reference.rejected_tokens,
    )
    close(APODown(beta=0.1)(policy, reference).losses, (1.2310585786, 1.0, 0.6192029220))  # 1/2 + sigmoid of 1, 0, -2
