"""Held-out text from files to token ids, and what is said of files that are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from alignkit.errors import UserError
from alignkit.evaluating.held_out_text import read_held_out_text
from alignkit.models.location import locate

Write = Callable[[str, str], str]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(locate("model.path", "builtin:tiny"))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(name: str, written: str) -> str:
        (tmp_path / name).write_text(written, encoding="utf-8")
        return str(tmp_path / name)

    return to_file


def test_lines_and_rows_are_texts(write: Write, tokenizer: PreTrainedTokenizerBase) -> None:
    lines = ["The film is good.", "Café!"]
    rows = "".join(json.dumps({"text": line, "id": 1}) + "\n" for line in lines)
    by_line = read_held_out_text(write("texts.txt", "\n".join(lines) + "\n\n"), tokenizer)
    assert by_line == read_held_out_text(write("texts.jsonl", rows), tokenizer)
    # What the tokenizer makes of it by itself: this one begins a text with a token of its own, so that every byte is predicted.
    assert [list(text.ids) for text in by_line] == [tokenizer(line)["input_ids"] for line in lines]
    assert [text.bytes for text in by_line] == [17, 6]


def test_a_first_token_that_nothing_predicts_has_no_bytes(write: Write, spaceless: PreTrainedTokenizerBase) -> None:
    (text,) = read_held_out_text(write("texts.txt", "w10 w11 w12\nw13\n"), spaceless)
    assert text.ids == (10, 11, 12)
    assert text.bytes == len("w10 w11 w12") - len("w10")


@pytest.fixture
def spaceless(tokenizer_factory) -> PreTrainedTokenizerBase:
    """A tokenizer that begins texts with nothing."""
    return tokenizer_factory()


@pytest.mark.parametrize(
    ("name", "written", "message"),
    [
        ("a.jsonl", '{"text": "a b"}\n{"text": 3}\n', "line 2: 'text' is"),
        ("a.jsonl", '{"text": "a b"}\n\n{"text": "say <|end|> now"}\n', "line 3: a text spells one of the tokenizer's control tokens"),
        ("a.txt", "good\nsay <|end|> now\n", "line 2: a text spells"),
        ("a.jsonl", '{"txt": "a"}\n', "no column 'text'; found 'txt'. Did you mean 'txt'"),
        ("a.jsonl", '{"text": [{"role": "user", "content": "a"}]}\n', "line 1: 'text' holds chat messages; must be text"),
        ("a.txt", "\n\n", "holds no text of two tokens or more"),
    ],
)
def test_a_file_that_is_none_is_told(write: Write, tokenizer: PreTrainedTokenizerBase, name: str, written: str, message: str) -> None:
    path = write(name, written)
    with pytest.raises(UserError) as told:
        read_held_out_text(path, tokenizer)
    assert str(told.value).startswith(f"evaluation.text = {path}")
    assert message in str(told.value)
