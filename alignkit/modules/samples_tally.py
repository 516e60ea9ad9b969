"""What every objective that samples logs of a rollout."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from alignkit.advantages import k3_estimates
from alignkit.logps import completion_sums
from alignkit.metrics import ENTROPY, KL, KL_K3, RLHF_REWARD, SCORES
from alignkit.modules.collector import Collected
from alignkit.modules.tally import Tally


def tally_samples(tally: Tally, collected: Collected, *, kl_coefficient: float) -> None:
    """Take in scores, their parts, and how far the policy is from the reference."""
    rollout = collected.rollout
    log_ratios = rollout.logps - rollout.reference_logps
    k3 = completion_sums(k3_estimates(log_ratios), rollout.completion_index, len(rollout.scores))
    values: Mapping[str, Tensor] = {
        SCORES: rollout.scores,
        RLHF_REWARD: rollout.scores - kl_coefficient * rollout.kl,
        KL: rollout.kl,
        KL_K3: k3,
        ENTROPY: -rollout.logps,
        **collected.metrics,
    }
    for name, own in values.items():
        tally.add(name, own)
