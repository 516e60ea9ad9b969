"""From a source to encoded examples, with an account of everything that was left out (characters: conftest.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import pytest
from transformers import PreTrainedTokenizerFast

from alignkit.configuration import dataset_settings, packaged
from alignkit.data.dropping import REASONS
from alignkit.data.examples import PreferenceExample
from alignkit.data.forms import Form
from alignkit.data.preparation import PreparedData, prepare
from alignkit.data.sources.local import Local
from alignkit.errors import UserError

Characters = Callable[..., PreTrainedTokenizerFast]

SETTINGS = replace(
    dataset_settings(packaged("dataset")["local"], []),
    name="made",
    source="made",
    max_length=12,
    validation_examples=2,
    max_dropped=1.0,
    options={},
)
PAIRS = Form.pairs()
GOOD = ("hi", "yes", "no")
LONG = ("0123456789", "abcdefghijk!", "z")
"""Of these one prompt is trimmed and one completion cut at 12 tokens."""
MERGED = ("ca", "b", "c")
SPELT = ("hi", "yes</s>", "no")
EMPTY = ("", "yes", "no")
TWINS = ("hi", "xxxxxxxxxxxxxxx1", "xxxxxxxxxxxxxxx2")
LONELY = ("hi", "yes")


@dataclass(frozen=True)
class Made:
    """A source of given examples."""

    training: tuple[tuple[str, ...], ...]
    held_out: tuple[tuple[str, ...], ...] = (GOOD, GOOD)

    def train(self) -> list[PreferenceExample]:
        return [PreferenceExample(prompt=prompt, completions=tuple(texts)) for prompt, *texts in self.training]

    def validation(self, count: int) -> list[PreferenceExample]:
        return [PreferenceExample(prompt=prompt, completions=tuple(texts)) for prompt, *texts in self.held_out]


@pytest.fixture
def prepared(characters: Characters) -> Callable[..., PreparedData]:
    def build(source: Made, *, form: Form = PAIRS, **changes: object) -> PreparedData:
        return prepare(replace(SETTINGS, **changes), source, characters(), form=form)  # type: ignore[arg-type]

    return build


def test_every_example_is_kept_or_counted_under_its_reason(prepared: Callable[..., PreparedData]) -> None:
    data = prepared(Made((GOOD, LONG, MERGED, SPELT, EMPTY, EMPTY, TWINS, LONELY), held_out=(SPELT, GOOD)))
    assert (len(data.train), len(data.validation)) == (3, 1)
    assert data.counts == {
        "special_token_in_text": 2,
        "empty_prompt": 2,
        "truncated_identical": 1,
        "no_rejected": 1,
        "trimmed_prompts": 1,
        "cut_completions": 1,
        "boundary_merges": 1,
        "train": 3,
        "validation": 1,
    }
    dropped = sum(data.counts.get(reason, 0) for reason in REASONS)
    assert dropped + data.counts["train"] + data.counts["validation"] == 8 + 2


def test_held_out_texts_are_those_of_the_held_out_tokens(prepared: Callable[..., PreparedData]) -> None:
    data = prepared(Made((GOOD,), held_out=(SPELT, EMPTY, ("abc", "yes", "no"))))
    assert [example.prompt for example in data.validation_texts] == ["abc"]
    assert [data.encoder.encode_prompt(text, 12) for text in data.validation_texts] == [list(item.prompt_ids) for item in data.validation]


def test_a_file_is_accounted_for_row_by_row(characters: Characters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [(f"{number}", "yes", "no") for number in range(8)] + [("8", "yes", "yes"), ("9", "", "no"), ("a", "b", "c"), SPELT]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(dict(zip(("prompt", "chosen", "rejected"), row, strict=True))) + "\n" for row in rows))
    data = prepare(replace(SETTINGS, path=str(file)), Local(columns={}, ratings=[]), characters(), form=PAIRS)
    counts = data.counts
    # "a" + "b" is one token, which leaves "a" alone with nothing before it.
    assert (counts["identical"], counts["empty"], counts["empty_prompt"], counts["special_token_in_text"]) == (1, 1, 1, 1)
    assert counts["rows"] == 12 == counts["train"] + counts["validation"] + sum(counts.get(reason, 0) for reason in REASONS)


def test_supervised_fine_tuning_takes_the_first_completion_alone(prepared: Callable[..., PreparedData]) -> None:
    data = prepared(Made((GOOD, LONELY, TWINS, ("hi", "yes", "no</s>"))), form=Form.single())
    yes = [*data.encoder.tokenizer("yes")["input_ids"], data.encoder.text_terminator]
    assert [list(ids) for item in data.train for ids in item.completion_ids][:2] == [yes, yes]
    # What a rejected completion holds, or whether there is one, says nothing of the chosen one.
    assert all(len(item.completion_ids) == 1 for item in data.train)
    assert (data.counts["train"], data.counts["cut_completions"]) == (4, 1)


def test_too_many_that_cannot_be_used_are_told_by_reason(prepared: Callable[..., PreparedData]) -> None:
    source = Made((*[GOOD] * 6, SPELT, LONELY), held_out=(GOOD, GOOD))
    assert prepared(source, max_dropped=0.2).counts["train"] == 6
    with pytest.raises(UserError) as caught:
        prepared(source, max_dropped=0.1)
    message = str(caught.value)
    assert message.startswith("dataset=made: 2 of 10 examples cannot be used, more than dataset.max_dropped = 0.1 allows: ")
    for reason in ("special_token_in_text", "no_rejected"):
        assert f"{reason} 1 ({REASONS[reason]})" in message
    assert "dataset.max_dropped=1" in message


def test_every_reason_is_told_in_words(prepared: Callable[..., PreparedData]) -> None:
    for example, reason in ((SPELT, "special_token_in_text"), (EMPTY, "empty_prompt"), (TWINS, "truncated_identical")):
        with pytest.raises(UserError) as caught:
            prepared(Made((example,)), max_dropped=0.2)
        assert f"{reason} 1 ({REASONS[reason]})" in str(caught.value)
    with pytest.raises(UserError, match=r"too_long 1 \(more tokens than dataset.max_length\)"):
        prepared(Made((LONG,)), max_dropped=0.2, overflow="drop")


@pytest.mark.parametrize(("side", "words"), [("training", "train on"), ("held_out", "validate on")])
def test_a_side_without_examples_is_refused(prepared: Callable[..., PreparedData], side: str, words: str) -> None:
    source = replace(Made((GOOD,)), **{side: (EMPTY,)})
    with pytest.raises(UserError, match=rf"dataset=made: no example is left to {words} \(empty_prompt 1\)"):
        prepared(source)
