"""The angle between both sides' gradients, against plain backward passes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from alignkit.callbacks.gradient_cosine import GradientCosine, gradient_cosine
from alignkit.callbacks.metrics_log import MetricsLog
from alignkit.data.collate import collate
from alignkit.run_dir import RunDir, read_jsonl


def test_it_is_the_cosine_of_two_plain_gradients(lm_factory, examples_factory, module_factory):
    module = module_factory("dpo", lm_factory("llama", dtype=torch.float64))
    examples = examples_factory(3)
    sides = []
    for side in (0, 1):
        module.zero_grad()
        for example in examples:
            ids = torch.tensor([[*example.prompt_ids, *example.completion_ids[side]]])
            logps = module.backbone.lm(ids).logits[0].log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])
            logps[len(example.prompt_ids) - 1 :].sum().backward()
        sides.append(torch.cat([p.grad.flatten() for p in module.backbone.parameters()]))
    expected = torch.nn.functional.cosine_similarity(*sides, dim=0).item()
    assert -0.99 < expected < 0.99
    assert gradient_cosine(module.forward_of(collate([examples], "packed"))) == pytest.approx(expected, abs=1e-6)


def test_equal_sides_have_cosine_1_and_a_frozen_trunk_has_none(lm_factory, examples_factory, module_factory):
    examples = [dataclasses.replace(example, completion_ids=(example.completion_ids[0],) * 2) for example in examples_factory(3)]
    batch = collate([examples], "packed")
    assert gradient_cosine(module_factory("dpo", lm_factory("llama")).forward_of(batch)) == pytest.approx(1.0, abs=1e-5)
    frozen = module_factory("con_dph", lm_factory("llama"), frozen_trunk=True)
    assert gradient_cosine(frozen.forward_of(batch)) is None


def test_it_is_logged_with_each_validation_and_leaves_no_gradient_behind(lm_factory, examples_factory, module_factory, fit, tmp_path):
    trained = []
    for callbacks in ([], [GradientCosine()]):
        module = module_factory("dpo", lm_factory("llama"), steps=4)
        run = RunDir.create(tmp_path / str(len(callbacks)))
        log = MetricsLog(run, steps_per_epoch=2)
        fit(module, examples_factory(8), validation=examples_factory(3, seed=1), validate_every=2, callbacks=callbacks, logger=log)
        trained.append([parameter.detach() for parameter in module.parameters()])
    rows = [row for row in read_jsonl(run.metrics) if "val/gradients/cosine" in row]
    assert [row["step"] for row in rows] == [2, 4]
    assert all(-1 <= row["val/gradients/cosine"] <= 1 for row in rows)
    assert all(torch.equal(one, other) for one, other in zip(*trained, strict=True))
