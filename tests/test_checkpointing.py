"""When activations are computed again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alignkit import checkpointing
from alignkit.assembly import plan_packing, read_inputs
from alignkit.checkpointing import upper_bound, wants_checkpointing
from alignkit.command_line import precheck
from alignkit.forecast import peak_memory
from alignkit.models.skeleton import skeleton

ARGUMENTS = ["loss=dpo", "steps=3", "schedule.warmup_steps=0", "dataset.train_examples=40", "dataset.validation_examples=8"]


@pytest.fixture(scope="module")
def run():
    (settings,) = precheck(ARGUMENTS)
    return settings, read_inputs(settings)


def test_auto_is_on_just_where_the_run_would_not_fit_otherwise(run, monkeypatch):
    settings, inputs = run
    needed = sum(peak_memory(settings, inputs, plan_packing, checkpointing=False).values())
    for free, wanted in ((needed + 1, False), (needed - 1, True)):
        monkeypatch.setattr(checkpointing, "free_memory", lambda device, free=free: free)
        assert wants_checkpointing(settings, inputs, inputs.path, plan_packing) is wanted


def test_the_rehearsal_is_left_out_where_there_is_room_to_spare(run, monkeypatch):
    settings, inputs = run
    monkeypatch.setattr(checkpointing, "free_memory", lambda device: 2**50)
    monkeypatch.setattr(checkpointing, "needs_checkpointing", lambda *args: pytest.fail("rehearsed"))
    assert not wants_checkpointing(settings, inputs, inputs.path, plan_packing)


@pytest.mark.parametrize(("word", "wanted"), [("full", True), ("off", False)])
def test_a_word_is_taken_as_it_is(run, monkeypatch, word, wanted):
    settings, inputs = run
    monkeypatch.setattr(checkpointing, "free_memory", lambda device: pytest.fail("asked"))
    settings = replace(settings, model=replace(settings.model, checkpointing=word))
    assert wants_checkpointing(settings, inputs, inputs.path, plan_packing) is wanted


def test_the_bound_is_above_the_rehearsal(run):
    settings, inputs = run
    needed = sum(peak_memory(settings, inputs, plan_packing, checkpointing=False).values())
    assert upper_bound(skeleton(inputs.path, inputs.config), settings.batch.tokens) > needed


def test_a_model_of_unknown_layers_is_rehearsed():
    assert upper_bound(torch.nn.Module.__new__(NoLayers), 10) > 2**60


class NoLayers(torch.nn.Module):
    def parameters(self, recurse=True):
        return iter(())

    def layers(self):
        return []
