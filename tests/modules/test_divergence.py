"""Steps whose numbers are not finite: what is named, what stays as it was, and what a run without the step would be."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from alignkit.batches import PackedBatch
from alignkit.callbacks.metrics_log import MetricsLog
from alignkit.data.collate import collate
from alignkit.data.packing import Packing
from alignkit.divergence_settings import STOP_AT_ONCE
from alignkit.errors import DivergedError, UserError
from alignkit.losses.bco import BCO
from alignkit.metrics import GRADIENT_NORM, LOSS, SKIPPED_STEPS, TRAIN
from alignkit.models.reference import fingerprint
from alignkit.modules.alignment import AlignmentModule
from alignkit.modules.failures import FailureFiles, examples_of, read_failure
from alignkit.modules.guard import Guard
from alignkit.modules.stepping import SteppingModule
from alignkit.modules.term import Place, TermOutput
from alignkit.modules.term_kinds import build_term
from alignkit.optimizer_settings import ScheduleSettings
from alignkit.run_dir import RunDir, read_jsonl

SKIP = dataclasses.replace(STOP_AT_ONCE, action="skip")
SMALL = 24
"""Tokens of a micro-batch: a step of four pairs has several."""


def guarded(module: SteppingModule, settings: Any = SKIP) -> Any:
    module.recipe = dataclasses.replace(module.recipe, divergence=settings)
    module.guard = Guard(settings)
    return module


def poison(module: AlignmentModule, *, step: int, place: int, factor: float = math.nan, gradient: bool = False) -> list[PackedBatch]:
    """Make one micro-batch of one step go wrong, its loss or only its gradient; returns the batches of that step as they come."""
    original, seen = module.evaluate, []

    def evaluate(batch: PackedBatch) -> Any:
        evaluation = original(batch)
        if module.steps_done + 1 != step:
            return evaluation
        seen.append(batch)
        if len(seen) != place:
            return evaluation
        ((name, output),) = evaluation.outputs.items()
        if gradient:
            output.losses.register_hook(lambda values: values * factor)
            return evaluation
        return dataclasses.replace(evaluation, outputs={name: TermOutput(losses=output.losses * factor)})

    module.evaluate = evaluate
    return seen


def keep_in(folder: Path, module: SteppingModule, said: list[str] | None = None) -> FailureFiles:
    module.failures = FailureFiles(
        folder,
        decode=lambda ids: " ".join(map(str, ids)),
        rows=lambda keys: {key: f"pairs.jsonl, line {key + 1}" for key in keys},
        say=[].append if said is None else said.append,
    )
    return module.failures


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_one_micro_batch_whose_loss_is_not_finite_stops_the_run_before_the_update_and_is_named(
    factor, lm_factory, examples_factory, module_factory, fit, tmp_path
):
    module = module_factory("dpo", lm_factory("llama"))
    seen, weights = poison(module, step=3, place=2, factor=factor), []
    clip = module.clip_gradients_by_norm
    module.clip_gradients_by_norm = lambda: weights.append(fingerprint(module.backbone)) or clip()
    keep_in(tmp_path, module)
    with pytest.raises(DivergedError) as caught:
        fit(module, examples_factory(12), tokens=SMALL)
    assert len(seen) > 2
    keys = seen[1].example_keys
    few = f"example{'s' * (len(keys) > 1)} {', '.join(map(str, keys))}"
    lines = ", ".join(["pairs.jsonl", *(f"line {key + 1}" for key in keys)])
    assert str(caught.value) == (
        f"step 3: the loss is {factor} in micro-batch 2 of {len(seen)} ({few}): {lines}. The weights are those of step 2. "
        "Try a smaller learning rate: optimizer.lr=0.001, or leave such steps out: divergence.action=skip. "
        f"The batch is kept: python -m alignkit.audit failure={tmp_path / 'step-000003'}"
    )
    assert fingerprint(module.backbone) == weights[2]
    assert len(set(weights)) == 3
    failure = read_failure(tmp_path / "step-000003")
    assert (failure.step, failure.batch, failure.keys, failure.verdict) == (3, 2, keys, "stopped")
    (share,) = failure.shares
    assert share.bad == [1]
    assert sum(share.losses[:1] + share.losses[2:]) > 0
    for kept, batch in zip(share.batches, seen, strict=True):
        for field in dataclasses.fields(PackedBatch):
            ours, theirs = getattr(kept, field.name), getattr(batch, field.name)
            assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs, field.name
    assert failure.counts[""].examples == 4


def test_a_gradient_that_is_not_finite_under_a_finite_loss_suspects_the_whole_step(lm_factory, examples_factory, module_factory, fit):
    module = module_factory("dpo", lm_factory("llama"))
    seen = poison(module, step=2, place=1, factor=math.inf, gradient=True)
    with pytest.raises(DivergedError, match=r"^step 2: the gradient norm is (nan|inf) \(examples ") as caught:
        fit(module, examples_factory(12), tokens=SMALL)
    named = str(caught.value).partition("examples ")[2].partition(")")[0].split(", ")
    assert [int(key) for key in named] == [key for batch in seen for key in batch.example_keys]


def test_a_run_that_skips_is_one_that_never_saw_the_batch(lm_factory, examples_factory, module_factory, fit, losses_of, tmp_path):
    module, twin = (module_factory("dpo", lm_factory("gpt2", dtype=torch.float64), steps=5) for _ in range(2))
    guarded(module).recipe = dataclasses.replace(module.recipe, schedule=ScheduleSettings(name="linear", warmup_steps=2, final_ratio=0.5))
    poison(module, step=3, place=2)
    run = RunDir.create(tmp_path / "run")
    examples = examples_factory(12)
    fit(module, examples, tokens=SMALL, logger=MetricsLog(run, steps_per_epoch=3))
    # The same by hand, in one micro-batch each: warm-up 1/3, 2/3, 1, then a line to 1/2; no update in the third step.
    parameters = [*twin.backbone.parameters(), *twin.heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    rates = [1e-2 * factor for factor in (1 / 3, 2 / 3, 1, 0.75, 0.5)]
    for step, rate in enumerate(rates):
        batch = collate([[examples[n] for n in module.trainer.datamodule.steps.global_batch(step)]], "packed")
        optimizer.zero_grad()
        losses_of(twin, batch).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.param_groups[0]["lr"] = rate
        if step != 2:
            optimizer.step()
    for (name, ours), theirs in zip(module.named_parameters(), twin.parameters(), strict=True):
        assert (ours - theirs).abs().max() < 1e-6, name
    rows = list(read_jsonl(run.metrics))
    assert [row["train/learning_rate"] for row in rows] == pytest.approx(rates, abs=1e-12)
    assert [row[TRAIN + SKIPPED_STEPS] for row in rows] == [0, 0, 1, 1, 1]
    left_out = rows[2]
    assert not {TRAIN + LOSS, TRAIN + GRADIENT_NORM} & left_out.keys(), "nothing of a step that was not taken is a number of the run"
    assert all(row[TRAIN + LOSS] > 0 for row in rows if row is not left_out)


def test_a_first_step_that_is_left_out_moves_the_schedule_without_a_warning(lm_factory, examples_factory, module_factory, fit):
    module = guarded(module_factory("dpo", lm_factory("llama"), steps=2))
    poison(module, step=1, place=1)
    fit(module, examples_factory(8))  # warnings are errors here
    assert (module.steps_done, module.guard.skipped) == (2, 1)


def test_terms_that_follow_the_data_do_not_follow_a_step_that_is_left_out(lm_factory, examples_factory, module_factory, fit):
    states = []

    def module_of(steps: int) -> AlignmentModule:
        term = build_term(BCO(beta=0.1, decay=0.5), Place(name="bco"))
        return guarded(module_factory([term], lm_factory("llama"), steps=steps))

    for poisoned in (False, True):
        module = module_of(3 if poisoned else 2)
        if poisoned:  # the first step is at policy = reference, where all rewards are 0
            poison(module, step=3, place=1)
        fit(module, examples_factory(8))
        states.append(module.objective.state())
    assert states[0] == states[1]
    assert states[0]["bco"]["True"]["level"] != 0


def test_under_fp16_a_loss_that_is_not_finite_is_left_out_and_the_scale_stays(lm_factory, examples_factory, module_factory, monkeypatch):
    from lightning import Trainer

    from alignkit.modules.datamodule import PreferenceDataModule

    module = guarded(module_factory("dpo", lm_factory("llama"), steps=3))
    poison(module, step=2, place=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    examples = examples_factory(8)
    packing = Packing(layout="packed", tokens=1000, row_tokens=100)
    data = PreferenceDataModule(train=examples, validation=examples[:2], pairs=4, packing=packing, steps=3, seed=0)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)], max_epochs=1, limit_val_batches=0, **quiet
    )
    trainer.fit(module, datamodule=data)
    assert (module.steps_done, module.guard.skipped) == (3, 1)
    assert scaler.get_scale() == 64.0
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_no_checkpoint_holds_weights_that_are_not_finite(lm_factory, module_factory):
    module = module_factory("dpo", lm_factory("llama"))
    assert module.has_finite_weights()
    module.on_save_checkpoint({"state_dict": module.state_dict()})
    with torch.no_grad():
        next(module.heads.parameters(), next(module.backbone.parameters())).view(-1)[3] = math.inf
    assert not module.has_finite_weights()
    with pytest.raises(DivergedError, match=r"step 0: the update has made weights that are not finite\. Nothing is saved of them"):
        module.on_save_checkpoint({"state_dict": module.state_dict()})


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_what_is_kept_of_a_batch_says_which_texts_it_holds(layout, examples_factory):
    examples = examples_factory(5, completions=3, seed=4)
    order = [3, 0, 4, 1, 2]
    batch = collate([[examples[n] for n in order[:3]], [examples[n] for n in order[3:]]], layout)
    expected = [(list(examples[n].prompt_ids), [list(ids) for ids in examples[n].completion_ids]) for n in order]
    assert examples_of(batch) == expected


def test_files_of_another_version_and_damaged_ones_are_refused(lm_factory, examples_factory, module_factory, fit, tmp_path):
    module = module_factory("dpo", lm_factory("llama"))
    poison(module, step=1, place=1)
    keep_in(tmp_path, module)
    with pytest.raises(DivergedError):
        fit(module, examples_factory(8))
    folder = tmp_path / "step-000001"
    text = (folder / "failure.json").read_text()
    with pytest.raises(UserError, match=r"holds no failure\.json.*such as failure="):
        read_failure(tmp_path)
    for broken, said in (
        (text.replace('"format": 1', '"format": 9'), r"is of format 9, and this alignkit reads 1"),
        (text[: len(text) // 2], "its files are damaged"),
        (text.replace('"step": 1', '"step": []'), "its files are damaged"),
        ("[]", "is of format None"),
    ):
        (folder / "failure.json").write_text(broken)
        with pytest.raises(UserError, match=said):
            read_failure(folder)
    (folder / "failure.json").write_text(text)
    (folder / "tensors.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="its files are damaged"):
        read_failure(folder)
