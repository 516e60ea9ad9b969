from __future__ import annotations

import torch

from alignkit.losses.dpo import DPO
from alignkit.losses.dpop import DPOP
from alignkit.losses.outputs import PairLogps


def test_a_shortfall_is_a_margin_lost(close, float64, logps_with_gaps, policy: PairLogps, reference: PairLogps) -> None:
    # a = (1, -.5, -1): with penalty 5 the gaps (1.5, -1, -1.5) become (1.5, -1 - 5 * .5, -1.5 - 5 * 1).
    losses = DPOP(beta=0.1, penalty=5.0)(policy, reference).losses
    close(losses, DPO(beta=0.1)(*logps_with_gaps(float64(1.5, -3.5, -6.5))).losses)


def test_equals_dpo_without_penalty(policy: PairLogps, reference: PairLogps) -> None:
    torch.testing.assert_close(
        DPOP(beta=0.1, penalty=0.0)(policy, reference).losses, DPO(beta=0.1)(policy, reference).losses, rtol=0, atol=0
    )


def test_the_first_step_is_that_of_dpo(close, reference: PairLogps) -> None:
    chosen, rejected = reference.chosen.clone().requires_grad_(), reference.rejected.clone().requires_grad_()
    tokens = {"chosen_tokens": reference.chosen_tokens, "rejected_tokens": reference.rejected_tokens}
    DPOP(beta=0.1, penalty=50.0)(PairLogps(chosen=chosen, rejected=rejected, **tokens), reference).losses.sum().backward()
    close(chosen.grad, -0.05)  # beta sigmoid(0)
    close(rejected.grad, 0.05)


def test_below_the_reference_the_chosen_side_is_pulled_one_plus_penalty_times_as_hard(policy: PairLogps, reference: PairLogps) -> None:
    policy.chosen.requires_grad_()
    policy.rejected.requires_grad_()
    DPOP(beta=0.1, penalty=5.0)(policy, reference).losses.sum().backward()
    assert policy.chosen.grad is not None
    assert policy.rejected.grad is not None
    torch.testing.assert_close(-policy.chosen.grad / policy.rejected.grad, torch.tensor([1.0, 6.0, 6.0], dtype=torch.float64))


def test_rewards_have_no_penalty(policy: PairLogps, reference: PairLogps) -> None:
    ours, theirs = DPOP(beta=0.1, penalty=50.0)(policy, reference), DPO(beta=0.1)(policy, reference)
    torch.testing.assert_close(ours.margins, theirs.margins, rtol=0, atol=0)
