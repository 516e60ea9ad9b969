"""Through any chat template a dialogue becomes one text: its tokens, one terminator, and no control token that the data spelt out."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from alignkit.data.dropping import REASONS
from alignkit.data.encoding import Encoder
from alignkit.data.examples import EncodedExample, Message, PreferenceExample
from alignkit.errors import UserError

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from hostile import mutated
from trials import fuzz, outcome

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set about = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set rest = messages %}{% set about = '' %}{% endif %}{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '<s>[INST] ' + (about if loop.first else '') + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' </s>' }}{% endif %}{% endfor %}"
)
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content | replace('<think>', '') | trim }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think></think>' }}{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
"""Nothing stands between turns."""
TEMPLATES = (CHATML, LLAMA2, THINKING, PLAIN)
SPECIAL = ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|file|>")
PIECES = (
    *(
        "a",
        "b",
        "ab",
        " ",
        "\n",
        "<",
        "|>",
        "<|",
        "im_",
        "end|>",
        "<|im_",
        "</",
        "s>",
        "<think>",
        "</think>",
        "[INST]",
        "[/INST]",
        "<<SYS>>",
    ),
    *("{{ 1 }}", "{% x", "assistant\n", "user", "</s>", "<|im_end|>", "<|file|>"),
)
CONTENTS = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)
TURNS = st.lists(st.builds(Message, role=st.sampled_from(["user", "user", "assistant", "system"]), content=CONTENTS), max_size=4).map(tuple)
EXAMPLES = st.builds(
    PreferenceExample, prompt=TURNS | CONTENTS, completions=st.lists(CONTENTS, min_size=1, max_size=3, unique=True).map(tuple)
)
JINJA = st.lists(
    st.sampled_from(
        [
            *("{% for m in messages %}", "{% endfor %}", "{{ m.content }}", "{{ m['role'] }}", "{{ m.content | trim }}", "{{ bos_token }}"),
            *("{{ eos_token }}", "<|im_start|>", "<|im_end|>", "\n", ":", "{% if add_generation_prompt %}", "{% if m.role == 'user' %}"),
            *("{% else %}", "{% endif %}", "{{ raise_exception('no') }}", "{{ messages[0].content }}", "{{ x.y }}", "{{ m.content[:3] }}"),
            *("{{ m.content | upper }}", "{% set x = 1 %}", "{{ loop.index }}", "{{ 1 / 0 }}", "{{ messages | length }}", "{#", "{{ x"),
        ]
    ),
    max_size=8,
).map("".join)


@pytest.fixture(scope="module")
def characters() -> Callable[..., PreTrainedTokenizerFast]:
    """The tokenizer of `tests/data`: one token a printable character, the merge `ab`, and control tokens."""
    spec = importlib.util.spec_from_file_location("data_conftest", Path(__file__).parents[1] / "data" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    build: Callable[..., PreTrainedTokenizerFast] = module.build_characters
    return build


def control_tokens(tokenizer: PreTrainedTokenizerFast, ids: tuple[int, ...]) -> int:
    numbers = {tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    return sum(number in numbers for number in ids)


def check(encoder: Encoder, given: PreferenceExample) -> EncodedExample | None:
    """What becomes of an example, with all that must hold of it."""
    encoder.report.dropped.clear()
    encoded = encoder.encode(0, given)
    if encoded is None:
        (reason,) = encoder.report.dropped
        assert reason in REASONS
        return None
    tokenizer = encoder.tokenizer
    prompt, completions, terminator = encoder.render(given)
    is_chat = encoder.uses_template and (encoder.strings_are_messages or not isinstance(given.prompt, str))
    begin = [] if is_chat else encoder.bos
    for completion, ids in zip(completions, encoded.completion_ids, strict=True):
        whole = [*begin, *tokenizer(prompt + completion, add_special_tokens=False)["input_ids"], terminator]
        assert [*encoded.prompt_ids, *ids] == whole, "prompt and completion are not the tokens of one text"
        after = tokenizer(encoder.turn.after, add_special_tokens=False)["input_ids"] if is_chat else []
        assert ids.count(terminator) == 1 + after.count(terminator)
        assert control_tokens(tokenizer, ids) == 1 + control_tokens(tokenizer, after), "a completion spells a control token"
    written = tokenizer.apply_chat_template(neutral(given), tokenize=False, add_generation_prompt=True) if is_chat else ""
    own = control_tokens(tokenizer, tuple(tokenizer(written, add_special_tokens=False)["input_ids"])) + len(begin)
    lead = control_tokens(tokenizer, tuple(tokenizer(encoder.turn.before, add_special_tokens=False)["input_ids"])) if is_chat else 0
    assert control_tokens(tokenizer, encoded.prompt_ids) == own + lead, "a prompt holds a control token that its template did not write"
    return encoded


def neutral(given: PreferenceExample) -> list[dict[str, str]]:
    """The dialogue with a word for each content."""
    turns = (Message(role="user", content=given.prompt),) if isinstance(given.prompt, str) else given.prompt
    return [{"role": turn.role, "content": "a" if turn.content.strip() else turn.content} for turn in turns]


@pytest.mark.parametrize("template", TEMPLATES, ids=["chatml", "llama2", "thinking", "plain"])
def test_no_text_of_the_data_becomes_a_control_token(template: str, characters: Callable[..., PreTrainedTokenizerFast]) -> None:
    encoder = Encoder(characters(template=template, bos=True), format="auto", max_length=100_000, overflow="trim")
    hello = (Message(role="user", content="hello"),)
    split = (Message(role="user", content="<|im_<think>end|>"),)
    apart = (Message(role="user", content="b<|im_"), Message(role="user", content="end|>"))

    @fuzz(60)
    @given(given=EXAMPLES)
    @example(given=PreferenceExample(prompt=(), completions=("a", "b")))  # transformers: ValueError
    @example(given=PreferenceExample(prompt=split, completions=("a", "b")))  # a template that takes words out joins the rest
    @example(given=PreferenceExample(prompt=apart, completions=("a", "b")))
    def on(given: PreferenceExample) -> None:
        check(encoder, given)

    assert check(encoder, PreferenceExample(prompt=hello, completions=("a", "b"))) is not None
    on()


@fuzz(120)
@given(
    template=JINJA | st.sampled_from(TEMPLATES).flatmap(lambda text: mutated(text.encode())).map(lambda b: b.decode("utf-8", "replace")),
    given=EXAMPLES,
)
@example(template="{{ 1 / 0 }}", given=PreferenceExample(prompt="a", completions=("b",)))
@example(template="{{ messages[7].content }}", given=PreferenceExample(prompt="a", completions=("b",)))
@example(template="{% for m in messages %}{{ m.content }}", given=PreferenceExample(prompt="a", completions=("b",)))
@example(template="{{ messages[0].content + 1 }}", given=PreferenceExample(prompt="a", completions=("b",)))
def test_any_template_encodes_or_says_why_not(
    template: str, given: PreferenceExample, characters: Callable[..., PreTrainedTokenizerFast]
) -> None:
    encoder = outcome(lambda: Encoder(characters(template=template), format="chat", max_length=100_000, overflow="trim"))
    if isinstance(encoder, UserError):
        assert "chat template" in str(encoder)
        return
    encoded = encoder.encode(0, given)
    if encoded is not None:
        assert encoded.prompt_ids
        assert all(ids[-1] == encoder.turn.terminator for ids in encoded.completion_ids)
