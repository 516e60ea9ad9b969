"""Texts of answers, and what is built around the model that gives them."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from alignkit.command_line import precheck
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.errors import UserError
from alignkit.generation.answering import Divergence, continuations, room_of
from alignkit.metrics import KL, KL_K3
from alignkit.models.backbone import Backbone
from alignkit.settings import RunSettings


@pytest.fixture(scope="module")
def settings() -> RunSettings:
    return precheck([])[0]


@pytest.fixture
def spaced() -> PreTrainedTokenizerFast:
    """As of Llama 2: a word carries the space before it, and a text by itself loses its first one."""
    vocabulary = {"<s>": 0, "</s>": 1, "▁Review:": 2, "▁It": 3, "▁is": 4, "?": 5}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def test_an_answer_keeps_the_space_before_it_where_it_is_joined_to_the_prompt(spaced: PreTrainedTokenizerFast) -> None:
    example = EncodedExample(key=0, prompt_ids=(0, 2), completion_ids=((3, 4, 1), (1,), (5,)))
    assert spaced.decode([3, 4]) == "It is"
    assert continuations(spaced, example, joined=True) == (" It is", "", "?")
    assert continuations(spaced, example, joined=False) == ("It is", "", "?")


def test_a_prompt_has_the_room_that_its_answer_leaves(settings: RunSettings) -> None:
    short = dataclasses.replace(settings, rollout=dataclasses.replace(settings.rollout, max_tokens=48))
    assert room_of(short, SimpleNamespace(max_position_embeddings=512), of_dataset=False) == 464
    assert room_of(short, SimpleNamespace(max_position_embeddings=512), of_dataset=True) == short.dataset.max_length == 128
    assert room_of(short, SimpleNamespace(), of_dataset=False) > 10**6
    with pytest.raises(UserError, match=r"rollout.max_tokens = 48: the model has positions for 48"):
        room_of(short, SimpleNamespace(max_position_embeddings=48), of_dataset=False)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_divergence_of_a_sequence_is_the_sum_over_its_tokens(lm_factory, examples_factory, temperature: float) -> None:
    policy, reference = (lm_factory("llama", **changes) for changes in ({}, {"rms_norm_eps": 0.5}))
    examples = examples_factory(3)
    packing = Packing(layout="packed", tokens=64)
    measured = Divergence(policy=Backbone(policy), reference=Backbone(reference), temperature=temperature, packing=packing)(examples)
    expected = [slow_divergence(policy, reference, example, ids, temperature) for example in examples for ids in example.completion_ids]
    for name, values in zip((KL, KL_K3), zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(measured[name], torch.tensor(values), rtol=1e-3, atol=1e-3)
    assert measured[KL].abs().min() > 0.1


@torch.no_grad()
def slow_divergence(
    policy: PreTrainedModel, reference: PreTrainedModel, example: EncodedExample, ids: tuple[int, ...], temperature: float
) -> tuple[float, float]:
    """k1 and k3 of one completion alone, from the whole vocabulary in float64."""
    whole = torch.tensor([[*example.prompt_ids, *ids]])
    ours, theirs = ((lm(whole).logits[0].double() / temperature).log_softmax(-1) for lm in (policy, reference))
    places = [(step, token) for step, token in enumerate(ids, start=len(example.prompt_ids) - 1)]
    ratios = [float(ours[place] - theirs[place]) for place in places]
    return sum(ratios), sum(math.exp(-x) - 1 + x for x in ratios)


def test_a_model_is_at_no_distance_from_itself(lm_factory, examples_factory) -> None:
    model = Backbone(lm_factory("gpt2"))
    divergence = Divergence(policy=model, reference=model, temperature=1.0, packing=Packing(layout="rows", tokens=64))
    assert not divergence(examples_factory(2))[KL].any()
