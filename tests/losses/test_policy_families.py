"""What holds for every loss on the log-probs of the policy, whatever else its family reads, with the values of its YAML."""

from __future__ import annotations

import importlib
import math
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from alignkit.errors import UserError
from alignkit.losses.aot import AOT, rank_partners
from alignkit.losses.bco import BCO
from alignkit.losses.dpo_nll import DPONLL
from alignkit.losses.dpo_nll_mean import DPONLLMean
from alignkit.losses.dpo_reference_free import DPOReferenceFree
from alignkit.losses.families import AdaptivePairLoss, LabelledLoss, Loss, PairLogpsLoss, ReferenceFreeLoss, SortedPairLoss
from alignkit.losses.kto import KTO
from alignkit.losses.orpo import ORPO
from alignkit.losses.outputs import CompletionLogps, PairLogps, PairwiseOutput
from alignkit.losses.re_po import RePO
from alignkit.losses.reward_aware_dpo import RewardAwareDPO
from alignkit.losses.reward_aware_dpo_kl import RewardAwareDPOKL
from alignkit.losses.simpo import SimPO
from alignkit.losses.slic import SLiC

CONF = Path(__file__).parents[2] / "conf" / "loss"
CLASSES: dict[str, type[Loss]] = {
    "dpo_reference_free": DPOReferenceFree,
    "simpo": SimPO,
    "orpo": ORPO,
    "slic": SLiC,
    "dpo_nll": DPONLL,
    "dpo_nll_mean": DPONLLMean,
    "reward_aware_dpo": RewardAwareDPO,
    "reward_aware_dpo_kl": RewardAwareDPOKL,
    "kto": KTO,
    "bco": BCO,
    "re_po": RePO,
    "aot": AOT,
}
YAMLS = {name: yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8")) for name in CLASSES}
FIELDS = {name: [field.name for field in fields(loss_class)] for name, loss_class in CLASSES.items()}  # type: ignore[arg-type]
BUILT = {name: loss_class(**{field: YAMLS[name][field] for field in FIELDS[name]}) for name, loss_class in CLASSES.items()}

each_name = pytest.mark.parametrize("name", CLASSES)
each_loss = pytest.mark.parametrize("loss", [pytest.param(loss, id=name) for name, loss in BUILT.items()])


def evaluate(loss: Loss, chosen: Tensor, rejected: Tensor, reference: float = -6.0) -> PairwiseOutput:
    """The loss of pairs of three-token completions with these log-probs, all of which the reference gives the same one. The losses of
    unpaired completions are added up per pair; ratings differ by one, and levels are those of a first step."""
    tokens = torch.full(chosen.shape, 3)
    policy = PairLogps(chosen=chosen, rejected=rejected, chosen_tokens=tokens, rejected_tokens=tokens, margins=torch.ones(len(chosen)))
    same = torch.full_like(chosen, reference, requires_grad=False)
    before = PairLogps(chosen=same, rejected=same, chosen_tokens=tokens, rejected_tokens=tokens)
    match loss:
        case ReferenceFreeLoss():
            return loss(policy)
        case PairLogpsLoss():
            return loss(policy, before)
        case AdaptivePairLoss():
            return loss(policy, before, torch.tensor(loss.start))
        case SortedPairLoss():
            return loss(policy, before, rank_partners(policy.chosen - before.chosen, policy.rejected - before.rejected))
        case LabelledLoss():
            desirable = torch.arange(2 * len(chosen)) < len(chosen)
            output = loss(
                CompletionLogps(logps=torch.cat([policy.chosen, policy.rejected]), tokens=tokens.repeat(2)),
                CompletionLogps(logps=before.chosen.repeat(2), tokens=tokens.repeat(2)),
                desirable,
                torch.tensor(0.0),
            )
            return PairwiseOutput(
                losses=output.losses.view(2, -1).sum(0),
                chosen_rewards=output.rewards[desirable],
                rejected_rewards=output.rewards[~desirable],
            )
    raise AssertionError(f"{type(loss).__name__} is of no family here")


def random_pairs(dtype: torch.dtype = torch.float64, requires_grad: bool = False) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(0)
    chosen, rejected = (torch.randn(2, 5, generator=numbers, dtype=torch.float64) - 6).to(dtype)
    return chosen.requires_grad_(requires_grad), rejected.requires_grad_(requires_grad)


@each_name
def test_a_file_gives_the_fields_of_the_class_in_order_and_says_what_they_are(name: str) -> None:
    module = importlib.import_module(f"alignkit.losses.{name}")
    assert CLASSES[name].__module__ == module.__name__
    assert list(YAMLS[name]) == ["name", "module", "monitor", *FIELDS[name]]
    assert (YAMLS[name]["name"], YAMLS[name]["module"]) == (name, "alignment")
    title, *keys = (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert title.startswith("# ")
    assert "arXiv:" in title
    assert all("  # " in line for line in keys[3:])


@each_loss
def test_gradients_are_the_derivatives_of_the_losses(loss: Loss) -> None:
    if isinstance(loss, RePO):  # its weights follow the margins without gradient: a loss of its own test
        loss = RePO(beta=0.1, start=1.0, decay=0.0)

    def total(chosen: Tensor, rejected: Tensor) -> Tensor:
        return evaluate(loss, chosen, rejected).losses.sum()

    assert torch.autograd.gradcheck(total, random_pairs(requires_grad=True))


@each_loss
def test_an_untrained_pair_is_pulled_apart_in_the_right_direction(loss: Loss) -> None:
    chosen, rejected = (torch.full((3,), -6.0, dtype=torch.float64, requires_grad=True) for _ in range(2))
    evaluate(loss, chosen, rejected).losses.sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert (chosen.grad < -1e-4).all()
    assert (rejected.grad > 1e-4).all()


@each_loss
@pytest.mark.parametrize("reference", [0.0, -1e4])
def test_losses_and_gradients_are_finite_far_out(loss: Loss, reference: float) -> None:
    chosen = torch.tensor([0.0, -1e4, -1e-9, -1e4, -1e4, 0.0], requires_grad=True)
    rejected = torch.tensor([-1e4, 0.0, -1e4, -1e-9, -1e4, 0.0], requires_grad=True)
    losses = evaluate(loss, chosen, rejected, reference).losses
    losses.sum().backward()
    assert losses.isfinite().all()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.isfinite().all()
    assert rejected.grad.isfinite().all()


@each_loss
def test_swapping_chosen_and_rejected_negates_the_margin(loss: Loss) -> None:
    chosen, rejected = random_pairs()
    one_way, other_way = evaluate(loss, chosen, rejected), evaluate(loss, rejected, chosen)
    torch.testing.assert_close(other_way.margins, -one_way.margins, rtol=0, atol=0)
    torch.testing.assert_close(one_way.accuracies, (chosen > rejected).double(), rtol=0, atol=0)


@each_loss
def test_each_pair_has_its_own_loss_whatever_else_is_in_the_batch(loss: Loss) -> None:
    if isinstance(loss, SortedPairLoss):
        pytest.skip("pairs meet by their rank in the batch")
    chosen, rejected = random_pairs()
    whole = evaluate(loss, chosen, rejected).losses
    for pair in range(5):
        torch.testing.assert_close(evaluate(loss, chosen[pair : pair + 1], rejected[pair : pair + 1]).losses, whole[pair : pair + 1])


@each_loss
def test_a_batch_without_pairs_has_no_losses(loss: Loss) -> None:
    output = evaluate(loss, torch.zeros(0), torch.zeros(0))
    assert output.losses.shape == output.accuracies.shape == (0,)


@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_losses_are_float32_at_least(loss: Loss, dtype: torch.dtype) -> None:
    chosen, rejected = random_pairs(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = evaluate(loss, chosen, rejected)
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    assert output.losses.dtype == output.chosen_rewards.dtype == output.rejected_rewards.dtype == precise
    torch.testing.assert_close(output.losses.double(), evaluate(loss, chosen.double(), rejected.double()).losses, rtol=1e-5, atol=1e-5)


@each_loss
def test_rewards_are_detached_and_losses_are_not(loss: Loss) -> None:
    output = evaluate(loss, *random_pairs(requires_grad=True))
    assert output.losses.requires_grad
    assert not output.chosen_rewards.requires_grad
    assert not output.rejected_rewards.requires_grad


NEVER = (math.inf, math.nan, "0.1", None, True)
POSITIVE = (r"\(0, inf\)", (0, -0.1))
NOT_NEGATIVE = (r"\[0, inf\)", (-0.1,))
FRACTION = (r"\[0, 1\)", (-0.1, 1))
RANGES = {
    "beta": POSITIVE,
    "gamma_beta_ratio": NOT_NEGATIVE,
    "odds_weight": NOT_NEGATIVE,
    "delta": POSITIVE,
    "nll_weight": NOT_NEGATIVE,
    "eta": POSITIVE,
    "desirable_weight": POSITIVE,
    "undesirable_weight": POSITIVE,
    "decay": FRACTION,
    "start": (r"\(0\.5, 1\]", (0.5, 1.01)),
    "epsilon": (r"\[0, 0\.5\)", (-0.01, 0.5)),
}


@pytest.mark.parametrize(("name", "field"), [(name, field) for name in CLASSES for field in FIELDS[name]])
def test_a_value_out_of_range_is_named(name: str, field: str) -> None:
    allowed, outside = RANGES[field]
    for value in (*outside, *NEVER):
        with pytest.raises(UserError, match=rf"^loss\.{field} = .*{allowed}.*Try \d"):
            CLASSES[name](**{**{other: YAMLS[name][other] for other in FIELDS[name]}, field: value})
