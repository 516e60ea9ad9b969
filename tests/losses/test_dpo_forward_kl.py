from __future__ import annotations

import torch

from alignkit.losses.dpo import DPO
from alignkit.losses.dpo_forward_kl import DPOForwardKL
from alignkit.losses.outputs import PairLogps


def test_each_side_is_weighed_by_its_inverse_ratio(close, float64) -> None:
    # Ratios 2 and 1/2, beta 1: z = 2 - 1/2; the slopes are -sigmoid(-1.5) = -.1824255238 times 1/2 and times -2.
    a, b, tokens = float64(2).log().requires_grad_(), float64(0.5).log().requires_grad_(), torch.ones(1)
    zero = float64(0)
    policy = PairLogps(chosen=a, rejected=b, chosen_tokens=tokens, rejected_tokens=tokens)
    losses = DPOForwardKL(beta=1.0)(policy, PairLogps(chosen=zero, rejected=zero, chosen_tokens=tokens, rejected_tokens=tokens)).losses
    losses.sum().backward()
    close(losses, 0.2014132780)
    close(a.grad, -0.0912127619)
    close(b.grad, 0.3648510476)


def test_a_chosen_side_above_the_reference_gains_at_most_beta(close, reference: PairLogps) -> None:
    chosen = reference.chosen + torch.tensor([50.0, 500.0, 1e4], dtype=torch.float64)
    tokens = {"chosen_tokens": reference.chosen_tokens, "rejected_tokens": reference.rejected_tokens}
    losses = DPOForwardKL(beta=1.0)(PairLogps(chosen=chosen, rejected=reference.rejected, **tokens), reference).losses
    close(losses, 0.3132616875)  # -log sigmoid(1)


def test_is_dpo_near_the_reference(float64, logps_with_gaps) -> None:
    pairs = logps_with_gaps(float64(-1e-4, 1e-4))
    torch.testing.assert_close(DPOForwardKL(beta=0.1)(*pairs).losses, DPO(beta=0.1)(*pairs).losses, rtol=0, atol=1e-12)
