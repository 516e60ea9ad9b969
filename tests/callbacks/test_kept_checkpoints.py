"""States are saved at validations, every few minutes and again after a disk was full, never twice at one step."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer

from alignkit.callbacks import kept_checkpoints
from alignkit.callbacks.checkpoint_files import CheckpointFiles
from alignkit.callbacks.kept_checkpoints import KeptCheckpoints
from alignkit.callbacks.random_states import RandomStates
from alignkit.data.packing import Packing
from alignkit.manifests import step_of
from alignkit.modules.alignment import AlignmentModule
from alignkit.modules.datamodule import PreferenceDataModule
from alignkit.modules.flat_parameters import FlatParameters
from alignkit.optim import build_optimizer
from alignkit.optimizer_settings import OPTIMIZER_SETTINGS
from alignkit.run_dir import RunDir

Written = list[int]


@pytest.fixture
def module(lm_factory, module_factory) -> AlignmentModule:
    return module_factory("dpo", lm_factory("llama"), steps=6)


@pytest.fixture
def train(module, examples_factory, tmp_path, monkeypatch) -> Callable[..., Written]:
    """Trains with a validation at steps 3 and 6; says of which steps a state was written, or tried to be."""

    def run(*, minutes: float | None, seconds_a_step: Sequence[float], failing: Sequence[int] = ()) -> Written:
        clock = itertools.accumulate(itertools.chain(seconds_a_step, itertools.repeat(0.0)), initial=1000.0)
        now = [next(clock)]
        monkeypatch.setattr(kept_checkpoints.time, "monotonic", lambda: now[0])
        tried: Written = []
        files = CheckpointFiles(RunDir(tmp_path), lambda line: None, keep=99)
        write = files._write

        def written(checkpoint, target: Path) -> None:
            tried.append(step_of(target))
            if step_of(target) in failing:
                raise OSError("as it were")
            write(checkpoint, target)

        monkeypatch.setattr(files, "_write", written)
        random = RandomStates()
        kept = KeptCheckpoints(RunDir(tmp_path), files, random, minutes=minutes)
        original = module.training_step

        def step(*args):
            now[0] = next(clock)
            return original(*args)

        monkeypatch.setattr(module, "training_step", step)
        packing = Packing(layout="packed", tokens=1000, row_tokens=100)
        examples = examples_factory(8)
        data = PreferenceDataModule(train=examples, validation=examples[:2], pairs=4, packing=packing, steps=6, seed=0)
        Trainer(
            **{"accelerator": "cpu", "devices": 1, "max_epochs": 1, "val_check_interval": 3, "num_sanity_val_steps": 0, "logger": False},
            **{"inference_mode": False, "enable_progress_bar": False, "enable_model_summary": False, "plugins": [files]},
            callbacks=[random, kept],
            default_root_dir=tmp_path,
        ).fit(module, datamodule=data)
        return tried

    return run


def test_without_minutes_a_state_is_saved_at_validations_alone(train):
    assert train(minutes=None, seconds_a_step=[10_000] * 6) == [3, 6]


def test_between_validations_it_is_saved_once_the_minutes_have_passed(train, tmp_path):
    # 60 s a step: after steps 2 and 5; step 3 has a validation, from which the minutes count anew
    assert train(minutes=2, seconds_a_step=[60] * 6) == [2, 3, 5, 6]
    checkpoint = torch.load(tmp_path / "checkpoints" / "step-000005.ckpt", weights_only=True)
    assert checkpoint["alignkit/progress"]["steps_done"] == 5


def test_a_step_at_which_a_validation_is_due_waits_for_it(train):
    assert train(minutes=1, seconds_a_step=[1000] * 6) == [1, 2, 3, 4, 5, 6]


def test_a_clock_that_is_put_back_does_no_harm(train):
    assert train(minutes=2, seconds_a_step=[60, -9000, 60, 60, 60, 60]) == [3, 5, 6]


def test_what_could_not_be_written_is_tried_again_after_a_while(train):
    # fails at the validation of step 3; half a minute later it is step 5
    assert train(minutes=None, seconds_a_step=[20] * 6, failing=[3]) == [3, 5, 6]


@pytest.mark.parametrize("name", ["adamw", "laprop", "rmsprop"])
def test_whoever_writes_weights_is_noticed(name, module, train):
    kept = KeptCheckpoints(RunDir(Path()), CheckpointFiles(RunDir(Path()), lambda line: None), RandomStates(), minutes=None)
    settings = OPTIMIZER_SETTINGS[name]
    values = {"name": name, "lr": 0.1} | {
        field.name: {"decay_towards": "init", "decay_exclude": []}.get(field.name, 0.5)
        for field in dataclasses.fields(settings)
        if field.name not in ("name", "lr")
    }
    optimizer = build_optimizer(settings(**values), trunk=dict(module.backbone.named_parameters()), heads=[])
    kept.on_train_start(SimpleNamespace(optimizers=[optimizer]), module)
    before = kept.writes(module)
    kept.steady(module)
    assert kept.writes(module) == before
    for parameter in module.backbone.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    updated = kept.writes(module)
    assert updated > before
    FlatParameters(module.backbone.parameters()).write(FlatParameters(module.backbone.parameters()).read())  # as TRPO does
    assert kept.writes(module) > updated
