"""Prompts of files, lines and data sets, as the model reads them."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import datasets
import pytest
from transformers import PreTrainedTokenizerBase

from alignkit.command_line import precheck
from alignkit.data.encoding import Encoder
from alignkit.data.examples import Message, PreferenceExample
from alignkit.errors import UserError
from alignkit.generation.prompt_reading import Prompt, PromptReader, read_prompts
from alignkit.settings import RunSettings

TEMPLATE = "{% for m in messages %}{{ '<s> ' + m['content'] + ' </s> ' }}{% endfor %}{% if add_generation_prompt %}{{ '<s> ' }}{% endif %}"


@pytest.fixture(scope="module")
def settings() -> RunSettings:
    return precheck(["dataset.pairs=6", "dataset.validation_examples=4"])[0]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)


def asked(prompts: str, settings: RunSettings) -> list[object]:
    return [prompt.example.prompt for prompt in read_prompts(prompts, settings)]


def prompt(content: str | tuple[Message, ...], place: str = "here") -> Prompt:
    return Prompt(example=PreferenceExample(prompt=content, completions=()), place=place)


@pytest.fixture
def reader(tokenizer_factory) -> PromptReader:
    return PromptReader(Encoder(tokenizer_factory(), format="auto", max_length=64, overflow="trim"), room=4)


@pytest.fixture
def chat_tokenizer(tokenizer_factory) -> PreTrainedTokenizerBase:
    tokenizer = tokenizer_factory()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_lines_of_text_are_prompts_and_empty_ones_are_not(settings: RunSettings) -> None:
    Path("a.txt").write_bytes("\ufeffone \r\n\n two\n".encode())
    with gzip.open("b.txt.gz", "wt") as file:
        file.write("three")
    assert asked("a.txt", settings) == ["one ", " two"]
    assert asked("b.txt.gz", settings) == ["three"]
    assert [prompt.place for prompt in read_prompts("a.txt", settings)] == ["prompts = a.txt, line 1", "prompts = a.txt, line 3"]


def test_standard_input_is_lines_of_text(settings: RunSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    assert asked("-", settings) == ["one", "two"]


def test_tables_have_a_column_of_prompts_as_text_or_messages(settings: RunSettings) -> None:
    Path("a.jsonl").write_text('{"prompt": "a\\nb", "x": 1}\n{"prompt": "c", "x": 2}\n')
    Path("b.csv").write_text('x,prompt\n1,"a, b"\n')
    Path("c.jsonl").write_text(json.dumps({"prompt": [{"role": "user", "content": "Hi"}]}) + "\n")
    assert asked("a.jsonl", settings) == ["a\nb", "c"]
    assert asked("b.csv", settings) == ["a, b"]
    assert asked("c.jsonl", settings) == [(Message(role="user", content="Hi"),)]


def test_a_data_set_gives_its_held_out_prompts_or_those_to_train_on_each_once(settings: RunSettings) -> None:
    held_out, training = asked("dataset", settings), asked("dataset:train", settings)
    assert (len(held_out), len(training)) == (4, 6)
    assert not {*held_out} & {*training}
    rows = [{"prompt": f"p{number // 2}", "chosen": " a", "rejected": f" b{number}"} for number in range(8)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (local,) = precheck(["dataset=local", "dataset.path=pairs.jsonl", "dataset.validation_examples=2"])
    assert sorted(map(str, [*asked("dataset", local), *asked("dataset:train", local)])) == ["p0", "p1", "p2", "p3"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"promt": "a"}\n', "prompts = a.jsonl: no column 'prompt'; found 'promt'. Did you mean 'promt'?"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": null}\n', "prompts = a.jsonl, line 2: 'prompt' is null"),
        ("a.jsonl", '{"prompt": [{"role": "me", "content": "a"}]}\n', "has the role 'me'"),
        ("a.bin", b"\xff\xfe\x00", "prompts = a.bin, line 1 is not UTF-8 (byte 1 of the line is 0xff). A file of prompts must hold"),
        ("b.jsonl", "", "prompts = a.jsonl: no such file. In . there is b.jsonl"),
    ],
)
def test_a_file_without_prompts_is_refused(settings: RunSettings, name: str, content: str | bytes, words: str) -> None:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        asked(name if name != "b.jsonl" else "a.jsonl", settings)
    assert words in str(error.value)


def test_long_prompts_lose_their_oldest_tokens_and_are_counted(reader: PromptReader) -> None:
    assert reader(prompt("w5 w6").example) == (5, 6)
    assert reader.trimmed == 0
    assert reader(prompt("w5 w6 w7 w8 w9 w10").example) == (7, 8, 9, 10)
    assert reader.trimmed == 1


def test_a_control_token_in_a_prompt_is_refused_in_a_file_and_left_out_of_a_data_set(reader: PromptReader) -> None:
    good, bad = prompt("w5"), prompt("w5 </s> w6", "prompts = a.txt, line 2")
    with pytest.raises(UserError, match=r"prompts = a.txt, line 2: a text spells one of the tokenizer's control tokens"):
        reader.usable([good, bad], strict=True)
    assert reader.usable([good, bad], strict=False) == [good]
    assert reader.left_out == {"special_token_in_text": 1}
    with pytest.raises(UserError, match="there is none that can be used"):
        reader.usable([bad], strict=False)
    with pytest.raises(UserError, match=r"control tokens\. Change the prompt"):
        reader(bad.example)


def test_a_prompt_without_tokens_is_refused(reader: PromptReader) -> None:
    with pytest.raises(UserError, match="nothing stands before the completions"):
        reader.usable([prompt("")], strict=True)


def test_prompts_of_two_kinds_would_need_two_terminators(chat_tokenizer: PreTrainedTokenizerBase) -> None:
    chat_tokenizer.chat_template = TEMPLATE.replace("</s>", "w3")
    chat_tokenizer.add_special_tokens({"additional_special_tokens": ["w3"]})
    reader = PromptReader(Encoder(chat_tokenizer, format="auto", max_length=64, overflow="trim"), room=60)
    chat, text = prompt((Message(role="user", content="w5"),), "line 1"), prompt("w5", "line 2")
    with pytest.raises(UserError, match="line 2 holds text, and line 1 chat messages"):
        reader.usable([chat, text], strict=True)
    assert reader.usable([chat, chat], strict=True) == [chat, chat]


def test_a_text_is_encoded_as_training_would(chat_tokenizer: PreTrainedTokenizerBase) -> None:
    for format, expected in (("auto", (5, 6)), ("chat", (1, 5, 6, 2, 1))):
        encoder = Encoder(chat_tokenizer, format=format, max_length=64, overflow="trim")
        reader = PromptReader(encoder, room=60)
        text = prompt("w5 w6").example
        assert reader(text) == expected
        encoded = encoder.encode(0, PreferenceExample(prompt="w5 w6", completions=(" w7",)))
        assert encoded is not None
        assert encoded.prompt_ids == expected
        assert reader.joins(text) == (format == "auto")
