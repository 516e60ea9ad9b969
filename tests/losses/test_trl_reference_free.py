"""TRL's trainers of losses without a reference on the same tensors: CPO with SimPO, TPO, ORPO. `test_trl.py` is about `DPOTrainer`.

Compared are means over the batch and their gradients in every log-prob, in float64 where TRL's code allows it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit.losses.cdpo import CDPO
from alignkit.losses.dpo_alpha import alpha_scores
from alignkit.losses.dpo_reference_free import DPOReferenceFree
from alignkit.losses.families import PairLogpsLoss, ReferenceFreeLoss, smoothed_logistic
from alignkit.losses.ipo import IPO
from alignkit.losses.ipo_avg import IPOAvg
from alignkit.losses.orpo import ORPO
from alignkit.losses.outputs import CompletionLogps, PairLogps, TokenLogps
from alignkit.losses.sft import SFT
from alignkit.losses.simpo import SimPO
from alignkit.losses.slic import SLiC

pytest.importorskip("trl", reason="needs TRL: pip install trl==1.16.0")
sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder

import trl_on_tensors as trl
from side_by_side import DISTINCT, EXACT, ROUNDED, assert_same_on_pairs

Objective = Callable[[PairLogps], Tensor]
"""[] the mean over a batch of pairs, from what the policy says of it."""

BETA, EPSILON, GAMMA = 0.3, 0.1, 0.6


def mean(loss: ReferenceFreeLoss) -> Objective:
    return lambda policy: loss(policy).losses.mean()


def without_reference(loss: PairLogpsLoss) -> Objective:
    """A loss on log-ratios, of log-probs: under a reference that is sure of everything."""
    return lambda policy: loss(policy, dataclasses.replace(policy, chosen=0 * policy.chosen, rejected=0 * policy.rejected)).losses.mean()


def likelihood(policy: PairLogps) -> Tensor:
    """Nats per token of the chosen completions, over all tokens of the batch."""
    tokens = policy.chosen_means.repeat_interleave(policy.chosen_tokens)
    return SFT()(TokenLogps(token_logps=tokens)).losses.mean()


def plus_likelihood(objective: Objective) -> Objective:
    return lambda policy: objective(policy) + likelihood(policy)


def alpha_po(policy: PairLogps) -> Tensor:
    """SimPO on the scores of f-DPO, of probabilities instead of ratios."""
    chosen, rejected = (alpha_scores(means, 0.5) for means in (policy.chosen_means, policy.rejected_means))
    return smoothed_logistic(BETA * (chosen - rejected) - GAMMA, epsilon=0.0).mean()


def scaled_slic(policy: PairLogps) -> Tensor:
    return BETA * mean(SLiC(delta=1 / BETA, nll_weight=0.0))(policy)


def orpo_with_prompt(policy: PairLogps) -> Tensor:
    """The odds ratio of ORPO, and a likelihood over all tokens of the batch, of which each prompt has one of ln 2 nats."""
    odds = (ORPO(odds_weight=0.25)(policy).losses + policy.chosen_means).mean()
    pairs = len(policy.chosen)
    nats = torch.tensor(2.0).log() * pairs - policy.chosen.sum()
    return odds + nats / (policy.chosen_tokens.sum() + pairs)


SIMPO = SimPO(beta=BETA, gamma_beta_ratio=GAMMA / BETA)
FREE = DPOReferenceFree(beta=BETA)

AGREES: dict[str, tuple[str, dict[str, Any], Objective]] = {
    "cpo: sigmoid": ("cpo", {"cpo_alpha": 0.0}, mean(FREE)),
    "cpo: sigmoid with likelihood": ("cpo", {"cpo_alpha": 1.0}, plus_likelihood(mean(FREE))),
    "cpo: simpo": ("cpo", {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": GAMMA}, mean(SIMPO)),
    "tpo: sigmoid": ("tpo", {"tpo_alpha": 0.0}, mean(FREE)),
    "tpo: tpo-l": ("tpo", {"loss_type": "tpo-l", "tpo_alpha": 0.0, "tpo_l_gamma": GAMMA}, mean(SIMPO)),
}

DIFFERS: dict[str, tuple[str, dict[str, Any], Objective, Objective]] = {
    # name: trainer, options, what one might take it for, what it is
    "cpo: gamma is not divided by beta": (
        "cpo",
        {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": GAMMA},
        mean(SimPO(beta=BETA, gamma_beta_ratio=GAMMA)),
        mean(SIMPO),
    ),
    "cpo: simpo has a likelihood term unless told otherwise": (
        "cpo",
        {"loss_type": "simpo", "simpo_gamma": GAMMA},
        mean(SIMPO),
        plus_likelihood(mean(SIMPO)),
    ),
    "cpo: alphapo": ("cpo", {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": GAMMA, "alpha": 0.5}, mean(SIMPO), alpha_po),
    "orpo: the likelihood is over prompts, too": ("orpo", {"beta": 0.25}, mean(ORPO(odds_weight=0.25)), orpo_with_prompt),
    **{
        f"{trainer}: {case}": (trainer, {f"{trainer}_alpha": 0.0, **options}, nearest, really)
        for trainer in ("cpo", "tpo")
        for case, options, nearest, really in [
            ("hinge has beta inside", {"loss_type": "hinge"}, mean(SLiC(delta=1.0, nll_weight=0.0)), scaled_slic),
            (
                "ipo is per token, without reference",
                {"loss_type": "ipo"},
                without_reference(IPO(beta=BETA)),
                without_reference(IPOAvg(beta=BETA)),
            ),
            ("sigmoid is smoothed", {"label_smoothing": EPSILON}, mean(FREE), without_reference(CDPO(beta=BETA, epsilon=EPSILON))),
        ]
    },
}


@pytest.mark.parametrize("case", AGREES)
def test_losses_without_a_reference_are_those_of_trl(case: str, policy: PairLogps) -> None:
    trainer, options, ours = AGREES[case]
    assert_same_on_pairs(ours, lambda pairs: getattr(trl, trainer)(pairs, **{"beta": BETA, **options}), policy)


@pytest.mark.parametrize("case", DIFFERS)
def test_where_trl_differs_it_does_as_documented(case: str, policy: PairLogps) -> None:
    trainer, options, nearest, really = DIFFERS[case]

    def theirs(pairs: PairLogps) -> Tensor:
        return getattr(trl, trainer)(pairs, **{"beta": BETA, **options})

    assert_same_on_pairs(really, theirs, policy, tolerance=ROUNDED if trainer == "orpo" else EXACT)
    assert abs(theirs(policy) - nearest(policy)) > DISTINCT


def test_tpo_learns_the_likelihood_of_a_third_completion(policy: PairLogps, float64: Callable[..., Tensor]) -> None:
    gold = CompletionLogps(logps=float64(-4, -9, -2), tokens=torch.tensor([2, 7, 3]))
    ours = mean(FREE)(policy) + 0.5 * 15 / 12  # 15 nats on 12 tokens
    torch.testing.assert_close(trl.tpo(policy, gold, beta=BETA, tpo_alpha=0.5), ours, rtol=EXACT, atol=0)
    assert abs(ours - plus_likelihood(mean(FREE))(policy)) > DISTINCT
