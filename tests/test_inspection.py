"""What the data of a run become under its tokenizer, in numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.inspection import Spread, count_ends, layout_cost, spread, token_texts
from alignkit.models.loading import load_tokenizer
from alignkit.models.location import locate


@pytest.fixture(scope="module")
def tiny() -> PreTrainedTokenizerBase:
    return load_tokenizer("model.path", locate("model.path", "builtin:tiny"))


def test_a_spread_holds_lengths_that_occur() -> None:
    assert spread(list(range(100, 0, -1))) == Spread(low=1, median=50, high=95, longest=100)
    assert spread([7]) == Spread(low=7, median=7, high=7, longest=7)
    assert spread([1, 2, 9]) == Spread(low=1, median=2, high=9, longest=9)


def test_ends_and_beginnings_are_counted(tiny: PreTrainedTokenizerBase) -> None:
    bos, end = int(tiny.bos_token_id), int(tiny.eos_token_id)  # type: ignore[arg-type]

    def example(prompt: tuple[int, ...], *completions: tuple[int, ...]) -> EncodedExample:
        return EncodedExample(key=0, prompt_ids=prompt, completion_ids=completions)

    examples = [example((bos, 9), (8, end), (8, 8)), example((bos, bos, 9), (end, end), (end,)), example((9, bos), (end, 8), (8, end))]
    ends = count_ends(examples, tiny, end)
    assert (ends.completions, ends.terminated, ends.early) == (6, 4, 2)
    assert (ends.prompts, ends.begun, ends.begun_twice) == (3, 2, 1)
    assert (ends.terminator, ends.bos) == ("<|end|>", "<|bos|>")


def test_positions_are_counted_with_padding_and_tokens_without() -> None:
    examples = [
        EncodedExample(key=0, prompt_ids=(5, 6, 7), completion_ids=((8, 9), (8,))),
        EncodedExample(key=1, prompt_ids=(5,), completion_ids=((8, 9), (8,))),
    ]
    packed = layout_cost(examples, Packing(layout="packed", tokens=100, row_tokens=16), 2, 3, seed=0)
    rows = layout_cost(examples, Packing(layout="rows", tokens=100), 2, 3, seed=0)
    # A step packed: one row of 3 + 2 + 1 and 1 + 2 + 1. In rows: 5, 4, 3 and 2 tokens, each padded to 5.
    assert (packed.micro_batches, packed.rows, packed.tokens, packed.positions) == (3, 3, 3 * 10, 3 * 10)
    assert (rows.micro_batches, rows.rows, rows.tokens, rows.positions) == (3, 12, 3 * 14, 3 * 20)


def test_the_texts_of_the_tokens_are_the_text(tiny: PreTrainedTokenizerBase) -> None:
    text = " The film, 中文 🙂 and\n\nça va"
    ids: Any = tiny(text)["input_ids"]
    texts = token_texts(tiny, ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == "<|bos|>" + text
    assert "中" in texts, "a character of three tokens is told by its last one"


@pytest.mark.real
def test_sentencepiece_tokens_keep_their_spaces(shared: Path) -> None:
    tokenizer = load_tokenizer("model.path", str(shared / "models" / "stories260k"))
    ids: Any = tokenizer("Once upon a time, é")["input_ids"]
    texts = token_texts(tokenizer, ids)
    assert "".join(texts) == "Once upon a time, é"
    assert texts[1].startswith(" u")
