"""fp16 products under a scaled loss: clipped at the true norm, and a step that overflows is left out. On the CPU's emulation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision

from alignkit.data.packing import Packing
from alignkit.errors import DivergedError
from alignkit.modules.datamodule import PreferenceDataModule


class Watched(Callback):
    """Gradient norms as logged, and the weights after each step."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.weights.append(torch.cat([parameter.detach().flatten().clone() for parameter in pl_module.trunk_parameters().values()]))


@pytest.fixture
def fit_scaled(module_factory, lm_factory, examples_factory, monkeypatch):
    """Trains DPO for 4 steps with a scaler that begins at `scale`; None is float32. Returns norms and weights."""

    def run(scale: float | None) -> tuple[list[float], list[torch.Tensor]]:
        module, watched, norms = module_factory("dpo", lm_factory("llama"), steps=4), Watched(), []
        clip = module.clip_gradients_by_norm
        monkeypatch.setattr(module, "clip_gradients_by_norm", lambda: norms.append(clip()) or norms[-1])
        packing = Packing(layout="packed", tokens=1000, row_tokens=100)
        examples = examples_factory(16)
        data = PreferenceDataModule(train=examples, validation=examples[:2], pairs=4, packing=packing, steps=4, seed=0)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0)
        plugins = [] if scale is None else [MixedPrecision("16-mixed", "cpu", scaler)]
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            plugins=plugins,
            max_epochs=1,
            max_steps=-1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            callbacks=[watched],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, datamodule=data)
        return norms, watched.weights

    return run


def test_norms_and_steps_are_those_of_float32_within_fp16s_precision(fit_scaled) -> None:
    norms, weights = fit_scaled(None)
    scaled_norms, scaled_weights = fit_scaled(256.0)
    assert scaled_norms == pytest.approx(norms, rel=0.05)
    moved = (weights[-1] - weights[0]).norm()
    assert (scaled_weights[-1] - weights[-1]).norm() < 0.2 * moved


def test_a_step_that_overflows_is_left_out_and_the_scale_is_halved(fit_scaled) -> None:
    norms, weights = fit_scaled(2.0**40)
    assert not math.isfinite(norms[0])
    assert torch.equal(weights[0], weights[1])


def test_gradients_that_are_not_finite_without_a_scale_are_a_divergence(fit_scaled, monkeypatch) -> None:
    monkeypatch.setattr("alignkit.modules.stepping.clip_gradients", lambda parameters, limit: float("nan"))
    with pytest.raises(DivergedError, match="the gradient norm is nan"):
        fit_scaled(1.0)
