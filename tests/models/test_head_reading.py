"""What heads read beside the final state at the last token, against sums written out.

C completions   N completion tokens   L layers   D hidden width
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from alignkit.data.collate import collate
from alignkit.errors import UserError
from alignkit.loss_settings import HeadSettings
from alignkit.models.backbone import Backbone
from alignkit.models.heads import Heads, RewardHead
from alignkit.models.terminal_states import HeadInputs, head_inputs, terminal_states
from alignkit.resolution import to_record

WIDTH = 6
POOLERS = HeadSettings.POOLERS
RICH = {"layers": [1, -1], "tokens": "attention"}
"""A head that reads everything that a head can read."""


def settings(pooler: str = "identity", **changes) -> HeadSettings:
    return HeadSettings(name="dph", pooler=pooler, dropout=0.0, init_std=0.5, **changes)


def build_head(pooler: str, **changes) -> RewardHead:
    torch.manual_seed(0)
    head = RewardHead(WIDTH, settings(pooler, **changes))
    for parameter in head.parameters():  # biases, mixture and values too
        nn.init.normal_(parameter, std=0.5)
    return head.double()


@pytest.fixture
def trunk(lm_factory) -> Backbone:
    return Backbone(lm_factory("llama"))


def random_inputs(layers: tuple[int, ...] = (0, 1, -1)) -> HeadInputs:
    """Three completions of one, two and three tokens."""
    tokens = torch.randn(6, len(layers), WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    owners = torch.tensor([0, 1, 1, 2, 2, 2])
    return HeadInputs(layers=layers, terminal=tokens[[0, 2, 5]], tokens=tokens, completion_index=owners)


def inputs_of(trunk: Backbone, heads: Heads, batch) -> HeadInputs:
    return head_inputs(trunk.hidden_layers(batch, heads.layers), heads.layers, batch, with_tokens=heads.attend)


@pytest.mark.parametrize("pooler", POOLERS)
def test_a_fresh_head_that_attends_scores_as_one_that_does_not(pooler):
    scores = []
    for tokens in ("last", "attention"):
        torch.manual_seed(0)
        head = Heads(WIDTH, {"dph": settings(pooler, tokens=tokens)}).double()
        scores.append(head.scores_of("dph", random_inputs((-1,))))
    assert torch.equal(*scores)


def test_a_head_that_reads_all_it_can_holds_three_more_weights():
    plain, rich = RewardHead(WIDTH, settings("bert")).state_dict(), RewardHead(WIDTH, settings("bert", **RICH)).state_dict()
    assert {name: tuple(rich[name].shape) for name in rich.keys() - plain.keys()} == {
        "mixture.weights": (2,),
        "attention.query.weight": (WIDTH, WIDTH),
        "attention.value.weight": (WIDTH, WIDTH),
    }
    assert plain.keys() <= rich.keys()
    assert RewardHead(WIDTH, settings("bert", layers=[3])).state_dict().keys() == plain.keys()


def test_one_layer_is_read_as_it_is():
    inputs = random_inputs()
    for place, layer in enumerate(inputs.layers):
        head = build_head("bert", layers=[layer])
        assert torch.equal(head(head.read(inputs)), head(inputs.terminal[:, place]))


def test_layers_are_mixed_by_softmax_before_they_are_pooled():
    head = build_head("bert", layers=[-1, 0])
    inputs = random_inputs()  # of layers 0, 1, -1
    last, first = head.mixture.weights.exp() / head.mixture.weights.exp().sum()
    mixed = last * inputs.terminal[:, 2] + first * inputs.terminal[:, 0]
    assert torch.allclose(head(head.read(inputs)), head(mixed), atol=1e-12)


def test_tokens_are_mixed_by_layer_and_then_attended_to():
    head = build_head("swiglu_bert", **RICH)
    inputs = random_inputs()
    shares = head.mixture.weights.softmax(0)
    tokens = shares[0] * inputs.tokens[:, 1] + shares[1] * inputs.tokens[:, 2]
    read = []
    for own in tokens.split([1, 2, 3]):
        weights = ((head.attention.query.weight @ own[-1]) @ own.T / WIDTH**0.5).softmax(0)
        read.append(own[-1] + head.attention.value.weight @ (weights @ own))
    assert torch.allclose(head(head.read(inputs)), head(torch.stack(read)), atol=1e-12)


def test_several_heads_share_what_is_read_for_all_of_them():
    torch.manual_seed(0)
    wanted = {"plain": settings(), "deep": settings(layers=[2]), "wide": settings(layers=[0, -1], tokens="attention")}
    heads = Heads(WIDTH, wanted).double()
    assert heads.layers == (-1, 0, 2)
    assert heads.attend
    assert not Heads(WIDTH, {"plain": settings(), "deep": settings(layers=[2])}).attend
    inputs = random_inputs(heads.layers)
    assert torch.equal(heads.scores_of("plain", inputs), heads.scores("plain", inputs.terminal[:, 0]))
    assert torch.equal(heads.scores_of("deep", inputs), heads.head("deep")(inputs.terminal[:, 2]))
    assert heads.scores_of("wide", inputs).shape == (3,)


@pytest.mark.parametrize("changes", [{"layers": [1]}, {"layers": [-1, 1]}, {"tokens": "attention"}])
def test_a_head_that_reads_more_is_not_scored_from_final_states(changes):
    heads = Heads(WIDTH, {"dph": settings(**changes)})
    with pytest.raises(AssertionError, match="'dph' reads more"):
        heads.scores("dph", torch.zeros(3, WIDTH))


@pytest.mark.parametrize("changes", [{}, {"layers": [1]}, {"layers": [0, 1, -1]}, {"tokens": "attention"}, RICH])
def test_scores_do_not_depend_on_the_layout_or_on_what_the_padding_holds(changes, trunk, examples_factory):
    examples = [*examples_factory(2, shortest=8), *examples_factory(2, longest=3, seed=1)]
    heads = Heads(trunk.hidden_width, {"dph": settings("bert", **changes)})
    for parameter in heads.parameters():
        nn.init.normal_(parameter, std=0.2)
    packed, rows = (collate([[example] for example in examples], layout) for layout in ("packed", "rows"))
    padding = packed.example_ids < 0
    other = dataclasses.replace(packed, input_ids=torch.where(padding, 2, packed.input_ids))
    scores = heads.scores_of("dph", inputs_of(trunk, heads, packed))
    assert padding.any()
    assert torch.equal(scores, heads.scores_of("dph", inputs_of(trunk, heads, other)))
    assert torch.allclose(scores, heads.scores_of("dph", inputs_of(trunk, heads, rows)), atol=1e-4)
    # and a completion scored alone, without its sibling and its neighbours, is scored the same
    alone = [dataclasses.replace(example, completion_ids=(ids,)) for example in examples for ids in example.completion_ids]
    single = torch.cat([heads.scores_of("dph", inputs_of(trunk, heads, collate([[example]], "packed"))) for example in alone])
    assert torch.allclose(scores, single, atol=1e-4)


def test_the_default_head_reads_the_final_state_at_the_last_token(trunk, examples_factory):
    batch = collate([examples_factory(3)], "packed")
    heads = Heads(trunk.hidden_width, {"dph": settings("bert")})
    expected = heads.scores("dph", terminal_states(trunk.hidden_states(batch), batch))
    assert torch.equal(heads.scores_of("dph", inputs_of(trunk, heads, batch)), expected)


def test_attention_makes_the_score_depend_on_the_tokens_before_the_last_directly(trunk, examples_factory):
    batch = collate([examples_factory(3, shortest=3)], "packed")
    for tokens, reached in (("last", False), ("attention", True)):
        torch.manual_seed(0)
        heads = Heads(trunk.hidden_width, {"dph": settings(tokens=tokens)})
        for parameter in heads.parameters():
            nn.init.normal_(parameter, std=0.2)
        (hidden,) = trunk.hidden_layers(batch, heads.layers)
        hidden = hidden.detach().requires_grad_()
        heads.scores_of("dph", head_inputs([hidden], heads.layers, batch, with_tokens=heads.attend)).sum().backward()
        inner = torch.ones(len(hidden), dtype=torch.bool)
        inner[batch.terminal_index] = False
        completion = batch.branch_ids.flatten() > 0
        assert bool((hidden.grad[inner & completion].abs().amax(-1) > 0).all()) == reached
        assert hidden.grad[~completion].abs().max() == 0  # never the prompt


def test_training_reaches_every_weight_that_a_head_has_and_the_layers_it_reads(trunk, examples_factory):
    batch = collate([examples_factory(3)], "packed")
    heads = Heads(trunk.hidden_width, {"dph": settings("bert", **RICH)})
    nn.init.normal_(heads.head("dph").attention.value.weight, std=0.2)
    heads.scores_of("dph", inputs_of(trunk, heads, batch)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in heads.parameters())
    assert all(block.self_attn.q_proj.weight.grad is not None for block in trunk.decoder.layers)


@pytest.mark.parametrize("changes", [{"layers": [0, -1]}, {"tokens": "attention"}, RICH])
def test_a_head_that_reads_more_is_float32_under_bf16_autocast_and_with_bf16_weights(changes):
    head = build_head("bert", **changes).float()
    wide = random_inputs()
    inputs = HeadInputs(
        layers=wide.layers, terminal=wide.terminal.float(), tokens=wide.tokens.float(), completion_index=wide.completion_index
    )
    exact = head(head.read(inputs))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = head(head.read(inputs))
    small = dataclasses.replace(inputs, terminal=inputs.terminal.bfloat16(), tokens=inputs.tokens.bfloat16())
    pure = head.bfloat16()(head.read(small))
    for scores in (mixed, pure):
        assert scores.dtype == torch.float32
        assert torch.allclose(scores, exact, atol=0.2)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ({"layers": []}, r"loss\.head\.layers = \[\]; must be one or more different layers.*\[-1\]"),
        ({"layers": [1, -1, 1]}, r"loss\.head\.layers = \[1, -1, 1\]; must be one or more different"),
        ({"layers": 5}, r"loss\.head\.layers = 5; must be a list"),
        ({"layers": ["last"]}, r"loss\.head\.layers = \['last'\]; must be a list"),
        ({"tokens": "atention"}, r"loss\.head\.tokens = 'atention'; must be one of last, attention.*'attention'"),
    ],
)
def test_what_a_head_cannot_read_is_refused(typed, message):
    plain = {"name": "dph", "pooler": "identity", "dropout": 0.0, "init_std": None}
    with pytest.raises(UserError, match=message):
        to_record(HeadSettings, plain | typed, "loss.head")
    assert to_record(HeadSettings, plain, "loss.head").reads_terminal_states
    assert to_record(HeadSettings, plain | RICH, "loss.head").layers == [1, -1]
