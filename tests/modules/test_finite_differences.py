"""Gradients are those of finite differences, through the whole path: tokens, packed batch, trunk, vocabulary in chunks, head, loss, mean.

In float64, where central differences agree to seven digits or more: each weight tensor moves a little way along a random direction, and the
change of the loss is compared with the gradient along it. What a loss holds fixed by definition (the levels of KTO and BCO, the stored side
of PPO) is held fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from alignkit import vocabulary
from alignkit.batches import Layout, StepBatch
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.data.steps import Steps
from alignkit.losses.aot import AOT
from alignkit.losses.bco import BCO
from alignkit.losses.bradley_terry import BradleyTerry
from alignkit.losses.cdpo import CDPO
from alignkit.losses.con_dph import ConDPH
from alignkit.losses.contrastive import Contrastive
from alignkit.losses.dpo import DPO
from alignkit.losses.families import Loss
from alignkit.losses.forward_kl import ForwardKL
from alignkit.losses.kto import KTO
from alignkit.losses.orpo import ORPO
from alignkit.losses.plackett_luce import PlackettLuce
from alignkit.losses.plackett_luce_dpo import PlackettLuceDPO
from alignkit.losses.re_po import RePO
from alignkit.losses.regression import Regression
from alignkit.losses.rollout_outputs import RolloutTokens
from alignkit.losses.sft import SFT
from alignkit.modules.term import Place, Term
from alignkit.modules.term_kinds import build_term, reads_head

AWAY = 1e-5
"""How far a tensor moves. The next order of the expansion is 1e-10 of it, rounding of a loss about 1 is 1e-11."""
TOLERANCE = 2e-7
"""Relative to a derivative; to a thousandth of the gradient's norm where it is small by chance. The largest that was seen is 4.4e-8."""
FAMILIES: Mapping[str, tuple[Loss, ...]] = {
    "tokens": (SFT(),),
    "pairs": (DPO(beta=0.1),),
    "pairs without a reference": (ORPO(odds_weight=0.5),),
    "pairs with a level": (RePO(beta=0.1, start=1.0, decay=0.9),),  # below 1 a step of expectation-maximisation holds its weights
    "pairs sorted": (AOT(beta=0.1, epsilon=0.1),),
    "labels": (KTO(beta=0.1, desirable_weight=1.0, undesirable_weight=1.3),),
    "labels with a running level": (BCO(beta=0.1, decay=0.9),),
    "rankings": (PlackettLuceDPO(beta=0.1),),
    "divergence": (ForwardKL(),),
    "head": (BradleyTerry(use_margin=True, centering=0.1),),
    "head on rankings": (PlackettLuce(),),
    "head on ratings": (Regression(),),
    "states": (Contrastive(temperature=0.5),),
    "head beside pairs": (ConDPH(epsilon=0.1), CDPO(beta=0.1, epsilon=0.2)),
}
PATHS: Mapping[str, tuple[str, Layout]] = {"llama packed": ("llama", "packed"), "gpt2 in rows": ("gpt2", "rows")}


def double(name: str, lm_factory: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    """A model that computes in float64 throughout: transformers' RMSNorm goes through float32."""
    lm = lm_factory(name, dtype=torch.float64)
    for module in lm.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = partial(_rms_norm, module)
    return lm


def _rms_norm(module: nn.Module, hidden: Tensor) -> Tensor:
    return F.rms_norm(hidden, hidden.shape[-1:], module.weight, module.variance_epsilon)


def feedback(examples: list[EncodedExample]) -> list[EncodedExample]:
    """Three completions each, with ratings, ranks that follow them, a tie among them, labels and margins."""
    ratings = [(3.0, 1.0, 1.0), (2.5, 2.0, 0.5), (1.0, 0.5, 0.0), (4.0, 1.5, 1.0), (2.0, 1.0, 0.5)]
    return [
        replace(
            example,
            ratings={"overall": own},
            ranks=(0, 1, 1) if own[1] == own[2] else (0, 1, 2),
            desirable=(True, False, example.key % 2 == 0),
            margin=own[0] - own[-1],
        )
        for example, own in zip(examples, ratings, strict=True)
    ]


def one_step(examples: list[EncodedExample], layout: Layout) -> StepBatch:
    """All examples as one optimiser step of several micro-batches, with their mismatched ones."""
    packing = Packing(layout=layout, tokens=70, row_tokens=70)
    step = Steps(examples, pairs=len(examples), steps=1, seed=0, packing=packing, mismatched=True)[0]
    assert len(step.micro_batches) >= 2
    return step


def worst_error(value: Callable[[], Tensor], parameters: Mapping[str, nn.Parameter]) -> dict[str, float]:
    """For each tensor, how far its gradient along a random direction is from a central difference; where it has no gradient, whether the
    loss moves. Raises AssertionError for a loss that is not float64."""
    generator = torch.Generator().manual_seed(0)
    loss = value()
    assert loss.dtype is torch.float64
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    errors = {}
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        said = 0.0 if gradient is None else float((gradient * direction).sum())
        size = 0.0 if gradient is None else float(gradient.norm())
        with torch.no_grad():
            parameter.add_(direction, alpha=AWAY)
            above = float(value())
            parameter.add_(direction, alpha=-2 * AWAY)
            below = float(value())
            parameter.add_(direction, alpha=AWAY)
        seen = (above - below) / (2 * AWAY)
        errors[name] = abs(seen - said) / max(abs(said), abs(seen), 1e-3 * size, 1e-6)
    return errors


def of_each_kind(parameters: Iterator[tuple[str, nn.Parameter]]) -> dict[str, nn.Parameter]:
    """Input and output embeddings, norms, attention and feed-forward of the first layer, the last norm, and everything of heads."""
    kinds = ("wte", "wpe", "embed_tokens", "lm_head", "h.0.", "layers.0.", "ln_f", ".norm.")
    return {
        name: parameter
        for name, parameter in parameters
        if parameter.requires_grad and ("heads." in name or any(kind in name for kind in kinds)) and not name.endswith(".bias")
    }


def disturb(module: nn.Module) -> None:
    """Move the policy away from its reference."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=0.05)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the vocabulary: seven tokens at a time, so that gradients are summed over chunks."""
    monkeypatch.setattr(vocabulary, "CHUNK_ELEMENTS", 7 * 97)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_a_family_is_that_of_finite_differences(family, path, lm_factory, examples_factory, module_factory):
    name, layout = PATHS[path]
    terms: list[Term[Any]] = []
    for loss in FAMILIES[family]:
        head = "dph" if reads_head(type(loss)) else None
        attribute = "overall" if family == "head on ratings" else ""
        terms.append(build_term(loss, Place(name=type(loss).__name__, weight=1.0 + len(terms), head=head, attribute=attribute)))
    module = module_factory(terms, double(name, lm_factory))
    if layout == "packed":
        module.backbone.use_attention("tiles", "cpu")
    disturb(module.backbone)
    step = one_step(feedback(examples_factory(5, completions=3, longest=6)), layout)
    module.objective.before_step(step, module.forward_of)

    def value() -> Tensor:
        if family == "pairs sorted":
            module.objective.before_step(step, module.forward_of)  # partners are constants of which the gradient knows
        return sum(module.objective.loss(module.evaluate(batch), step) for batch in step.micro_batches)

    parameters = of_each_kind(module.backbone.named_parameters(prefix="trunk"))
    parameters |= of_each_kind(module.heads.named_parameters(prefix="heads"))
    assert len(parameters) > 8
    errors = worst_error(value, parameters)
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("layout", ["packed", "rows"])
@pytest.mark.parametrize("name", ["ppo", "rloo", "grpo"])
def test_the_gradient_of_a_loss_on_samples_is_that_of_finite_differences(
    name, layout, lm_factory, examples_factory, rollout_module, sampled_loss
):
    entropies = {"entropy_coefficient": 0.05}
    loss = sampled_loss(name, **entropies, **({"value_coefficient": 0.7} if name == "ppo" else {}))
    module = rollout_module(loss, double("llama" if layout == "packed" else "gpt2", lm_factory))
    step = one_step(examples_factory(5, completions=3, longest=6), layout)
    generator = torch.Generator().manual_seed(2)

    def noise(size: int, scale: float) -> Tensor:
        return scale * torch.randn(size, generator=generator, dtype=torch.float64)

    stored = []
    for batch in step.micro_batches:
        with torch.no_grad():
            said = module.policy_tokens(batch)
        count = batch.completion_tokens
        advantages = noise(batch.completions, 1.0)[batch.completion_index]
        stored.append(
            RolloutTokens(
                logps=said.logps + noise(count, 0.2),  # so that some ratios are clipped and some are not
                reference_logps=said.logps + noise(count, 0.3),
                advantages=advantages,
                returns=None if said.values is None else said.values + noise(count, 1.0),
                values=None if said.values is None else said.values + noise(count, 0.3),
                weights=torch.rand(count, generator=generator, dtype=torch.float64) + 0.5,
                completion_index=batch.completion_index,
                completions=batch.completions,
            )
        )
    outputs = [loss(module.policy_tokens(batch, entropies=True), own) for batch, own in zip(step.micro_batches, stored, strict=True)]
    clipped = torch.cat([output.clipped for output in outputs])
    assert 0 < float(clipped.mean()) < 1

    def value() -> Tensor:
        parts = zip(step.micro_batches, stored, strict=True)
        return sum(loss(module.policy_tokens(batch, entropies=True), own).losses.sum() for batch, own in parts) / 15

    parameters = of_each_kind(module.backbone.named_parameters(prefix="trunk"))
    parameters |= of_each_kind(module.heads.named_parameters(prefix="heads"))
    assert any("heads." in own for own in parameters) == (name == "ppo")
    errors = worst_error(value, parameters)
    assert max(errors.values()) < TOLERANCE, errors
