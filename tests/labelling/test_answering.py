"""Answers as they are judged: which of them, in which tokens, and what becomes of those that do not fit."""

from __future__ import annotations

import json

import pytest

from alignkit.data.encoding import Encoder
from alignkit.data.examples import PreferenceExample
from alignkit.errors import UserError
from alignkit.labelling.answering import Answered, Given, distinct
from alignkit.labelling.pool import Entry, Origin


def entry(prompt: str, *answers: str, ranks: tuple[int, ...] = ()) -> Entry:
    origins = tuple((Origin(source=f"{place}.jsonl", model=None),) for place in range(len(answers)))
    return Entry(example=PreferenceExample(prompt=prompt, completions=answers, ranks=ranks), place="here", origins=origins)


@pytest.fixture
def given(tokenizer_factory) -> Given:
    """Words are tokens, and the model has positions for 6."""
    return Given(Encoder(tokenizer_factory(), format="text", max_length=6, overflow="trim"))


def test_equal_and_blank_answers_are_left_out() -> None:
    assert distinct([" a", " b", "a ", "", "  ", " c", " b"]) == [0, 1, 5]
    assert distinct([" a\0", " b", "\0"]) == [1], "no file of training rows may hold NUL"


def test_answers_keep_their_ranks_and_origins(given: Given) -> None:
    (usable,) = given.usable([entry("w5 w6", " w7", " ", " w8", " w7 ", ranks=(2, 3, 0, 1))], 2)
    (answered,) = given([usable], 0)
    candidates = answered.candidates
    assert (candidates.completions, candidates.example.ranks) == ((" w7", " w8"), (2, 0))
    assert (candidates.example.prompt_ids[-2:], candidates.example.completion_ids) == ((5, 6), ((7, 2), (8, 2)))
    assert [one.source for origins in answered.origins for one in origins] == ["0.jsonl", "2.jsonl"]
    assert (answered.finished, answered.drawn, answered.tokens) == ((True, True), 2, 0)


def test_what_the_model_has_no_positions_for_is_cut_for_it_and_whole_for_people(given: Given) -> None:
    long = " w7" * 8
    (usable,) = given.usable([entry("w5", long, " w8")], 2)
    (answered,) = given([usable], 0)
    assert answered.candidates.completions == (long, " w8")
    assert (answered.finished, given.cut) == ((False, True), 1)
    (usable,) = given.usable([entry("w5 " * 9, " w7", " w8")], 2)
    assert given.trimmed == 1


def test_prompts_without_enough_answers_are_counted(given: Given) -> None:
    usable = given.usable([entry("w5", " w7"), entry("w6", " w7", " w8"), entry("w9", " w7", " </s>")], 2)
    assert [one.example.prompt for one in usable] == ["w6"]
    assert +given.left_out == {"one_answer": 1, "special_token_in_text": 1}
    with pytest.raises(UserError, match=r"candidates: there is no prompt whose answers can be judged \(one_answer 1\)"):
        Given(given.encoder).usable([entry("w5", " w7")], 2)


def test_what_is_kept_of_the_pool_is_read_as_what_it_was(given: Given) -> None:
    (usable,) = given.usable([entry("w5", " w7 w8", " w9")], 2)
    (answered,) = given([usable], 0)
    assert Answered.of_row(json.loads(json.dumps(answered.row(3))), usable) == answered
