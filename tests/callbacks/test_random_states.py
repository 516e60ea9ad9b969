"""Generators go on where a checkpoint left them."""

from __future__ import annotations

import io
import random

import numpy as np
import torch
from lightning import LightningModule, Trainer

from alignkit.callbacks.random_states import RandomStates


def numbers() -> tuple[list[float], list[float], list[float]]:
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]


def start(callback: RandomStates) -> None:
    callback.on_train_start(Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", barebones=True), LightningModule())


def test_a_resumed_run_draws_what_the_stopped_one_would_have_drawn():
    random.gauss(0, 1)  # leaves a second number for the next call
    saved, file = RandomStates().state_dict(), io.BytesIO()
    expected = numbers()
    torch.save(saved, file)
    file.seek(0)
    callback = RandomStates()
    callback.load_state_dict(torch.load(file, weights_only=True))
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(99)
    assert numbers() != expected
    start(callback)
    assert numbers() == expected


def test_a_run_that_is_not_resumed_is_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    start(RandomStates())
    assert torch.equal(torch.rand(3), expected)
