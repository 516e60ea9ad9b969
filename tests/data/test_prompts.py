"""Which prompts an update answers is a function of seed and step."""

from __future__ import annotations

import pytest

from alignkit.data.packing import Packing
from alignkit.data.prompts import PromptSteps
from alignkit.data.steps import Steps


@pytest.fixture
def steps(examples_factory) -> Steps:
    examples = examples_factory(5, completions=1)
    return Steps(examples, pairs=2, steps=7, seed=3, packing=Packing(layout="packed", tokens=100))


def test_update_k_answers_the_prompts_of_global_batch_k(steps):
    prompts = PromptSteps(steps)
    assert len(prompts) == 7
    for step in (6, 0, 3):  # in any order
        batch = prompts[step]
        assert batch.step == step
        assert [example.key for example in batch.examples] == steps.global_batch(step)


def test_an_epoch_answers_each_prompt_once(steps):
    prompts = PromptSteps(steps)
    for epoch in (0, 1):
        keys = [example.key for step in range(3) for example in prompts[3 * epoch + step].examples]
        assert sorted(keys) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("step", [-1, 7])
def test_there_is_no_other_update(step, steps):
    with pytest.raises(IndexError):
        PromptSteps(steps)[step]
