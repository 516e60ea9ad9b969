"""Candidates of a question as token ids: what they share, which of their tokens count.

Facts are computed by hand with a tokenizer that has one token a character and a single merge, `a` + `b` (conftest.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from transformers import PreTrainedTokenizerFast

from alignkit.data.encoding import Encoder
from alignkit.data.question_encoding import EncodedQuestion, encode_questions
from alignkit.data.questions import Question

Characters = Callable[..., PreTrainedTokenizerFast]


def encoded(tokenizer: PreTrainedTokenizerFast, *questions: Question, max_length: int = 1000) -> list[EncodedQuestion]:
    return encode_questions(questions, Encoder(tokenizer, format="auto", max_length=max_length, overflow="trim"))


def scored(tokenizer: PreTrainedTokenizerFast, question: EncodedQuestion) -> list[str]:
    """The texts whose log-probs count."""
    completions = [ids for example in question.examples for ids in example.completion_ids]
    return [text(tokenizer, ids[start:end]) for ids, (start, end) in zip(completions, question.spans, strict=True)]


def text(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    return "".join(str(tokenizer.decode([token])) for token in ids)


def test_candidates_share_one_prompt_and_count_without_their_terminator(characters: Characters) -> None:
    tokenizer = characters()
    (one,) = encoded(tokenizer, Question(prompt="ask:", candidates=(" x", " yz"), correct=(1,)))
    (example,) = one.examples
    assert text(tokenizer, example.prompt_ids).endswith("ask:")
    assert [len(ids) for ids in example.completion_ids] == [3, 4]  # the space, the letters, the terminator
    assert {ids[-1] for ids in example.completion_ids} == {tokenizer.eos_token_id}
    assert scored(tokenizer, one) == [" x", " yz"]
    assert one.characters == (1, 2)


def test_what_is_given_is_read_and_does_not_count(characters: Characters) -> None:
    tokenizer = characters()
    (one,) = encoded(tokenizer, Question(prompt="so", candidates=(" end", " end"), given=(" Ann", " Bob"), correct=(0,)))
    (example,) = one.examples
    assert text(tokenizer, example.prompt_ids).endswith("so ")  # both go on with a space
    assert [text(tokenizer, ids[:-1]) for ids in example.completion_ids] == ["Ann end", "Bob end"]
    assert scored(tokenizer, one) == [" end", " end"]


def test_equal_candidates_are_kept(characters: Characters) -> None:
    (one,) = encoded(characters(), Question(prompt="q", candidates=(" a", " b", " a"), correct=(1,)))
    completions = one.examples[0].completion_ids
    assert completions[0] == completions[2] != completions[1]


def test_a_merge_across_the_boundary_belongs_to_the_candidate(characters: Characters) -> None:
    tokenizer = characters()
    (one,) = encoded(tokenizer, Question(prompt="xa", candidates=("b", "c"), correct=(0,)))
    assert scored(tokenizer, one) == ["ab", "c"]
    assert text(tokenizer, one.examples[0].prompt_ids).endswith("x")


def test_a_question_whose_candidate_spells_a_control_token_is_left_out_and_others_keep_their_keys(characters: Characters) -> None:
    tokenizer = characters()
    found = encoded(
        tokenizer,
        Question(prompt="q", candidates=(" a", f" {tokenizer.eos_token}"), correct=(0,)),
        Question(prompt="r", candidates=(" c", " d"), correct=(0,)),
    )
    assert [one.key for one in found] == [1]


def test_long_prompts_lose_their_oldest_tokens(characters: Characters) -> None:
    tokenizer = characters()
    (one,) = encoded(tokenizer, Question(prompt="0123456789" * 3, candidates=(" x", " y"), correct=(0,)), max_length=12)
    assert all(len(example.prompt_ids) + len(ids) <= 12 for example in one.examples for ids in example.completion_ids)
    assert text(tokenizer, one.examples[0].prompt_ids).endswith("9")
    assert scored(tokenizer, one) == [" x", " y"]


@pytest.mark.parametrize("draws", [400])
def test_the_wrong_candidate_of_a_pair_is_drawn_uniformly_and_is_the_same_every_time(draws: int) -> None:
    questions = [Question(prompt=f"question {n}", candidates=(" a", " b", " c", " d"), correct=(2,)) for n in range(draws)]
    lasts = [question.as_preference().completions[-1] for question in questions]
    assert lasts == [question.as_preference().completions[-1] for question in questions]
    counts = {text: lasts.count(text) for text in (" a", " b", " d")}
    assert sum(counts.values()) == draws
    # Three standard deviations of a binomial of chance one third: 28.
    assert all(abs(count - draws / 3) < 3 * (draws * 2 / 9) ** 0.5 for count in counts.values())


def test_a_pair_has_one_right_candidate_first_and_every_wrong_one_once() -> None:
    question = Question(prompt="q", candidates=(" no", " yes", " no", " maybe", " sure"), correct=(1, 4))
    example = question.as_preference()
    assert example.completions[0] in (" yes", " sure")
    assert sorted(example.completions[1:]) == [" maybe", " no"]
    assert example.ranks == (0, 1, 1)
    assert example.desirable == (True, False, False)


def test_candidates_of_a_prompt_that_is_too_long_still_share_it(characters: Characters) -> None:
    tokenizer = characters()
    (one,) = encoded(tokenizer, Question(prompt="0123456789" * 3, candidates=(" x", " yyyyy"), correct=(0,)), max_length=12)
    (example,) = one.examples
    assert len(example.prompt_ids) == 12 - len(" yyyyy") - 1
    assert scored(tokenizer, one) == [" x", " yyyyy"]


def test_the_token_that_begins_texts_stays_before_a_prompt_that_is_too_long(characters: Characters) -> None:
    tokenizer = characters(bos=True)
    (one,) = encoded(tokenizer, Question(prompt="0123456789" * 3, candidates=(" x", " yyyyy"), correct=(0,)), max_length=12)
    (example,) = one.examples
    assert text(tokenizer, example.prompt_ids) == "<s>6789"
    assert scored(tokenizer, one) == [" x", " yyyyy"]


def test_a_prompt_that_repeats_itself_is_no_prompt_that_was_cut(characters: Characters) -> None:
    tokenizer = characters()
    (one,) = encoded(tokenizer, Question(prompt="aaa", candidates=("b", "c"), correct=(0,)))
    # "a" merges with "b" alone, so that the prompt of "c" is longer by one
    (example,) = one.examples
    assert [text(tokenizer, (*example.prompt_ids, *ids[:-1])) for ids in example.completion_ids] == ["aaab", "aaac"]
    assert scored(tokenizer, one) == ["ab", "c"]


def test_what_happens_to_candidates_is_counted_once_a_question(characters: Characters) -> None:
    tokenizer = characters()
    encoder = Encoder(tokenizer, format="auto", max_length=12, overflow="trim")
    several = [
        Question(prompt="0123456789" * 3, candidates=(" x", " y", " z"), correct=(0,)),
        Question(prompt=f"q{tokenizer.eos_token}", candidates=(" x", " y", " z"), correct=(0,)),
        Question(prompt="qa", candidates=("b", "bc", "d"), correct=(0,)),
    ]
    assert [one.key for one in encode_questions(several, encoder)] == [0, 2]
    report = encoder.report
    assert (report.dropped, report.trimmed_prompts, report.boundary_merges) == ({"special_token_in_text": 1}, 1, 1)


def test_a_question_knows_what_ends_its_candidates(characters: Characters) -> None:
    tokenizer = characters()
    (one,) = encoded(tokenizer, Question(prompt="q", candidates=(" a", " b" * 30), correct=(0,)), max_length=12)
    assert one.terminator == tokenizer.eos_token_id
    assert [ids[-1] == one.terminator for ids in one.examples[0].completion_ids] == [True, False], "the second one was cut"
    assert one.spans[0] == (0, 2)
