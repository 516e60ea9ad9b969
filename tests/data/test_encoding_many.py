"""Many examples at once are encoded as each of them would be alone (characters: conftest.py)."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

import alignkit.data.encoding
from alignkit.data.encoding import Encoder
from alignkit.data.examples import Message, PreferenceExample

Characters = Callable[..., PreTrainedTokenizerFast]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<s>[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' </s>' }}{% endif %}{% endfor %}"
)


class Slow(PreTrainedTokenizer):
    """One token a printable character, in Python."""

    def __init__(self, **options: Any) -> None:
        self.characters = {character: number for number, character in enumerate(string.printable)}
        super().__init__(**options)

    @property
    def vocab_size(self) -> int:
        return len(self.characters)

    def get_vocab(self) -> dict[str, int]:
        return {**self.characters, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **options: Any) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.characters[token]

    def _convert_id_to_token(self, index: int) -> str:
        return string.printable[index]


def encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    return Encoder(tokenizer, format="auto", max_length=30, overflow="trim")


CONTENTS = st.lists(st.sampled_from(["a", "b", "ab", " ", "c ", "\n", "</s>", "<", "s>"]), max_size=9).map("".join)
PROMPTS = CONTENTS | CONTENTS.map(lambda content: (Message(role="user", content=content),))
EXAMPLES = st.lists(
    st.builds(
        PreferenceExample,
        prompt=PROMPTS,
        completions=st.lists(CONTENTS, min_size=1, max_size=3).map(tuple),
        margin=st.sampled_from([0.0, 1.5]),
    ),
    max_size=7,
)


@pytest.fixture(scope="module", params=["text", "chatml", "llama2", "slow"])
def tokenizer(request: pytest.FixtureRequest, characters: Characters) -> PreTrainedTokenizerBase:
    if request.param == "slow":
        return Slow(bos_token="<s>", eos_token="</s>", chat_template=LLAMA2)
    return characters(bos=request.param != "chatml", template={"chatml": CHATML, "llama2": LLAMA2}.get(request.param))


@settings(deadline=None, max_examples=60)
@given(examples=EXAMPLES)
def test_many_examples_become_what_each_is_alone(tokenizer: PreTrainedTokenizerBase, examples: list[PreferenceExample]) -> None:
    together, alone = encoder(tokenizer), encoder(tokenizer)
    with mock.patch.object(alignkit.data.encoding, "TOGETHER", 3):
        made = together.encode_all({7 * place: example for place, example in enumerate(examples)})
    expected = [alone.encode(7 * place, example) for place, example in enumerate(examples)]
    assert made == [item for item in expected if item is not None]
    assert together.report == alone.report


@settings(deadline=None, max_examples=60)
@given(examples=EXAMPLES)
def test_an_example_is_the_tokens_of_its_whole_texts(tokenizer: PreTrainedTokenizerBase, examples: list[PreferenceExample]) -> None:
    maker = Encoder(tokenizer, format="auto", max_length=10_000, overflow="trim")
    for item in maker.encode_all(dict(enumerate(examples))):
        prompt, completions, terminator = maker.render(examples[item.key])
        begin = maker.bos if isinstance(examples[item.key].prompt, str) or not maker.uses_template else []
        for completion, ids in zip(completions, item.completion_ids, strict=True):
            assert [*item.prompt_ids, *ids] == [*begin, *tokenizer(prompt + completion, add_special_tokens=False)["input_ids"], terminator]


def test_the_tokenizer_is_asked_once_for_each_distinct_text(characters: Characters) -> None:
    maker = encoder(characters(template=CHATML))
    question = (Message(role="user", content="why"),)
    examples = [PreferenceExample(prompt=question, completions=("yes", answer)) for answer in ("no", "never")]
    with mock.patch.object(maker, "tokenizer", wraps=maker.tokenizer) as asked:
        assert len(maker.encode_all(dict(enumerate(examples)))) == 2
    (call,) = asked.call_args_list
    invitation = "<|im_start|>assistant\n"
    assert call.args[0] == ["<|im_start|>user\nwhy<|im_end|>\n", *(invitation + end for end in ("", "yes", "no", "never"))]


def test_a_control_token_that_eats_white_space_before_it_is_no_place_to_cut(characters: Characters) -> None:
    tokenizer = characters(template="{% for m in messages %}{{ m['content'] + ' <|turn|>' }}{% endfor %}")
    tokenizer.add_tokens([AddedToken("<|turn|>", special=True, lstrip=True, normalized=False)], special_tokens=True)
    (item,) = encoder(tokenizer).encode_all(
        {0: PreferenceExample(prompt=(Message(role="user", content="why"),), completions=("yes", "no"))}
    )
    assert [tokenizer.decode([token]) for token in item.prompt_ids] == ["w", "h", "y", "<|turn|>"]
