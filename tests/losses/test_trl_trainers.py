"""TRL's other trainers on the same tensors: online DPO, KTO, reward models, SFT and distillation. `test_trl.py` is about `DPOTrainer`.

Compared are means over the batch, mostly with their gradients in every log-prob or score, in float64 where TRL's code allows it.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit.losses.apo_zero import APOZero
from alignkit.losses.bradley_terry import BradleyTerry
from alignkit.losses.dpo import DPO
from alignkit.losses.families import DivergenceLoss, PairLogpsLoss
from alignkit.losses.forward_kl import ForwardKL
from alignkit.losses.ipo import IPO
from alignkit.losses.kto import KTO
from alignkit.losses.outputs import CompletionLogps, PairLogps, PairRewards, TokenLogps
from alignkit.losses.reverse_kl import ReverseKL
from alignkit.losses.sft import SFT

pytest.importorskip("trl", reason="needs TRL: pip install trl==1.16.0")
sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder

import trl_on_tensors as trl
from side_by_side import DISTINCT, EXACT, ROUNDED, assert_same, assert_same_on_pairs

BETA = 0.3


@pytest.mark.parametrize(("loss_type", "loss"), [("sigmoid", DPO(beta=BETA)), ("ipo", IPO(beta=BETA))])
def test_online_dpo_has_dpo_and_ipo_on_sums(loss_type: str, loss: PairLogpsLoss, policy: PairLogps, reference: PairLogps) -> None:
    assert_same_on_pairs(
        lambda pairs: loss(pairs, reference).losses.mean(),
        lambda pairs: trl.online_dpo(pairs, reference, loss_type=loss_type, beta=BETA),
        policy,
    )


DESIRABLE = torch.tensor([True, False, False, True, True, False])


def completions(pairs: PairLogps) -> CompletionLogps:
    return CompletionLogps(logps=torch.cat([pairs.chosen, pairs.rejected]), tokens=torch.cat([pairs.chosen_tokens, pairs.rejected_tokens]))


def kto_mean(policy: CompletionLogps, reference: CompletionLogps, desirable: Tensor, mismatched: Tensor) -> Tensor:
    loss = KTO(beta=BETA, desirable_weight=1.25, undesirable_weight=0.75)
    return loss(policy, reference, desirable, loss.level(mismatched)).losses.mean()


def kto_of_trl(*arguments: Any) -> Tensor:
    return trl.kto(*arguments, beta=BETA, desirable_weight=1.25, undesirable_weight=0.75)


MISMATCHED = {"above": (0.5, -0.25, 1.0, 2.0, -1.0, 0.75), "below": (-2.0, 1.0, -1.5, 0.25, -0.75, 0.0)}
"""Log-ratios with a mean of 0.5, and of -0.5, where both take 0."""


@pytest.mark.parametrize("mismatched", MISMATCHED.values(), ids=MISMATCHED)
def test_kto_is_that_of_trl(mismatched: tuple[float, ...], policy: PairLogps, reference: PairLogps, float64: Callable[..., Tensor]) -> None:
    ours, theirs = completions(policy), completions(reference)
    others = float64(*mismatched)
    assert_same(
        lambda logps: kto_mean(dataclasses.replace(ours, logps=logps), theirs, DESIRABLE, others),
        lambda logps: kto_of_trl(dataclasses.replace(ours, logps=logps), theirs, DESIRABLE, others),
        ours.logps,
    )


def test_trl_estimates_the_level_of_kto_in_each_micro_batch(
    policy: PairLogps, reference: PairLogps, float64: Callable[..., Tensor]
) -> None:
    """alignkit has one level for the whole step: 0.5 here, where halves have means of -2, which counts as 0, and of 3."""
    others = float64(-3, -1, -2, 2, 4, 3)
    whole = (completions(policy), completions(reference), DESIRABLE, others)

    def part(which: slice) -> tuple[Any, ...]:
        halves = (CompletionLogps(logps=side.logps[which], tokens=side.tokens[which]) for side in whole[:2])
        return *halves, DESIRABLE[which], others[which]

    parts = [part(slice(3)), part(slice(3, None))]
    cut = torch.stack([kto_of_trl(*arguments) for arguments in parts]).mean()
    torch.testing.assert_close(cut, torch.stack([kto_mean(*arguments) for arguments in parts]).mean(), rtol=EXACT, atol=0)
    assert abs(cut - kto_mean(*whole)) > DISTINCT


def test_unpaired_apo_zero_is_half_of_apo_zero(policy: PairLogps, reference: PairLogps) -> None:
    """Half, as the mean is over completions: it is what alignkit has on pairs."""
    desirable = torch.arange(6) < 3
    nothing = torch.zeros(6, dtype=torch.float64)

    def theirs(pairs: PairLogps) -> Tensor:
        return 2 * trl.kto(completions(pairs), completions(reference), desirable, nothing, loss_type="apo_zero_unpaired", beta=BETA)

    assert_same_on_pairs(lambda pairs: APOZero(beta=BETA)(pairs, reference).losses.mean(), theirs, policy)


@pytest.mark.parametrize("margins", [None, (0.5, 0.25, 2.0)], ids=["no margins", "margins"])
@pytest.mark.parametrize("centering", [None, 0.01], ids=["no centring", "centring"])
def test_reward_models_are_those_of_trl(
    margins: tuple[float, ...] | None, centering: float | None, scores: PairRewards, float64: Callable[..., Tensor]
) -> None:
    loss = BradleyTerry(use_margin=margins is not None, centering=centering or 0.0)
    gaps = None if margins is None else float64(*margins)

    def pairs(chosen: Tensor, rejected: Tensor) -> PairRewards:
        return PairRewards(chosen=chosen, rejected=rejected, margins=gaps)

    assert_same(
        lambda *sides: loss(pairs(*sides)).losses.mean(),
        lambda *sides: trl.reward(pairs(*sides), center_rewards_coefficient=centering),
        scores.chosen,
        scores.rejected,
    )


def token_logps(side: CompletionLogps) -> Tensor:
    rows = trl.spread(side.logps, side.tokens)
    return rows.token_logps[rows.completion[:, trl.PROMPT :] == 1]


def test_sft_divides_by_the_tokens_of_the_step_like_trl(policy: PairLogps) -> None:
    whole = completions(policy)
    parts = [CompletionLogps(logps=whole.logps[part], tokens=whole.tokens[part]) for part in (slice(2), slice(2, None))]
    theirs = sum(trl.sft(part, step_tokens=whole.tokens.sum()) for part in parts)
    ours = SFT()(TokenLogps(token_logps=token_logps(whole))).losses.mean()
    torch.testing.assert_close(theirs, ours, rtol=EXACT, atol=0)


def test_dft_weighs_tokens_by_their_likelihood(policy: PairLogps) -> None:
    side = completions(policy)
    tokens = token_logps(side)
    losses = SFT()(TokenLogps(token_logps=tokens)).losses
    torch.testing.assert_close(trl.sft(side, loss_type="dft"), (tokens.exp() * losses).mean(), rtol=EXACT, atol=0)
    assert abs((tokens.exp() * losses).mean() - losses.mean()) > DISTINCT


@pytest.mark.parametrize(("beta", "loss"), [(0.0, ForwardKL()), (1.0, ReverseKL())], ids=["forward", "reverse"])
def test_divergences_per_token_are_those_of_distillation(beta: float, loss: DivergenceLoss) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 11, generator=generator, dtype=torch.float64)
    ours = loss(student.log_softmax(-1), teacher.log_softmax(-1))
    torch.testing.assert_close(trl.generalized_jsd(student, teacher, beta), ours, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(trl.distillation(student, teacher, beta), ours.mean().float(), rtol=ROUNDED, atol=ROUNDED, check_dtype=False)


def test_the_jensen_shannon_divergence_lies_between_the_two() -> None:
    """alignkit has none; TRL's is this at beta = 1/2."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 11, generator=generator, dtype=torch.float64).log_softmax(-1)
    mixture = torch.logaddexp(student, teacher) - math.log(2)
    expected = (ForwardKL()(mixture, student) + ForwardKL()(mixture, teacher)) / 2
    torch.testing.assert_close(trl.generalized_jsd(student, teacher, 0.5), expected, rtol=EXACT, atol=EXACT)


CHOICES = {
    "trl.trainer.kto_config.KTOConfig": {"kto", "apo_zero_unpaired"},
    "trl.trainer.sft_config.SFTConfig": {"nll", "dft", "chunked_nll"},  # the last one is an old name of nll
    "trl.experimental.cpo.cpo_config.CPOConfig": {"sigmoid", "hinge", "ipo", "simpo", "alphapo"},
    "trl.experimental.tpo.tpo_config.TPOConfig": {"sigmoid", "hinge", "ipo", "tpo-l"},
    "trl.experimental.online_dpo.online_dpo_config.OnlineDPOConfig": {"sigmoid", "ipo"},
}


@pytest.mark.parametrize("config", CHOICES)
def test_every_loss_type_of_a_trainer_is_compared(config: str) -> None:
    module, name = config.rsplit(".", 1)
    (field,) = [field for field in dataclasses.fields(getattr(importlib.import_module(module), name)) if field.name == "loss_type"]
    assert set(field.metadata["choices"]) == CHOICES[config]


def test_trl_has_no_other_trainer_on_pairs() -> None:
    compared = {"DPOTrainer", "KTOTrainer", "RewardTrainer", "SFTTrainer", "DistillationTrainer"}
    reinforcement = {"GRPOTrainer", "RLOOTrainer"}
    assert {name for name in dir(importlib.import_module("trl")) if name.endswith("Trainer")} == compared | reinforcement
    for removed in ("bco", "ppo", "prm", "xpo", "nash_md"):
        assert importlib.util.find_spec(f"trl.experimental.{removed}") is None
