"""An empty batch is a forward and a backward pass of which every sum is 0: what a rank runs that has fewer batches than another one."""

from __future__ import annotations

import pytest
import torch

from alignkit.data.collate import empty_batch
from alignkit.data.packing import Packing
from alignkit.models.backbone import Backbone


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_it_has_no_loss_no_metric_and_a_gradient_of_zero(objective, layout, lm_factory, module_factory) -> None:
    module = module_factory(objective, lm_factory("llama"))
    evaluation = module.evaluate(empty_batch(Packing(layout=layout, tokens=64, multiple=8)))
    assert all(values.numel() == 0 for values in evaluation.metrics.values())
    total = evaluation.sum()
    total.backward()
    assert total == 0
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    assert gradients, "a rank whose backward pass does not run would leave the others waiting"
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("attention", ["tiles", "dense"])
def test_every_architecture_computes_it(architecture, attention, lm_factory) -> None:
    backbone = Backbone(lm_factory(architecture))
    if attention == "tiles":
        backbone.use_attention("tiles", "cpu")
    batch = empty_batch(Packing(layout="packed", tokens=64, multiple=4))
    hidden = backbone.hidden_states(batch)
    assert hidden.isfinite().all()
    assert backbone.token_scores(hidden, batch).logps.shape == torch.Size([0])
