"""Held-out prompts, continued greedily: the same text as a loop over the model's own logits."""

from __future__ import annotations

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from alignkit.callbacks.samples import Continuation, Samples
from alignkit.data.collate import collate
from alignkit.models.backbone import Backbone
from alignkit.models.reference import frozen_copy
from alignkit.run_dir import RunDir, read_jsonl

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [3, 4]]
TERMINATOR = 2


@pytest.fixture
def continuation(tokenizer_factory) -> Continuation:
    return Continuation(tokenizer=tokenizer_factory(), terminator=TERMINATOR, tokens=7)


def greedily(backbone: Backbone, prompt: list[int], tokens: int) -> str:
    """Arg-max, one token at a time, without a cache and without padding."""
    ids = list(prompt)
    for _ in range(tokens):
        ids.append(int(backbone.lm(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == TERMINATOR:
            break
    return " ".join(f"w{n}" for n in ids[len(prompt) :] if n > TERMINATOR)


def test_continuations_are_greedy_and_do_not_depend_on_the_other_prompts(architecture, lm_factory, continuation):
    # prompts of unequal lengths are padded on the left
    backbone = Backbone(lm_factory(architecture, dtype=torch.float64))
    texts = continuation(backbone, PROMPTS)
    assert texts == [greedily(backbone, prompt, 7) for prompt in PROMPTS]
    assert [continuation(backbone, [prompt])[0] for prompt in PROMPTS] == texts
    assert len(set(texts)) > 1


def test_a_continuation_ends_at_the_terminator_and_its_neighbours_go_on(lm_factory, tokenizer_factory):
    backbone = Backbone(lm_factory("llama", dtype=torch.float64))
    # take the second token of the first continuation for the terminator
    (text,) = Continuation(tokenizer=tokenizer_factory(), terminator=TERMINATOR, tokens=7)(backbone, [PROMPTS[0]])
    words = text.split()
    assert words[1] not in words[:1]
    ended = Continuation(tokenizer=tokenizer_factory(), terminator=int(words[1].removeprefix("w")), tokens=7)(backbone, PROMPTS)
    assert ended[0].split()[0] == words[0]
    assert set(ended[0].split()[1:]) <= {words[1]}
    assert any(words[1] not in other.split() and len(other.split()) == 7 for other in ended[1:])


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama"])
def test_a_prompt_that_fills_the_context_is_continued(name, lm_factory, continuation):
    # dataset.max_length may be the whole context, and prompts are cut to that
    backbone = Backbone(lm_factory(name))
    assert len(continuation(backbone, [[5] * 128, [6] * 3])) == 2


@pytest.mark.parametrize("objective_name", ["dpo", "con_dph"])
def test_each_validation_writes_policy_and_reference_side_by_side(
    objective_name, lm_factory, examples_factory, module_factory, fit, continuation, tmp_path
):
    run = RunDir.create(tmp_path)
    module = module_factory(objective_name, lm_factory("llama"), steps=4)
    start = frozen_copy(module.backbone)
    samples = Samples(run, PROMPTS, continuation)
    samples.remember(start)
    fit(module, examples_factory(8), validation=examples_factory(2), validate_every=2, callbacks=[samples])
    rows = list(read_jsonl(run.samples))
    assert [row["step"] for row in rows] == [2] * 4 + [4] * 4
    assert [row["prompt"] for row in rows[:4]] == ["w5 w6 w7", "w8", "w9 w10 w11 w12 w13 w14", "w3 w4"]
    assert [row["policy"] for row in rows[4:]] == continuation(module.backbone, PROMPTS)
    assert [row["reference"] for row in rows] == continuation(start, PROMPTS) * 2
    assert [row["policy"] for row in rows[4:]] != [row["reference"] for row in rows[4:]]
    assert module.backbone.lm.training is False


def test_without_a_reference_the_column_is_the_policy_before_its_first_update(
    lm_factory, examples_factory, module_factory, fit, continuation, tmp_path
):
    run = RunDir.create(tmp_path)
    module = module_factory("con_dph", lm_factory("llama"), steps=4)
    start = frozen_copy(module.backbone)
    samples = Samples(run, PROMPTS, continuation)
    samples.remember(module.backbone)
    # as `assembly.train` does: validation before the first step, with the same callback
    before = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, inference_mode=False, callbacks=[samples]
    )
    before.validate(module, DataLoader([collate([examples_factory(2)], "packed")], batch_size=None), verbose=False)
    fit(module, examples_factory(8), validation=examples_factory(2), callbacks=[samples])
    rows = list(read_jsonl(run.samples))
    assert [row["reference"] for row in rows[-4:]] == continuation(start, PROMPTS)
    assert [row["step"] for row in rows] == [0] * 4 + [4] * 4
    assert [row["policy"] for row in rows[:4]] == continuation(start, PROMPTS)
    assert [row["policy"] for row in rows[-4:]] == continuation(module.backbone, PROMPTS) != continuation(start, PROMPTS)


def test_without_prompts_nothing_is_written(lm_factory, examples_factory, module_factory, fit, continuation, tmp_path):
    run = RunDir.create(tmp_path)
    module = module_factory("dpo", lm_factory("llama"), steps=1)
    fit(module, examples_factory(4), validation=examples_factory(2), callbacks=[Samples(run, [], continuation)])
    assert not run.samples.exists()
