"""Answers in the tokens of a model that did not write them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from alignkit.data.packing import Packing
from alignkit.errors import UserError
from alignkit.scorers.answer_tokens import AnswerTokens, same_tokens, score_batches


def test_ids_are_taken_over_where_tokenizers_agree(tokenizer_factory, answers):
    tokens = AnswerTokens(tokenizer_factory(), tokenizer_factory(), terminator=None, positions=None)
    encoded = tokens(answers)
    assert [example.prompt_ids for example in encoded] == [example.prompt_ids for example in answers.examples]
    assert [example.completion_ids for example in encoded] == [example.completion_ids for example in answers.examples]
    assert [example.key for example in encoded] == [0, 1]


def test_tokenizers_agree_where_vocabulary_control_tokens_and_rules_are_the_same(tokenizer_factory, other_tokenizer):
    assert same_tokens(tokenizer_factory(), tokenizer_factory())
    assert not same_tokens(tokenizer_factory(), other_tokenizer)
    other_end = tokenizer_factory()
    other_end.eos_token = "w9"
    assert not same_tokens(tokenizer_factory(), other_end)


def test_tokenizers_that_split_a_text_in_other_places_do_not_agree(tokenizer_factory):
    from tokenizers import pre_tokenizers

    other_rules = tokenizer_factory()
    other_rules.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert other_rules.get_vocab() == tokenizer_factory().get_vocab()
    assert not same_tokens(tokenizer_factory(), other_rules)


@pytest.fixture
def anew(tokenizer_factory, other_tokenizer):
    """The tokens of a model whose tokenizer did not write the answers."""
    return lambda **settings: AnswerTokens(tokenizer_factory(), other_tokenizer, **{"terminator": None, "positions": None, **settings})


def test_prompts_are_shared_and_equal_completions_are_kept(anew, write, other_tokenizer):
    written = write(other_tokenizer, [((95, 94), [(92, 2), (92, 2), (91,)]), ((95, 94), [(90, 2)])])
    encoded = anew()(written)
    assert [example.prompt_ids for example in encoded] == [(5, 6), (5, 6)]
    assert [example.completion_ids for example in encoded] == [((8, 2), (8, 2), (9,)), ((10, 2),)]


def test_control_tokens_that_are_spelt_out_are_left_out(anew, write, other_tokenizer):
    written = write(other_tokenizer, [((95,), [(92, 2)])])
    spelt = dataclasses.replace(written, prompts=("w5 </s> w6",), completions=(" w8 <s>",))
    (example,) = anew()(spelt)
    assert example.prompt_ids == (5, 6)
    assert example.completion_ids == ((8, 2),)


def test_texts_too_long_for_the_model_lose_their_oldest_tokens(anew, write, other_tokenizer):
    written = write(other_tokenizer, [((95, 94, 93), [(92, 2)])])
    (example,) = anew(positions=4)(written)
    assert (example.prompt_ids, example.completion_ids) == ((6, 7), ((8, 2),))


def test_a_text_that_cannot_be_read_is_named(anew, write, other_tokenizer):
    written = dataclasses.replace(write(other_tokenizer, [((95,), [(92, 2)])]), prompts=("",))
    with pytest.raises(UserError, match=r"^scorer: cannot read ' w8' as an answer to '' \(empty_prompt\)"):
        anew()(written)


def test_scores_come_back_in_the_order_of_the_completions(examples_factory):
    # Rows are sorted by length; what is scored here is the completion's own last but one token.
    examples = [dataclasses.replace(example, key=place) for place, example in enumerate(examples_factory(9, completions=3))]

    def last(batch):
        return batch.input_ids.flatten()[batch.terminal_index - 1].double()

    for packing in (Packing(layout="packed", tokens=60, row_tokens=30), Packing(layout="rows", tokens=60)):
        scores = score_batches(examples, packing, torch.device("cpu"), last)
        assert scores.tolist() == [float(ids[-2]) for example in examples for ids in example.completion_ids]
        assert scores.dtype == torch.float32


def test_no_answers_have_no_scores():
    assert score_batches([], Packing(layout="rows", tokens=8), torch.device("cpu"), lambda batch: torch.ones(1)).shape == (0,)
