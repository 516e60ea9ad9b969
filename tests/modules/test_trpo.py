"""TRPO's step on toy language models, against the same mathematics on padded logits with double backward."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from alignkit.command_line import precheck
from alignkit.data.collate import micro_batches
from alignkit.data.packing import Packing
from alignkit.data.prompts import PromptBatch
from alignkit.errors import UserError
from alignkit.job import carry_out
from alignkit.losses.trpo import TRPO
from alignkit.metrics import KL_COEFFICIENT, STEP_FRACTION, SURROGATE_GAIN, TRUST_KL, VALUE_LOSS
from alignkit.models.backbone import Backbone
from alignkit.modules import trpo
from alignkit.modules.ppo import PPOModule
from alignkit.modules.stored import Stored, store
from alignkit.modules.tally import Tally
from alignkit.modules.trpo import TRPOModule
from alignkit.run_dir import RunDir, read_jsonl
from alignkit.trust_region import trust_region_step

Step = Callable[..., Tensor]
WIDE = Packing(layout="packed", tokens=1000, row_tokens=1000)
"""One micro-batch."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """A module that has drawn its samples and not yet moved."""

    module: Any
    stored: Stored
    batches: list[Any]
    old: PreTrainedModel

    @property
    def count(self) -> int:
        return len(self.stored.weights)

    def move(self) -> float:
        fraction: float = self.module.move_policy(self.stored, self.batches)
        return fraction

    def weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.module.backbone.parameters()]

    def log_probs(self, lm: PreTrainedModel) -> tuple[Tensor, Tensor]:
        """[N, V] at the sampled tokens of all completions, one after the other, and the tokens [N]; each alone in a forward pass."""
        parts, tokens = [], []
        for example in self.stored.rollout.examples:
            for ids in example.completion_ids:
                with sdpa_kernel(SDPBackend.MATH):  # the others have no double backward
                    logits = lm(torch.tensor([[*example.prompt_ids, *ids]])).logits[0] / self.module.temperature
                parts.append(logits[len(example.prompt_ids) - 1 : -1].log_softmax(-1))
                tokens += ids
        return torch.cat(parts), torch.tensor(tokens)

    def surrogate(self, lm: PreTrainedModel) -> Tensor:
        log_probs, tokens = self.log_probs(lm)
        log_ratios = log_probs.gather(1, tokens[:, None])[:, 0] - self.stored.rollout.logps
        return (self.stored.weights * self.stored.advantages.advantages * log_ratios.exp()).mean()

    def kl(self, lm: PreTrainedModel) -> Tensor:
        old, new = self.log_probs(self.old)[0].detach(), self.log_probs(lm)[0]
        return (old.exp() * (old - new)).sum(-1).mean()


@pytest.fixture
def update(lm_factory, examples_factory, rollout_module, sampled_loss) -> Callable[..., Update]:
    def build(
        architecture: str = "llama",
        *,
        prompts: int = 3,
        dtype: torch.dtype = torch.float64,
        packing: Packing = WIDE,
        changes: Any = None,
        **options: Any,
    ) -> Update:
        loss = sampled_loss("trpo", **(changes or {}))
        lm = lm_factory(architecture, dtype=dtype)
        module = rollout_module(loss, lm, kind=TRPOModule, packing=packing, **options)
        collected = module.collect(PromptBatch(0, examples_factory(prompts, completions=1)))
        stored = store(collected.rollout, loss, module.rollouts.settings, kl_coefficient=module.kl_coefficient, tally=module.tally)
        batches = micro_batches(collected.rollout.examples, module.rollouts.packing)
        return Update(module=module, stored=stored, batches=batches, old=copy.deepcopy(module.backbone.lm))

    return build


def instead(monkeypatch: pytest.MonkeyPatch, step: Step) -> None:
    monkeypatch.setattr(trpo, "trust_region_step", step)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("architecture", "dtype", "error"), [("gpt2", torch.float64, 1e-7), ("llama", torch.float32, 1e-2)])
def test_gradient_and_fisher_products_are_those_of_double_backward(update, monkeypatch, architecture, dtype, error, temperature) -> None:
    begun = update(architecture, dtype=dtype, temperature=temperature)
    lm = copy.deepcopy(begun.old)
    parameters = list(lm.parameters())
    seen: dict[str, Tensor] = {}

    def observe(gradient: Tensor, products: Callable[[Tensor], Tensor], **_: float) -> Tensor:
        seen["gradient"] = gradient
        seen["vector"] = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(gradient)
        seen["product"], seen["of gradient"] = products(seen["vector"]), products(gradient)
        return torch.zeros_like(gradient)

    instead(monkeypatch, observe)
    begun.move()
    first = torch.autograd.grad(begun.kl(lm), parameters, create_graph=True)

    def exact(vector: Tensor) -> Tensor:
        directions = vector.split([parameter.numel() for parameter in parameters])
        slope = sum((slope.flatten() @ direction for slope, direction in zip(first, directions, strict=True)), torch.zeros(()))
        return torch.cat([part.flatten() for part in torch.autograd.grad(slope, parameters, retain_graph=True)])

    expected = {
        "gradient": torch.cat([part.flatten() for part in torch.autograd.grad(begun.surrogate(lm), parameters)]),
        "product": exact(seen["vector"]),
        "of gradient": exact(seen["gradient"]),
    }
    for name, found in expected.items():
        assert (seen[name] - found).norm() <= error * found.norm(), name


@pytest.mark.parametrize("max_kl", [1e-3, 0.01, 0.3])
def test_a_step_gains_within_its_kl(update, max_kl) -> None:
    begun = update(changes={"max_kl": max_kl})
    fraction = begun.move()
    lm = begun.module.backbone.lm
    with torch.no_grad():
        gain, kl = float(begun.surrogate(lm) - begun.surrogate(begun.old)), float(begun.kl(lm))
    assert fraction in [0.8**trial for trial in range(10)]
    assert gain > 0
    assert max_kl / 100 < kl <= max_kl
    said = begun.module.tally.take()
    assert said[SURROGATE_GAIN] == pytest.approx(gain, rel=1e-4)
    assert said[TRUST_KL] == pytest.approx(kl, rel=1e-4)
    assert said[STEP_FRACTION] == fraction


def test_the_full_step_has_the_wanted_kl_to_second_order(update, monkeypatch) -> None:
    begun = update(changes={"max_kl": 1e-6, "damping": 0.01})
    monkeypatch.setattr(trpo, "backtrack", lambda evaluate, **_: evaluate(1.0) and 1.0)
    begun.move()
    assert float(begun.kl(begun.module.backbone.lm).detach()) == pytest.approx(1e-6, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_refused_step_leaves_the_weights_to_the_bit(update, monkeypatch, dtype) -> None:
    begun = update(dtype=dtype)
    before = begun.weights()
    instead(monkeypatch, lambda *arguments, **settings: -trust_region_step(*arguments, **settings))
    assert begun.move() == 0
    assert all(map(torch.equal, begun.weights(), before))
    said = begun.module.tally.take()
    assert (said[SURROGATE_GAIN], said[TRUST_KL], said[STEP_FRACTION]) == (0, 0, 0)


def test_the_cut_into_micro_batches_changes_nothing(update) -> None:
    cuts = [Packing(layout="packed", tokens=20, row_tokens=20), WIDE]
    cuts.append(Packing(layout="rows", tokens=60, row_tokens=30))
    moved = []
    for packing in cuts:
        begun = update(packing=packing)
        begun.move()
        moved.append(torch.cat([weight.flatten() for weight in begun.weights()]))
    change = (moved[1] - torch.cat([parameter.detach().flatten() for parameter in begun.old.parameters()])).norm()
    assert all((other - moved[1]).norm() < 1e-5 * change for other in moved)


def test_only_what_is_trained_moves(update) -> None:
    def freeze_embeddings(backbone: Backbone) -> None:
        backbone.lm.get_input_embeddings().requires_grad_(False)
        backbone.lm.get_output_embeddings().requires_grad_(False)

    begun = update(prepare=freeze_embeddings)
    before = begun.weights()
    assert begun.move() > 0
    for parameter, old in zip(begun.module.backbone.parameters(), before, strict=True):
        assert torch.equal(parameter, old) != parameter.requires_grad


def test_the_value_head_learns_its_returns_and_leaves_the_trunk(
    rollout_module, sampled_loss, lm_factory, examples_factory, fit_samples, monkeypatch
) -> None:
    module = rollout_module(sampled_loss("trpo", value_epochs=20), lm_factory("llama"), kind=TRPOModule)
    before = [parameter.clone() for parameter in module.backbone.parameters()]
    losses: list[float] = []
    add = Tally.add

    def seen(tally: Tally, name: str, value: Tensor | float) -> None:
        if name == VALUE_LOSS:
            losses.append(float(torch.as_tensor(value).mean()))
        add(tally, name, value)

    monkeypatch.setattr(Tally, "add", seen)
    monkeypatch.setattr(module, "move_policy", lambda stored, batches: 0.0)
    fit_samples(module, examples_factory(4, completions=1))
    assert all(map(torch.equal, module.backbone.parameters(), before))
    batches = len(losses) // 20
    assert sum(losses[-batches:]) < 0.8 * sum(losses[:batches])


def test_one_token_answers_gain_what_the_geometry_says(update) -> None:
    # One prompt, one token: the policy is a table, and E r grows by sqrt(2 KL) std(r), all of it along A, by facts 3.7.
    begun = update(prompts=1, samples=256, max_tokens=1, changes={"damping": 1e-3, "max_kl": 1e-3, "kl_coefficient": 0.0})
    rollout = begun.stored.rollout
    begun.move()
    (example,) = rollout.examples
    prompt = torch.tensor([example.prompt_ids])
    with torch.no_grad():
        old, new = (lm(prompt).logits[0, -1].softmax(-1) for lm in (begun.old, begun.module.backbone.lm))
    worth = torch.zeros(len(old), dtype=old.dtype)
    worth[[ids[0] for ids in example.completion_ids]] = rollout.scores.to(old.dtype)
    deviation = (old @ (worth - old @ worth).square()).sqrt()
    kl = begun.module.tally.take()[TRUST_KL]
    # No direction gains more; what is missing to it are the samples, which are not all tokens.
    assert 0.85 < float((new - old) @ worth / (deviation * (2 * kl) ** 0.5)) < 1.02


def test_a_loss_of_another_module_is_refused(rollout_module, sampled_loss, lm_factory) -> None:
    with pytest.raises(UserError, match=r"loss\.module: PPOModule does not learn from TRPO\. Leave loss\.module out\."):
        rollout_module(sampled_loss("trpo"), lm_factory("llama"), kind=PPOModule)
    with pytest.raises(UserError, match=r"loss\.module: TRPOModule does not learn from RLOO"):
        rollout_module(sampled_loss("rloo"), lm_factory("llama"), kind=TRPOModule)


SHORT = ["loss=trpo", "scorer=vader", "steps=3", "batch.pairs=2", "rollout.samples=2", "rollout.max_tokens=6", "loss.cg_iterations=2"]
QUIET = ["logger=jsonl", "logger.every=1", "callbacks.checkpoints=false", "callbacks.progress_bar=false", "schedule.warmup_steps=0"]
FEW = ["dataset.pairs=12", "dataset.validation_examples=4", "validation.samples=1", "validation.sample_tokens=2", "validation.every=3"]


def run_briefly(tmp_path: Path, *overrides: str) -> tuple[RunDir, dict[str, Any]]:
    (settings,) = precheck([*SHORT, *QUIET, *FEW, *overrides])
    run = RunDir.create(tmp_path / "run")
    return run, carry_out(settings, run)


def test_a_run_moves_within_its_bound(tmp_path: Path) -> None:
    run, results = run_briefly(tmp_path)
    rows = [row for row in read_jsonl(run.metrics) if f"train/{TRUST_KL}" in row]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(0 <= row[f"train/{TRUST_KL}"] <= 0.01 and row[f"train/{SURROGATE_GAIN}"] >= 0 for row in rows)
    assert any(row[f"train/{STEP_FRACTION}"] > 0 for row in rows)
    assert {f"train/{name}" for name in (VALUE_LOSS, KL_COEFFICIENT)} <= rows[0].keys()
    assert results["certificate/first_ratio_error"] < 1e-4
    assert run.heads.exists()


@pytest.mark.parametrize("precision", ["bf16", "bf16_true"])
def test_bf16_is_refused_by_name_before_weights_are_loaded(tmp_path: Path, precision: str) -> None:
    with pytest.raises(UserError, match=rf"precision = '{precision}' with loss=trpo: .* Type precision=fp32\."):
        run_briefly(tmp_path, f"precision={precision}")


def test_the_loss_of_the_file_is_trpo(sampled_loss) -> None:
    assert isinstance(sampled_loss("trpo"), TRPO)
