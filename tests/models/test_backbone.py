"""Packed rows compute what separate rows compute, for every architecture that claims so."""

from __future__ import annotations

import pytest
import torch

from alignkit.data.collate import collate, micro_batches
from alignkit.data.packing import Packing
from alignkit.logps import completion_sums
from alignkit.models.backbone import Backbone


def run(backbone: Backbone, batches) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Token log-probs and terminal states in the order of the examples' keys, and gradients of a function of both."""
    backbone.zero_grad()
    logps, terminals = {}, {}
    for batch in batches:
        hidden = backbone.hidden_states(batch)
        scores = backbone.token_scores(hidden, batch).logps
        sums = completion_sums(scores, batch.completion_index, batch.completions)
        states = hidden[batch.terminal_index]
        (sums.sin().sum() + states.square().mean(-1).sum()).backward()
        for completion, example in enumerate(batch.example_index.tolist()):
            key = (batch.example_keys[example], completion - batch.example_index.tolist().index(example))
            logps[key], terminals[key] = scores[batch.completion_index == completion].detach(), states[completion].detach()
    gradients = {name: parameter.grad.clone() for name, parameter in backbone.named_parameters() if parameter.grad is not None}
    order = sorted(logps)
    return torch.cat([logps[k] for k in order]), torch.stack([terminals[k] for k in order]), gradients


def test_packed_equals_rows_in_log_probs_terminal_states_and_gradients(architecture, lm_factory, examples_factory):
    backbone = Backbone(lm_factory(architecture))
    assert backbone.why_not_packed() is None
    examples = [*examples_factory(5, completions=2), *examples_factory(2, completions=3, seed=1)]
    examples = [type(e)(key=k, prompt_ids=e.prompt_ids, completion_ids=e.completion_ids) for k, e in enumerate(examples)]
    packed = run(backbone, micro_batches(examples, Packing(layout="packed", tokens=160, row_tokens=80)))
    rows = run(backbone, micro_batches(examples, Packing(layout="rows", tokens=100, row_tokens=80)))
    assert (packed[0] - rows[0]).abs().max() < 1e-5
    assert (packed[1] - rows[1]).abs().max() < 1e-5
    assert packed[2].keys() == rows[2].keys()
    for name, gradient in packed[2].items():
        assert (gradient - rows[2][name]).abs().max() <= 1e-5 * max(1.0, float(rows[2][name].abs().max())), name


def test_packed_log_probs_equal_the_models_own_logits_one_sequence_at_a_time(architecture, lm_factory, examples_factory):
    backbone = Backbone(lm_factory(architecture, dtype=torch.float64))
    examples = examples_factory(4)
    batch = collate([examples[:3], examples[3:]], "packed")
    scores = backbone.token_scores(backbone.hidden_states(batch), batch).logps.detach()
    expected = []
    for example in examples:
        for completion in example.completion_ids:
            ids = torch.tensor([[*example.prompt_ids, *completion]])
            logits = backbone.lm(input_ids=ids).logits[0].log_softmax(-1)
            start = len(example.prompt_ids)
            expected += [logits[start + n - 1, token] for n, token in enumerate(completion)]
    assert (scores - torch.stack(expected)).abs().max() < 1e-10


def test_a_completion_does_not_see_its_sibling_or_its_neighbours(architecture, lm_factory, examples_factory):
    backbone = Backbone(lm_factory(architecture))
    first, second = examples_factory(2)
    changed = type(first)(key=0, prompt_ids=first.prompt_ids, completion_ids=(first.completion_ids[0], (5, 6, 7, 2)))

    def chosen_logps(example, neighbour) -> torch.Tensor:
        batch = collate([[example, neighbour]], "packed")
        return backbone.token_scores(backbone.hidden_states(batch), batch).logps[batch.completion_index == 0]

    assert torch.allclose(chosen_logps(first, second), chosen_logps(changed, examples_factory(3)[2]), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "why"),
    [("mistral", "sliding window of 8"), ("gemma3_text", "sliding_attention"), ("bloom", "ALiBi"), ("mamba", "linear_attention")],
)
def test_what_cannot_be_packed_is_laid_out_in_rows_and_computes_what_the_model_computes(name, why, lm_factory, examples_factory):
    backbone = Backbone(lm_factory(name))
    assert why in (backbone.why_not_packed() or "")
    assert backbone.layout("packed") == "rows"
    (batch,) = micro_batches(examples_factory(3), Packing(layout="rows", tokens=10_000, row_tokens=1))
    ours = backbone.token_scores(backbone.hidden_states(batch), batch).logps.detach()
    examples = {example.key: example for example in examples_factory(3)}
    plain = []
    for example in (examples[key] for key in batch.example_keys):
        for completion in example.completion_ids:
            ids = torch.tensor([[*example.prompt_ids, *completion]])
            logps = backbone.lm(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
            plain += [logps[len(example.prompt_ids) + n - 1, token] for n, token in enumerate(completion)]
    assert (ours - torch.stack(plain)).abs().max() < 1e-4


def test_dropout_is_off_while_training_even_where_it_is_a_function_call(lm_factory, examples_factory):
    backbone = Backbone(lm_factory("opt", dropout=0.5)).train()
    batch = collate([examples_factory(3)], "packed")
    assert torch.equal(backbone.hidden_states(batch), backbone.hidden_states(batch))


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_autocast_keeps_log_probs_float32_and_near(layout, lm_factory, examples_factory):
    backbone = Backbone(lm_factory("llama"))
    (batch,) = micro_batches(examples_factory(4), Packing(layout=layout, tokens=10_000, row_tokens=200))
    exact = backbone.token_scores(backbone.hidden_states(batch), batch).logps
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = backbone.token_scores(backbone.hidden_states(batch), batch).logps
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.5
