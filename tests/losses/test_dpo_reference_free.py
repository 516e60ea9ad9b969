from __future__ import annotations

import torch

from alignkit.losses.dpo import DPO
from alignkit.losses.dpo_reference_free import DPOReferenceFree
from alignkit.losses.outputs import PairLogps


def test_losses_of_the_fact_sheet(close, policy: PairLogps) -> None:
    output = DPOReferenceFree(beta=0.1)(policy)
    close(output.losses, (0.5981388694, 0.7709570478, 0.7709570478))
    close(output.losses.mean(), 0.7133509883)
    close(output.chosen_rewards, (-1.0, -0.75, -2.0))
    close(output.rejected_rewards, (-1.2, -0.6, -1.85))


def test_is_dpo_against_a_reference_that_is_indifferent(policy: PairLogps) -> None:
    same = torch.full_like(policy.chosen, -3.0)
    indifferent = PairLogps(chosen=same, rejected=same, chosen_tokens=policy.chosen_tokens, rejected_tokens=policy.rejected_tokens)
    free, bound = DPOReferenceFree(beta=0.3)(policy), DPO(beta=0.3)(policy, indifferent)
    torch.testing.assert_close(free.losses, bound.losses, rtol=1e-14, atol=0)
    torch.testing.assert_close(free.margins, bound.margins, rtol=1e-13, atol=0)


def test_losses_fall_as_the_gap_grows(close, float64, logps_with_gaps) -> None:
    policy, _ = logps_with_gaps(torch.linspace(-30, 30, 61, dtype=torch.float64))
    assert (DPOReferenceFree(beta=0.1)(policy).losses.diff() < 0).all()
    far, _ = logps_with_gaps(float64(-1e4, 1e4))
    close(DPOReferenceFree(beta=0.1)(far).losses, (1000, 0))
