"""Text to token ids: where the boundary is, what ends a completion, what is cut and what is left out.

Most facts are computed by hand with a tokenizer that has one token a character and a single merge, `a` + `b` (conftest.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from alignkit.data.encoding import Encoder
from alignkit.data.examples import EncodedExample, Message, PreferenceExample
from alignkit.errors import UserError
from alignkit.models.loading import load_tokenizer
from alignkit.models.location import locate

Characters = Callable[..., PreTrainedTokenizerFast]

BOS, END, PAD, CLOSE, ROLELESS = "<s>", "</s>", "<pad>", "<|im_end|>", "<|file|>"


def encoder(tokenizer: PreTrainedTokenizerBase, *, format: str = "auto", max_length: int = 1000, overflow: str = "trim") -> Encoder:
    return Encoder(tokenizer, format=format, max_length=max_length, overflow=overflow)


def pair(prompt: str | tuple[Message, ...], *completions: str) -> PreferenceExample:
    return PreferenceExample(prompt=prompt, completions=completions)


def asked(*contents: str) -> tuple[Message, ...]:
    """A dialogue in which user and assistant take turns, the user first."""
    return tuple(Message(role="assistant" if turn % 2 else "user", content=content) for turn, content in enumerate(contents))


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    return [str(tokenizer.decode([token])) for token in ids]


def encoded(maker: Encoder, example: PreferenceExample) -> EncodedExample:
    item = maker.encode(0, example)
    assert item is not None, maker.report
    return item


def refused(maker: Encoder, example: PreferenceExample) -> dict[str, int]:
    assert maker.encode(0, example) is None
    return dict(maker.report.dropped)


# The boundary


def test_between_two_tokens_the_boundary_is_where_the_texts_meet(characters: Characters) -> None:
    tokenizer = characters()
    maker = encoder(tokenizer)
    item = encoded(maker, pair("ca", "cab", "!"))
    assert pieces(tokenizer, item.prompt_ids) == ["c", "a"]
    assert [pieces(tokenizer, ids) for ids in item.completion_ids] == [["c", "ab", END], ["!", END]]
    assert maker.report.boundary_merges == 0


def test_a_token_merged_across_the_boundary_belongs_to_the_completion_and_to_its_sibling(characters: Characters) -> None:
    tokenizer = characters()
    maker = encoder(tokenizer)
    item = encoded(maker, pair("ca", "b", "c"))
    assert pieces(tokenizer, item.prompt_ids) == ["c"]
    assert [pieces(tokenizer, ids) for ids in item.completion_ids] == [["ab", END], ["a", "c", END]]
    assert maker.report.boundary_merges == 1


def test_a_merge_inside_the_prompt_is_no_boundary_merge(characters: Characters) -> None:
    maker = encoder(characters())
    encoded(maker, pair("cab", "b", "c"))
    assert maker.report.boundary_merges == 0


def test_a_prompt_that_ends_with_a_space_gives_it_to_the_first_word() -> None:
    tokenizer = load_tokenizer("model.path", locate("model.path", "builtin:tiny"))
    maker = encoder(tokenizer)
    item = encoded(maker, pair("Review: ", "The film", "A film"))
    assert tokenizer.decode(item.prompt_ids, skip_special_tokens=True) == "Review:"
    assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in item.completion_ids] == [" The film", " A film"]
    assert maker.report.boundary_merges == 1


# Whole texts survive, whatever the tokenizer merges


@pytest.fixture(scope="module")
def merging() -> PreTrainedTokenizerFast:
    """Byte-level BPE that merges across words and punctuation, and adds a beginning-of-text token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[BOS, END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["the cat sat on the mat. ", "a cat on a mat? no, no! ", "Ça va\n\nça va bien\n\n"] * 20, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=END, clean_up_tokenization_spaces=False)


WORDS = st.lists(st.sampled_from(["the", " ", "cat", "a", "t", ".", "\n", "ça", "no, no!", " mat"])).map("".join)
TEXTS = st.text(max_size=12) | WORDS
COMPLETIONS = st.lists(TEXTS.filter(bool), min_size=1, max_size=3, unique=True).map(tuple)


@given(prompt=TEXTS, completions=COMPLETIONS)
@settings(max_examples=300, deadline=None)
def test_prompt_and_completion_are_the_tokens_of_the_whole_text(
    merging: PreTrainedTokenizerFast, prompt: str, completions: tuple[str, ...]
) -> None:
    item = encoded(encoder(merging), pair(prompt, *completions))
    for completion, ids in zip(completions, item.completion_ids, strict=True):
        whole = [*item.prompt_ids, *ids[:-1]]
        assert whole == merging(prompt + completion)["input_ids"]
        assert merging.decode(whole, skip_special_tokens=True) == prompt + completion
        assert ids[-1] == merging.eos_token_id
        assert merging.eos_token_id not in whole


@pytest.mark.real
@given(prompt=TEXTS, completions=COMPLETIONS)
@settings(max_examples=150, deadline=None)
def test_a_sentencepiece_tokenizer_keeps_whole_texts_too(shared: Path, prompt: str, completions: tuple[str, ...]) -> None:
    tokenizer = load_tokenizer("model.path", str(shared / "models" / "stories260k"))
    maker = encoder(tokenizer)
    prompt = f"Once upon a time{prompt}"  # it adds no beginning of text, so something must stand there
    item = maker.encode(0, pair(prompt, *completions))
    if item is None:  # two texts may be one to it
        assert dict(maker.report.dropped) == {"identical": 1}
        assert len({tuple(tokenizer(prompt + completion)["input_ids"]) for completion in completions}) < len(completions)
        return
    for completion, ids in zip(completions, item.completion_ids, strict=True):
        assert [*item.prompt_ids, *ids[:-1]] == tokenizer(prompt + completion)["input_ids"]
        assert ids[-1] == tokenizer.eos_token_id


@given(prompt=TEXTS, completions=COMPLETIONS, max_length=st.integers(8, 30), bos=st.booleans())
@settings(max_examples=300, deadline=None)
def test_what_is_cut_is_a_part_of_the_whole_and_fits(
    characters: Characters, prompt: str, completions: tuple[str, ...], max_length: int, bos: bool
) -> None:
    tokenizer = characters(bos=bos)
    whole = encoder(tokenizer).encode(0, pair(prompt, *completions))
    maker = encoder(tokenizer, max_length=max_length)
    cut = maker.encode(0, pair(prompt, *completions))
    if whole is None or cut is None:
        assert cut is None
        return
    kept = cut.prompt_ids[bos:]
    assert cut.prompt_ids
    assert whole.prompt_ids[len(whole.prompt_ids) - len(kept) :] == kept
    assert not bos or cut.prompt_ids[0] == tokenizer.bos_token_id
    assert maker.report.trimmed_prompts == (cut.prompt_ids != whole.prompt_ids)
    assert maker.report.cut_completions == sum(map(int.__lt__, map(len, cut.completion_ids), map(len, whole.completion_ids)))
    for ids, full in zip(cut.completion_ids, whole.completion_ids, strict=True):
        assert ids
        assert ids == full[: len(ids)]
        assert len(cut.prompt_ids) + len(ids) <= max_length
        assert (ids[-1] == tokenizer.eos_token_id) == (ids == full)


# Answers first


def test_the_oldest_prompt_tokens_go_first_and_the_beginning_of_text_stays(characters: Characters) -> None:
    tokenizer = characters(bos=True)
    maker = encoder(tokenizer, max_length=12)
    item = encoded(maker, pair("0123456789", "xyz", "z"))
    # 12 less "xyz" and its terminator leaves 8: the beginning-of-text token and the newest 7.
    assert pieces(tokenizer, item.prompt_ids) == [BOS, *"3456789"]
    assert [pieces(tokenizer, ids) for ids in item.completion_ids] == [["x", "y", "z", END], ["z", END]]
    assert (maker.report.trimmed_prompts, maker.report.cut_completions) == (1, 0)


def test_a_prompt_keeps_a_quarter_and_a_completion_that_is_cut_has_no_terminator(characters: Characters) -> None:
    tokenizer = characters()
    maker = encoder(tokenizer, max_length=12)
    item = encoded(maker, pair("0123456789", "abcdefghijk!", "z"))
    assert pieces(tokenizer, item.prompt_ids) == [*"789"]
    assert [pieces(tokenizer, ids) for ids in item.completion_ids] == [["ab", *"cdefghij"], ["z", END]]
    assert (maker.report.trimmed_prompts, maker.report.cut_completions) == (1, 1)


def test_a_prompt_below_a_quarter_is_left_whole(characters: Characters) -> None:
    tokenizer = characters()
    maker = encoder(tokenizer, max_length=12)
    item = encoded(maker, pair("89", "0123456789"))
    # 2 and 10 and a terminator are one too many: it is the terminator that goes, and nothing takes its place.
    assert pieces(tokenizer, item.prompt_ids) == ["8", "9"]
    assert pieces(tokenizer, item.completion_ids[0]) == [*"0123456789"]
    assert (maker.report.trimmed_prompts, maker.report.cut_completions) == (0, 1)


def test_what_just_fits_is_left_alone(characters: Characters) -> None:
    maker = encoder(characters(), max_length=8)
    assert encoded(maker, pair("0123", "xyz")).packed_tokens == 8
    assert (maker.report.trimmed_prompts, maker.report.cut_completions) == (0, 0)


def test_with_overflow_drop_nothing_is_cut(characters: Characters) -> None:
    maker = encoder(characters(), max_length=8, overflow="drop")
    assert refused(maker, pair("0123", "x", "wxyz")) == {"too_long": 1}
    assert encoded(maker, pair("0123", "x", "xyz")).packed_tokens == 4 + 2 + 4
    assert (maker.report.trimmed_prompts, maker.report.cut_completions) == (0, 0)


def test_completions_that_differ_only_beyond_the_cut_are_no_pair(characters: Characters) -> None:
    maker = encoder(characters(), max_length=12)
    assert refused(maker, pair("ca", "bxxxxxxxxxxxxxxx1", "bxxxxxxxxxxxxxxx2")) == {"truncated_identical": 1}
    report = maker.report
    assert (report.trimmed_prompts, report.cut_completions, report.boundary_merges) == (0, 0, 0), "these count what is kept"


# What is left out


@pytest.mark.parametrize("token", [BOS, END, PAD, CLOSE, ROLELESS])
@pytest.mark.parametrize(
    "example",
    [pair("hi {}", "yes", "no"), pair("hi", "yes{}", "no"), pair("hi", "yes", "{}no")],
    ids=["prompt", "chosen", "rejected"],
)
def test_a_text_that_spells_a_control_token_is_left_out(characters: Characters, token: str, example: PreferenceExample) -> None:
    assert isinstance(example.prompt, str)
    spelt = pair(example.prompt.format(token), *(completion.format(token) for completion in example.completions))
    assert refused(encoder(characters()), spelt) == {"special_token_in_text": 1}


def test_a_control_token_spelt_across_the_boundary_is_found(characters: Characters) -> None:
    assert refused(encoder(characters()), pair("hi <", "/s>", "no")) == {"special_token_in_text": 1}
    assert refused(encoder(characters(), format="text"), pair(asked("hi", "<s", "> what"), "yes", "</s>")) == {"special_token_in_text": 1}


def test_a_completion_needs_a_token_before_it(characters: Characters) -> None:
    assert refused(encoder(characters()), pair("", "yes", "no")) == {"empty_prompt": 1}
    assert refused(encoder(characters()), pair("a", "b", "c")) == {"empty_prompt": 1}, "the only prompt token was merged away"
    tokenizer = characters(bos=True)
    assert pieces(tokenizer, encoded(encoder(tokenizer), pair("a", "b", "c")).prompt_ids) == [BOS]


# What cannot work


def test_a_tokenizer_without_an_end_is_refused(characters: Characters) -> None:
    with pytest.raises(UserError, match="no end-of-text token"):
        encoder(characters(end=None))
