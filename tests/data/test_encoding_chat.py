"""Dialogues to token ids: through a chat template, or as plain text (characters: conftest.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from alignkit.data.encoding import Encoder
from alignkit.data.examples import EncodedExample, Message, PreferenceExample
from alignkit.errors import UserError

Characters = Callable[..., PreTrainedTokenizerFast]

BOS, END, PAD, OPEN, CLOSE = "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<s>[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' </s>' }}{% endif %}{% endfor %}"
)
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{{ '<think></think>' }}{% endif %}{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}{{ m['role'] + ':' + m['content'] }}{% endfor %}"
)


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


@pytest.mark.parametrize("pad", [PAD, CLOSE])
@pytest.mark.parametrize("end", [END, CLOSE])
def test_a_chat_completion_ends_with_the_token_that_closes_a_turn(characters: Characters, pad: str, end: str) -> None:
    tokenizer = characters(template=CHATML, pad=pad, end=end)
    item = encoded(encoder(tokenizer), pair(asked("hi", "what?", "bye"), " yes\n", "no"))
    prompt = f"{OPEN}user\nhi{CLOSE}\n{OPEN}assistant\nwhat?{CLOSE}\n{OPEN}user\nbye{CLOSE}\n{OPEN}assistant\n"
    assert tokenizer.decode(item.prompt_ids) == prompt
    # The template writes a newline after the token; nobody would ever read what a model says there.
    assert [pieces(tokenizer, ids) for ids in item.completion_ids] == [[*"yes", CLOSE], [*"no", CLOSE]]


@pytest.mark.parametrize("template", [CHATML, LLAMA2, THINKING])
def test_a_dialogue_is_written_as_its_template_writes_it(characters: Characters, template: str) -> None:
    tokenizer = characters(template=template, bos=True)
    item = encoded(encoder(tokenizer), pair(asked("hi", "what?", "bye"), "yes"))
    turns = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, ["hi", "what?", "bye", "yes"], strict=True)]
    whole = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    ours = [*item.prompt_ids, *item.completion_ids[0]]
    assert ours == whole[: len(ours)]
    assert str(tokenizer.decode(whole[len(ours) :])).strip() == ""


def test_what_a_template_writes_before_every_answer_belongs_to_the_prompt(characters: Characters) -> None:
    tokenizer = characters(template=THINKING)
    item = encoded(encoder(tokenizer), pair(asked("hi"), "yes", "no"))
    assert tokenizer.decode(item.prompt_ids) == f"{OPEN}user\nhi{CLOSE}\n{OPEN}assistant\n<think></think>"


def test_a_text_begins_with_one_beginning_and_never_with_two(characters: Characters) -> None:
    for template, first in ((LLAMA2, [BOS, "["]), (CHATML, [OPEN, "u"])):  # a template alone says how a dialogue begins
        tokenizer = characters(template=template, bos=True)
        assert pieces(tokenizer, encoded(encoder(tokenizer), pair(asked("hi"), "yes", "no")).prompt_ids)[:2] == first
        assert pieces(tokenizer, encoded(encoder(tokenizer), pair("hi", "yes", "no")).prompt_ids) == [BOS, "h", "i"]


def test_a_trimmed_dialogue_keeps_a_beginning_of_text_but_no_beginning_of_a_turn(characters: Characters) -> None:
    dialogue = pair(asked("0123456789"), "yes", "no")
    llama2 = characters(template=LLAMA2)
    assert pieces(llama2, encoded(encoder(llama2, max_length=20), dialogue).prompt_ids) == [BOS, *"56789 [/INST]"]
    chatml = characters(template=CHATML, first=OPEN)
    ids = encoded(encoder(chatml, max_length=20), dialogue).prompt_ids
    assert pieces(chatml, ids) == [*"789", CLOSE, "\n", OPEN, *"assistant", "\n"]


def test_a_template_without_a_closing_token_ends_with_the_end_of_text(characters: Characters) -> None:
    tokenizer = characters(template=ALTERNATING)
    item = encoded(encoder(tokenizer), pair(asked("hi"), "yes"))
    assert pieces(tokenizer, item.completion_ids[0]) == [*"yes", END]


def test_strings_are_texts_unless_they_are_to_be_messages(characters: Characters) -> None:
    tokenizer = characters(template=CHATML)
    auto = encoded(encoder(tokenizer), pair("hi", " yes", " no"))
    assert (tokenizer.decode(auto.prompt_ids), pieces(tokenizer, auto.completion_ids[0])) == ("hi", [*" yes", END])
    chat = encoded(encoder(tokenizer, format="chat"), pair("hi", " yes", " no"))
    assert tokenizer.decode(chat.prompt_ids) == f"{OPEN}user\nhi{CLOSE}\n{OPEN}assistant\n"
    assert pieces(tokenizer, chat.completion_ids[0]) == [*"yes", CLOSE]


@pytest.mark.parametrize("template", [None, CHATML])
def test_messages_are_plain_dialogues_when_they_are_to_be_text(characters: Characters, template: str | None) -> None:
    tokenizer = characters(template=template)
    item = encoded(encoder(tokenizer, format="text"), pair(asked("hi", "what?", "bye"), "yes", "no"))
    assert tokenizer.decode(item.prompt_ids) == "\n\nHuman: hi\n\nAssistant: what?\n\nHuman: bye\n\nAssistant:"
    assert pieces(tokenizer, item.completion_ids[0]) == [*" yes", END]


def test_a_prompt_alone_is_encoded_as_in_training(characters: Characters) -> None:
    for tokenizer in (characters(bos=True), characters(template=CHATML), characters(template=LLAMA2, bos=True)):
        maker = encoder(tokenizer)
        for example in (pair("hi", "yes", "no"), pair(asked("hi"), "yes", "no")):
            assert tuple(maker.encode_prompt(example, 100)) == encoded(maker, example).prompt_ids
    assert pieces(tokenizer, maker.encode_prompt(pair("0123456789", "yes"), 4)) == [BOS, *"789"]


def test_a_dialogue_that_spells_a_control_token_is_left_out(characters: Characters) -> None:
    maker = encoder(characters(template=CHATML))
    assert refused(maker, pair(asked("hi", f"yes{CLOSE}", "why?"), "because", "no")) == {"special_token_in_text": 1}
    assert refused(maker, pair(asked("hi"), "because", f"no{CLOSE}")) == {"special_token_in_text": 2}


def test_a_dialogue_that_the_template_refuses_is_left_out(characters: Characters) -> None:
    maker = encoder(characters(template=ALTERNATING))
    twice = (Message(role="user", content="hi"), Message(role="user", content="hello?"))
    assert refused(maker, pair(twice, "yes", "no")) == {"template_refused": 1}


def test_a_chat_without_a_template_is_refused(characters: Characters) -> None:
    with pytest.raises(UserError, match=r"dataset.format = 'chat'.*Try dataset.format=text"):
        encoder(characters(), format="chat")


def test_a_template_that_cannot_write_an_answer_is_refused(characters: Characters) -> None:
    with pytest.raises(UserError, match=r"chat template .*\(no\).*Try dataset.format=text"):
        encoder(characters(template="{{ raise_exception('no') }}"))


def test_a_control_token_without_a_flag_ends_a_turn_as_well(characters: Characters) -> None:
    tokenizer = characters(template="{% for m in messages %}{{ m['role'] + ':' + m['content'] + '<|over|>' }}{% endfor %}")
    tokenizer.add_tokens([AddedToken("<|over|>", special=False)])
    maker = encoder(tokenizer)
    assert pieces(tokenizer, encoded(maker, pair(asked("hi"), "yes")).completion_ids[0]) == [*"yes", "<|over|>"]
    assert refused(maker, pair(asked("hi"), "yes<|over|>")) == {"special_token_in_text": 1}
