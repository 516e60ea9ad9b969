from __future__ import annotations

import torch

from alignkit.losses.dpo import DPO
from alignkit.losses.dpo_js import DPOJS
from alignkit.losses.outputs import PairLogps


def test_far_below_the_reference_it_is_dpo(close, policy: PairLogps, reference: PairLogps) -> None:
    sunk = PairLogps(
        chosen=policy.chosen - 40,
        rejected=policy.rejected - 40,
        chosen_tokens=policy.chosen_tokens,
        rejected_tokens=policy.rejected_tokens,
    )
    close(DPOJS(beta=0.1)(sunk, reference).losses, (0.6209570478, 0.7443966601, 0.7709570478))  # facts 2.6


def test_far_above_the_reference_it_has_nothing_to_say(close, policy: PairLogps, reference: PairLogps) -> None:
    risen = PairLogps(
        chosen=policy.chosen + 40,
        rejected=policy.rejected + 40,
        chosen_tokens=policy.chosen_tokens,
        rejected_tokens=policy.rejected_tokens,
    )
    close(DPOJS(beta=0.1)(risen, reference).losses, 0.6931471806)


def test_where_both_sides_moved_alike_it_is_dpo_at_half_beta(logps_with_gaps) -> None:
    # log sigmoid(x) - log sigmoid(-x) = x
    pairs = logps_with_gaps(torch.linspace(-100, 100, 21, dtype=torch.float64))
    torch.testing.assert_close(DPOJS(beta=0.1)(*pairs).losses, DPO(beta=0.05)(*pairs).losses)


def test_scores_are_log_chances(close, float64) -> None:
    # Ratios 3 and 1/3: s = ln(3/4) and ln(1/4), so at beta 1 z = ln 3 and L = -log(3/4); swapped, -log(1/4).
    zeros, tokens = torch.zeros(2, dtype=torch.float64), torch.ones(2)
    log_ratios = float64(3, 1 / 3).log()
    policy = PairLogps(chosen=log_ratios, rejected=-log_ratios, chosen_tokens=tokens, rejected_tokens=tokens)
    losses = DPOJS(beta=1.0)(policy, PairLogps(chosen=zeros, rejected=zeros, chosen_tokens=tokens, rejected_tokens=tokens)).losses
    close(losses, (0.2876820724, 1.3862943611))
