"""TRL's `DPOTrainer` on the same tensors: every loss that it has, what agrees, and where not, what the difference is.

Compared are means over the batch and their gradients in every log-prob, in float64 where TRL's code allows it.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit.losses.aot import AOT, rank_partners
from alignkit.losses.apo_down import APODown
from alignkit.losses.apo_zero import APOZero
from alignkit.losses.bco import BCO
from alignkit.losses.cdpo import CDPO
from alignkit.losses.discopop import DiscoPOP
from alignkit.losses.dpo import DPO
from alignkit.losses.dpo_alpha import DPOAlpha
from alignkit.losses.dpo_forward_kl import DPOForwardKL
from alignkit.losses.dpo_js import DPOJS
from alignkit.losses.dpo_nll_mean import DPONLLMean
from alignkit.losses.exo import EXO
from alignkit.losses.families import PairLogpsLoss, log_ratios
from alignkit.losses.hinge import Hinge
from alignkit.losses.ipo import IPO
from alignkit.losses.ipo_avg import IPOAvg
from alignkit.losses.nca import NCA
from alignkit.losses.outputs import CompletionLogps, PairLogps, TokenLogps
from alignkit.losses.robust_dpo import RobustDPO
from alignkit.losses.sft import SFT
from alignkit.losses.sppo import SPPO

pytest.importorskip("trl", reason="needs TRL: pip install trl==1.16.0")
sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder

import trl_on_tensors as trl
from side_by_side import DISTINCT, EXACT, ROUNDED, assert_same_on_pairs

Objective = Callable[[PairLogps, PairLogps], Tensor]
"""[] the mean over a batch of pairs, from what policy and reference say of it."""

BETA, EPSILON = 0.3, 0.1


def records(dtype: torch.dtype = torch.float64) -> tuple[PairLogps, PairLogps]:
    """Six pairs whose log-ratios, gaps and lengths are all different, and in another order on each side."""
    chosen_tokens, rejected_tokens = torch.tensor([5, 3, 8, 1, 9, 4]), torch.tensor([6, 2, 7, 5, 3, 10])
    policy = PairLogps(
        chosen=torch.tensor([-10.0, -7.5, -20.0, -1.25, -18.0, -9.0], dtype=dtype),
        rejected=torch.tensor([-12.0, -6.0, -18.0, -11.0, -9.5, -25.0], dtype=dtype),
        chosen_tokens=chosen_tokens,
        rejected_tokens=rejected_tokens,
    )
    reference = PairLogps(
        chosen=torch.tensor([-11.0, -7.0, -19.0, -3.5, -17.25, -12.0], dtype=dtype),
        rejected=torch.tensor([-11.5, -6.25, -20.5, -10.0, -9.25, -21.0], dtype=dtype),
        chosen_tokens=chosen_tokens,
        rejected_tokens=rejected_tokens,
    )
    return policy, reference


def mean(loss: PairLogpsLoss) -> Objective:
    return lambda policy, reference: loss(policy, reference).losses.mean()


def sorted_mean(policy: PairLogps, reference: PairLogps) -> Tensor:
    partners = rank_partners(*log_ratios(policy, reference))
    return AOT(beta=BETA, epsilon=EPSILON)(policy, reference, partners).losses.mean()


def token_mean(policy: PairLogps, reference: PairLogps) -> Tensor:
    tokens = policy.chosen_means.repeat_interleave(policy.chosen_tokens)
    return SFT()(TokenLogps(token_logps=tokens)).losses.mean()


def binary(policy: PairLogps, reference: PairLogps, level: float) -> Tensor:
    """BCO at a level, per pair: the losses of its two completions."""
    sides = [
        CompletionLogps(logps=torch.cat([pairs.chosen, pairs.rejected]), tokens=torch.cat([pairs.chosen_tokens, pairs.rejected_tokens]))
        for pairs in (policy, reference)
    ]
    desirable = torch.arange(2 * len(policy.chosen)) < len(policy.chosen)
    return 2 * BCO(beta=BETA, decay=0.9)(*sides, desirable, torch.tensor(level)).losses.mean()


def with_sorted_gaps(policy: PairLogps, reference: PairLogps) -> Tensor:
    """cDPO where the k-th smallest gap of the policy meets the k-th smallest of the reference, of whatever pair that is."""
    pairs = [replace(side, chosen=(side.chosen - side.rejected).sort().values, rejected=0 * side.rejected) for side in (policy, reference)]
    return mean(CDPO(beta=BETA, epsilon=EPSILON))(*pairs)


def on_means(policy: PairLogps, reference: PairLogps) -> Tensor:
    """DPO on log-probs per token."""
    pairs = [replace(side, chosen=side.chosen_means, rejected=side.rejected_means) for side in (policy, reference)]
    return mean(DPO(beta=BETA))(*pairs)


def weighted_by_likelihood(policy: PairLogps, reference: PairLogps) -> Tensor:
    """DPO times the likelihood per token of either completion, without gradient, where the policy's distributions have one token."""
    weights = torch.exp(policy.chosen_means + policy.rejected_means).detach()
    return (weights * DPO(beta=BETA)(policy, reference).losses).mean()


def desensitised(policy: PairLogps, reference: PairLogps) -> Tensor:
    """DPO where only half of what a completion says beyond the length of the other one counts. The n-th token has a share of n."""

    def shorten(side: PairLogps) -> PairLogps:
        shared = torch.minimum(side.chosen_tokens, side.rejected_tokens)
        kept = [(shared * (shared + 1)).double() / (tokens * (tokens + 1)) for tokens in (side.chosen_tokens, side.rejected_tokens)]
        halved = [(1 + share) / 2 for share in kept]
        return replace(side, chosen=side.chosen * halved[0], rejected=side.rejected * halved[1])

    return mean(DPO(beta=BETA))(shorten(policy), shorten(reference))


AGREES: dict[str, tuple[dict[str, Any], Objective]] = {
    "sigmoid": ({}, mean(DPO(beta=BETA))),
    "sigmoid, f_divergence_type=forward_kl": ({"f_divergence_type": "forward_kl"}, mean(DPOForwardKL(beta=BETA))),
    "sigmoid, f_divergence_type=js_divergence": ({"f_divergence_type": "js_divergence"}, mean(DPOJS(beta=BETA))),
    "hinge": ({"loss_type": ["hinge"]}, mean(Hinge(beta=BETA))),
    "exo_pair": ({"loss_type": ["exo_pair"], "label_smoothing": EPSILON}, mean(EXO(beta=BETA, epsilon=EPSILON))),
    "nca_pair": ({"loss_type": ["nca_pair"]}, mean(NCA(beta=BETA))),
    "robust": ({"loss_type": ["robust"], "label_smoothing": EPSILON}, mean(RobustDPO(beta=BETA, epsilon=EPSILON))),
    "sppo_hard": ({"loss_type": ["sppo_hard"]}, mean(SPPO(beta=BETA))),
    "aot_unpaired": ({"loss_type": ["aot_unpaired"], "label_smoothing": EPSILON}, sorted_mean),
    "apo_zero": ({"loss_type": ["apo_zero"]}, mean(APOZero(beta=BETA))),
    "apo_down": ({"loss_type": ["apo_down"]}, mean(APODown(beta=BETA))),
    "discopop": ({"loss_type": ["discopop"], "discopop_tau": 0.4}, mean(DiscoPOP(beta=BETA, tau=0.4))),
    "sft": ({"loss_type": ["sft"]}, token_mean),
    "sigmoid and sft": (
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.8, 0.2]},
        lambda policy, reference: 0.8 * DPO(beta=BETA)(policy, reference).losses.mean() + 0.2 * token_mean(policy, reference),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A loss of TRL that is not what alignkit has under that name, or has no counterpart."""

    options: Mapping[str, Any]
    nearest: Objective
    """What one might take it for."""
    really: Objective
    """What it is."""


DIFFERS = {
    "sigmoid ignores label_smoothing": Difference(
        options={"label_smoothing": EPSILON}, nearest=mean(CDPO(beta=BETA, epsilon=EPSILON)), really=mean(DPO(beta=BETA))
    ),
    "ipo is per token": Difference(options={"loss_type": ["ipo"]}, nearest=mean(IPO(beta=BETA)), really=mean(IPOAvg(beta=BETA))),
    "bco_pair has no shift": Difference(
        options={"loss_type": ["bco_pair"]},
        nearest=lambda policy, reference: binary(policy, reference, level=0.5),
        really=lambda policy, reference: binary(policy, reference, level=0.0),
    ),
    "aot sorts the gaps of policy and reference": Difference(
        options={"loss_type": ["aot"], "label_smoothing": EPSILON}, nearest=sorted_mean, really=with_sorted_gaps
    ),
    "sigmoid and sft are not dpo_nll_mean": Difference(
        options={"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
        nearest=mean(DPONLLMean(beta=BETA, nll_weight=0.5)),
        really=lambda policy, reference: DPO(beta=BETA)(policy, reference).losses.mean() + 0.5 * token_mean(policy, reference),
    ),
    "sigmoid_norm": Difference(options={"loss_type": ["sigmoid_norm"]}, nearest=mean(DPO(beta=BETA)), really=on_means),
    "use_weighting": Difference(options={"use_weighting": True}, nearest=mean(DPO(beta=BETA)), really=weighted_by_likelihood),
    "ld_alpha": Difference(options={"ld_alpha": 0.5}, nearest=mean(DPO(beta=BETA)), really=desensitised),
}


def of_trl(options: Mapping[str, Any]) -> Objective:
    return lambda policy, reference: trl.dpo(policy, reference, **{"beta": BETA, **options})


def assert_same(ours: Objective, theirs: Objective, dtype: torch.dtype = torch.float64, tolerance: float = EXACT) -> None:
    policy, reference = records(dtype)
    assert_same_on_pairs(lambda pairs: ours(pairs, reference), lambda pairs: theirs(pairs, reference), policy, tolerance)


@pytest.mark.parametrize("case", AGREES)
def test_value_and_gradients_are_those_of_trl(case: str) -> None:
    options, ours = AGREES[case]
    # TRL takes the logarithms of EXO's epsilon in float32.
    assert_same(ours, of_trl(options), tolerance=ROUNDED if case == "exo_pair" else EXACT)


def test_alpha_of_trl_is_one_minus_the_papers() -> None:
    theirs = of_trl({"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3})
    # TRL knows no float64 here.
    assert_same(mean(DPOAlpha(beta=BETA, alpha=0.7)), theirs, torch.float32, tolerance=ROUNDED)
    same_number = mean(DPOAlpha(beta=BETA, alpha=0.3))(*records(torch.float32))
    assert abs(theirs(*records(torch.float32)) - same_number) > DISTINCT


@pytest.mark.parametrize("case", DIFFERS)
def test_where_trl_differs_it_does_as_documented(case: str) -> None:
    difference = DIFFERS[case]
    theirs = of_trl(difference.options)
    assert_same(difference.really, theirs)
    assert abs(theirs(*records()) - difference.nearest(*records())) > DISTINCT


def known_loss_types() -> set[str]:
    with pytest.raises(ValueError, match="Unknown loss type") as refusal:
        trl.dpo(*records(), loss_type=["none"])
    return set(re.findall(r"'(\w+)'", str(refusal.value)))


def test_four_loss_types_of_trl_read_label_smoothing() -> None:
    def moves(loss_type: str) -> bool:
        values = [of_trl({"loss_type": [loss_type], "label_smoothing": epsilon})(*records()) for epsilon in (0.01, 0.3)]
        return bool(abs(values[0] - values[1]) > 0)

    assert {name for name in known_loss_types() if moves(name)} == {"robust", "exo_pair", "aot", "aot_unpaired"}


def test_every_loss_type_of_trl_is_compared() -> None:
    options = [options for options, _ in AGREES.values()] + [difference.options for difference in DIFFERS.values()]
    assert {kind for option in options for kind in option.get("loss_type", ["sigmoid"])} == known_loss_types()


@pytest.mark.parametrize(("loss_type", "ours"), [("sft", token_mean), ("aot_unpaired", sorted_mean)], ids=["means over tokens", "sorts"])
def test_what_trl_computes_depends_on_how_a_step_is_cut(loss_type: str, ours: Objective) -> None:
    """alignkit divides by the tokens and sorts the pairs of the whole step."""
    policy, reference = records()
    fields = ("chosen", "rejected", "chosen_tokens", "rejected_tokens")
    halves = [
        [replace(side, **{name: getattr(side, name)[part] for name in fields}) for side in (policy, reference)]
        for part in (slice(3), slice(3, None))
    ]
    theirs = of_trl({"loss_type": [loss_type], "label_smoothing": EPSILON})
    of_micro_batches = torch.stack([theirs(*half) for half in halves]).mean()
    torch.testing.assert_close(of_micro_batches, torch.stack([ours(*half) for half in halves]).mean(), rtol=EXACT, atol=0)
    assert abs(of_micro_batches - ours(policy, reference)) > DISTINCT


def far_below(*log_ratios: float) -> tuple[PairLogps, PairLogps]:
    """One pair of one-token completions with these log-ratios, float32, as it trains."""
    tokens = torch.ones(1, dtype=torch.int64)
    start = torch.full((1,), -1.0)
    reference = PairLogps(chosen=start, rejected=start, chosen_tokens=tokens, rejected_tokens=tokens)
    return replace(reference, chosen=start + log_ratios[0], rejected=start + log_ratios[1]), reference


@pytest.mark.parametrize(
    ("options", "ours", "log_ratios"),
    [
        ({"f_divergence_type": "forward_kl"}, mean(DPOForwardKL(beta=BETA)), (-100.0, -95.0)),
        ({"loss_type": ["discopop"]}, mean(DiscoPOP(beta=BETA, tau=0.05)), (-300.0, 10.0)),
    ],
    ids=["forward_kl", "discopop"],
)
def test_trl_is_not_a_number_where_its_exponentials_overflow(
    options: dict[str, Any], ours: Objective, log_ratios: tuple[float, float]
) -> None:
    pair = far_below(*log_ratios)
    assert of_trl(options)(*pair).isnan()
    assert ours(*pair).isfinite()


def test_where_trl_clamps_the_alpha_divergence_alignkit_keeps_the_order() -> None:
    pair = far_below(-300.0, -250.0)
    theirs = of_trl({"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5})
    assert float(theirs(*pair)) == pytest.approx(math.log(2))
    assert mean(DPOAlpha(beta=BETA, alpha=0.5))(*pair) > 1e6
