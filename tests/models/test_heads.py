"""Heads against formulas written out by hand, and what they read.   C completions   D hidden width"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from alignkit.data.collate import collate
from alignkit.data.examples import EncodedExample
from alignkit.errors import UserError
from alignkit.loss_settings import HeadSettings
from alignkit.models.backbone import Backbone
from alignkit.models.heads import Heads, RewardHead
from alignkit.models.terminal_states import TrunkStates

WIDTH = 6
POOLERS = HeadSettings.POOLERS


def settings(pooler: str = "identity", **changes) -> HeadSettings:
    return HeadSettings(**{"name": "dph", "pooler": pooler, "dropout": 0.0, "init_std": 0.5, **changes})


def build_head(pooler: str, width: int = WIDTH, **changes) -> RewardHead:
    torch.manual_seed(0)
    head = RewardHead(width, settings(pooler, **changes))
    for parameter in head.parameters():  # biases too
        nn.init.normal_(parameter, std=0.5)
    return head.double()


def by_hand(pooler: str, weights: dict[str, Tensor], hidden: Tensor) -> Tensor:
    """The score of each row of `hidden` [C, D], out of the fact sheet's formulas (facts 1.4)."""
    scores = []
    for h in hidden:
        if pooler in ("bert", "t5"):
            h = torch.tanh(weights["pooler.map.weight"] @ h + weights["pooler.map.bias"])
        elif pooler in ("swiglu_bert", "swiglu_t5"):
            both = weights["pooler.map.up.weight"] @ h + weights["pooler.map.up.bias"]
            a, b = both[: len(both) // 2], both[len(both) // 2 :]
            h = torch.tanh(weights["pooler.map.down.weight"] @ (a * b / (1 + (-b).exp())) + weights["pooler.map.down.bias"])
        scores.append((weights["score.weight"][0] * h).sum())
    return torch.stack(scores)


@pytest.mark.parametrize("pooler", POOLERS)
def test_every_pooler_is_its_formula(pooler):
    head = build_head(pooler)
    hidden = torch.randn(5, WIDTH, dtype=torch.float64)
    scores = head(hidden)
    assert scores.shape == (5,)
    assert torch.allclose(scores, by_hand(pooler, head.state_dict(), hidden), atol=1e-12)


@pytest.mark.parametrize("pooler", POOLERS)
def test_the_score_has_no_bias_and_its_weights_are_those_of_the_fact_sheet(pooler):
    inner = 8 * WIDTH // 3
    shapes = {
        "identity": {},
        "bert": {"pooler.map.weight": (WIDTH, WIDTH), "pooler.map.bias": (WIDTH,)},
        "swiglu_bert": {
            "pooler.map.up.weight": (2 * inner, WIDTH),
            "pooler.map.up.bias": (2 * inner,),
            "pooler.map.down.weight": (WIDTH, inner),
            "pooler.map.down.bias": (WIDTH,),
        },
    }[pooler.replace("t5", "bert")]
    head = RewardHead(WIDTH, settings(pooler))
    assert {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()} == {**shapes, "score.weight": (1, WIDTH)}


@pytest.mark.parametrize("pooler", POOLERS)
def test_dropout_draws_while_training_and_never_in_evaluation(pooler):
    hidden = torch.randn(4, WIDTH, dtype=torch.float64)
    head = build_head(pooler, dropout=0.5)
    assert not torch.equal(head.train()(hidden), head(hidden))
    assert torch.allclose(head.eval()(hidden), by_hand(pooler, head.state_dict(), hidden), atol=1e-12)


@pytest.mark.parametrize(("pooler", "before", "after"), [("bert", 0, 1), ("t5", 1, 0), ("swiglu_bert", 0, 1), ("swiglu_t5", 1, 1)])
def test_dropout_stands_where_the_formula_has_it(pooler, before, after):
    head = build_head(pooler, dropout=0.5).train()
    seen: list[Tensor] = []
    head.pooler.map.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    pooled = head.pooler(torch.ones(50, WIDTH, dtype=torch.float64))
    assert bool((seen[0] == 0).any()) == bool(before)
    assert bool((pooled == 0).any()) == bool(after)


@pytest.mark.parametrize("pooler", POOLERS)
@pytest.mark.parametrize(("init_std", "expected"), [(0.02, 0.02), (None, 1 / 65**0.5)])
def test_weights_start_normal_with_the_asked_deviation_and_biases_at_zero(pooler, init_std, expected):
    # None stands for 1 / sqrt(D + 1), here D = 64
    torch.manual_seed(0)
    heads = [RewardHead(64, settings(pooler, init_std=init_std)) for _ in range(60)]
    weights = torch.cat([p.flatten() for head in heads for name, p in head.named_parameters() if name.endswith("weight")])
    assert weights.std().item() == pytest.approx(expected, rel=0.03)
    assert weights.mean().item() == pytest.approx(0, abs=expected / 20)
    assert all((p == 0).all() for head in heads for name, p in head.named_parameters() if name.endswith("bias"))


def test_scores_of_a_fresh_identity_head_are_normal_with_deviation_std_times_the_length_of_the_state():
    # r = w . h with w ~ N(0, 0.02^2): r ~ N(0, (0.02 |h|)^2), and |h| = sqrt(D) for a vector of ones
    torch.manual_seed(0)
    hidden = torch.ones(1, 100)
    scores = torch.cat([RewardHead(100, settings(init_std=0.02))(hidden) for _ in range(400)])
    assert scores.std().item() == pytest.approx(0.02 * 10, rel=0.1)
    assert scores.mean().item() == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("pooler", POOLERS)
def test_scores_are_float32_under_bf16_autocast_and_with_bf16_weights(pooler):
    torch.manual_seed(0)
    head, hidden = RewardHead(WIDTH, settings(pooler)), torch.randn(8, WIDTH)
    exact = head(hidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = head(hidden)
    pure = head.to(torch.bfloat16)(hidden.to(torch.bfloat16))
    for scores in (mixed, pure):
        assert scores.dtype == torch.float32
        assert torch.allclose(scores, exact, atol=0.1)
        # the score itself is not rounded to bf16's 8 bits
        assert not torch.equal(scores, scores.to(torch.bfloat16).float())


def test_several_named_heads_read_one_trunk():
    torch.manual_seed(0)
    heads = Heads(WIDTH, {"helpful": settings("bert", name="helpful"), "harmless": settings(name="harmless")})
    hidden = torch.randn(9, WIDTH)
    for name in ("helpful", "harmless"):
        assert torch.equal(heads.scores(name, hidden), heads.head(name)(hidden))
    assert not torch.allclose(heads.scores("helpful", hidden), heads.scores("harmless", hidden))
    assert {key.split(".")[0] for key in heads.state_dict()} == {"helpful", "harmless"}


@pytest.mark.parametrize("name", ["a.b", "keys", ""])
def test_a_name_that_no_module_can_have_is_refused(name):
    with pytest.raises(UserError, match=r"loss\.head\.name"):
        Heads(WIDTH, {name: settings(name=name)})


@pytest.fixture
def trunk(lm_factory) -> Backbone:
    return Backbone(lm_factory("llama"))


def scores_of(trunk: Backbone, batch) -> Tensor:
    torch.manual_seed(0)
    heads = Heads(trunk.hidden_width, {"dph": settings("bert")})
    return heads.scores("dph", TrunkStates(trunk)(batch))


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_the_reward_does_not_depend_on_what_the_padding_holds(layout, trunk, examples_factory):
    long, short = examples_factory(1, shortest=8)[0], examples_factory(1, longest=3, seed=1)[0]
    batch = collate([[long], [short]], layout)
    padding = batch.example_ids < 0
    assert padding.sum() > 5
    other = dataclasses.replace(batch, input_ids=torch.where(padding, 2, batch.input_ids))  # 2 ends completions
    assert torch.equal(scores_of(trunk, batch), scores_of(trunk, other))


def test_the_reward_is_read_at_the_last_of_several_terminators(trunk):
    # facts 1.3: the terminator at positions 4, 9 and 15, and padding behind it
    ids = [5, 6, 7, 8, 2, 5, 6, 7, 8, 2, 9, 9, 9, 9, 9, 2]
    dialogue = EncodedExample(key=0, prompt_ids=tuple(ids[:10]), completion_ids=(tuple(ids[10:]),))
    longer = EncodedExample(key=1, prompt_ids=(3,) * 20, completion_ids=((4, 2),))
    batch = collate([[dialogue], [longer]], "packed")
    assert batch.position_ids.flatten()[batch.terminal_index[0]] == 15
    states = trunk.hidden_states(batch)
    alone = trunk.decoder(input_ids=torch.tensor([ids])).last_hidden_state[0]
    assert torch.allclose(states[batch.terminal_index[0]], alone[15], atol=1e-5)


def test_without_its_terminator_a_completion_is_read_at_the_token_before(trunk):
    whole = EncodedExample(key=0, prompt_ids=(5, 6), completion_ids=((7, 8, 2), (9, 2)))
    cut = dataclasses.replace(whole, completion_ids=((7, 8), (9, 2)))
    batch = collate([[whole]], "packed")
    before = dataclasses.replace(batch, terminal_index=batch.terminal_index - torch.tensor([1, 0]))
    assert torch.allclose(scores_of(trunk, collate([[cut]], "packed")), scores_of(trunk, before), atol=1e-5)
    assert (scores_of(trunk, batch) - scores_of(trunk, before)).abs().max() > 1e-3


@pytest.mark.parametrize("pooler", POOLERS)
def test_a_plain_head_draws_and_holds_what_pooler_and_score_need_and_nothing_else(pooler):
    # Saved heads load, and a seed gives the same run, only while this holds.
    torch.manual_seed(0)
    head = RewardHead(WIDTH, settings(pooler))
    after = torch.rand(1)
    torch.manual_seed(0)
    inner = 8 * WIDTH // 3
    shapes = {"identity": [], "bert": [(WIDTH, WIDTH)], "swiglu_bert": [(WIDTH, 2 * inner), (inner, WIDTH)]}[pooler.replace("t5", "bert")]
    maps = [nn.Linear(*shape) for shape in shapes] + [nn.Linear(WIDTH, 1, bias=False)]
    drawn = [nn.init.normal_(module.weight, std=0.5) for module in maps]
    assert torch.equal(after, torch.rand(1))
    kept = [weight for name, weight in head.named_parameters() if name.endswith("weight")]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(kept, drawn, strict=True))


@pytest.mark.parametrize(("pooler", "count"), [("identity", 0), ("bert", 1), ("t5", 1), ("swiglu_bert", 2), ("swiglu_t5", 2)])
def test_matrices_are_those_of_the_pooler(pooler, count):
    heads = Heads(WIDTH, {"dph": settings(pooler, layers=[1, -1], tokens="attention")})
    matrices = heads.matrices("dph")
    assert len(matrices) == count
    assert all(matrix.dim() == 2 and matrix.requires_grad for matrix in matrices)
    assert {id(matrix) for matrix in matrices} <= {id(parameter) for parameter in heads.head("dph").pooler.parameters()}


@pytest.mark.parametrize("layers", [[-1], [0, 2]])
def test_a_standardised_head_reads_states_of_mean_0_and_variance_1(layers):
    head = build_head("bert", layers=layers, standardize=4)
    states = 100.0 + 3.0 * torch.randn(50, len(layers), WIDTH, dtype=torch.float64)
    states[:, :, 0] = 7.0  # which says nothing
    head.measure(states)
    read = head.standardized(states)
    assert torch.allclose(read.mean(0), torch.zeros_like(read[0]), atol=1e-9)
    assert torch.allclose(read.std(0, correction=0)[:, 1:], torch.ones_like(read[0, :, 1:]))
    assert torch.equal(read[:, :, 0], torch.zeros_like(read[:, :, 0]))


def test_a_standardised_head_keeps_what_it_measured_with_its_weights():
    torch.manual_seed(0)
    heads = Heads(WIDTH, {"dph": settings("bert", standardize=4)})
    heads.head("dph").measure(5.0 + torch.randn(9, 1, WIDTH))
    other = Heads(WIDTH, {"dph": settings("bert", standardize=4)})
    other.load_state_dict(heads.state_dict())
    hidden = torch.randn(3, WIDTH)
    assert torch.equal(heads.scores("dph", hidden), other.scores("dph", hidden))
    assert {"dph.shift", "dph.scale"} <= heads.state_dict().keys()
    assert not {"dph.shift", "dph.scale"} & {name for name, _ in heads.named_parameters()}  # no optimizer moves them
