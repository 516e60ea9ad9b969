"""From files to examples: the whole way, with its account."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from alignkit.configuration import dataset_settings, packaged
from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.source import LoadedExamples, RowSource, load_examples
from alignkit.data.sources.hh_rlhf import HHRLHF
from alignkit.data.sources.local import Local
from alignkit.data.sources.shp import SHP
from alignkit.data.sources.stack_exchange import StackExchange
from alignkit.data.sources.ultrafeedback import UltraFeedback
from alignkit.errors import UserError

Row = Mapping[str, Any]
Write = Callable[[str, list[Row]], str]
LOCAL = Local(columns={}, ratings=[])
SETTINGS = replace(dataset_settings(packaged("dataset")["local"], []), validation_examples=2, options={})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file into the current directory, so that messages hold its bare name."""
    monkeypatch.chdir(tmp_path)

    def to(name: str, rows: list[Row]) -> str:
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return name

    return to


def rows(count: int, start: int = 0) -> list[Row]:
    return [{"prompt": f"p{number}", "chosen": f" good {number}", "rejected": f" bad {number}"} for number in range(start, start + count)]


def load(path: str | Path, source: RowSource = LOCAL, **changes: Any) -> LoadedExamples:
    return load_examples(replace(SETTINGS, path=str(path), **changes), source)


def complaint(path: str | None, source: RowSource = LOCAL, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_examples(replace(SETTINGS, path=path, **changes), source)
    return str(caught.value)


def test_a_source_is_looked_up_without_loading_anything_heavy() -> None:
    code = "import sys, alignkit.data.sources.local; print({'torch', 'datasets', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "set()"


def test_rows_become_examples_in_their_order_and_whole_prompts_are_held_out(write: Write) -> None:
    data = [row for row in rows(10) for row in (row, {**row, "chosen": row["chosen"] + "!"})]
    loaded = load(write("a.jsonl", data), validation_examples=3)
    assert loaded.counts == {"rows": 20, "no_preference": 0, "identical": 0, "empty": 0, "train": 16, "validation": 4}
    train, validation = ({example.prompt for example in side} for side in (loaded.train, loaded.validation))
    assert (len(train), len(validation), train & validation) == (8, 2, set())
    places = [int(str(example.prompt)[1:]) for example in loaded.train]
    assert places == sorted(places)
    assert loaded.train[0].completions[0].startswith(" good")


def test_training_examples_can_be_limited_and_validation_stays_the_same(write: Write) -> None:
    path = write("a.jsonl", rows(10))
    few, all_of_them = load(path, train_examples=3), load(path)
    assert few.train == all_of_them.train[:3]
    assert few.validation == all_of_them.validation
    assert few.counts["train"] == 3


def test_a_second_file_is_for_validation_from_its_beginning(write: Write) -> None:
    loaded = load(write("a.jsonl", rows(5)), validation_path=write("b.jsonl", rows(5, start=5)))
    assert [example.prompt for example in loaded.train] == ["p0", "p1", "p2", "p3", "p4"]
    assert [example.prompt for example in loaded.validation] == ["p5", "p6"]
    assert loaded.counts["rows"] == 10


def test_a_prompt_on_both_sides_is_a_leak(write: Write) -> None:
    path, other = write("a.jsonl", rows(5)), write("b.jsonl", rows(5, start=4)[::-1])
    assert load(path, validation_path=other).counts["validation"] == 2
    assert complaint(path, validation_path=other, validation_examples=5) == (
        "dataset.validation_path = b.jsonl, line 5: the prompt is in the training data too (leaked = 1 of 5 held-out examples), so "
        "validation would not show what was learnt. Delete those rows, or leave dataset.validation_path out: then whole prompts are "
        "held out of the training data."
    )


def test_rows_of_no_use_are_counted_by_reason(write: Write) -> None:
    useless: list[Row] = [
        {"prompt": "a", "chosen": " same", "rejected": "same"},
        {"prompt": "b", "chosen": " ", "rejected": "text"},
        {"prompt": "c", "chosen": "text", "rejected": ""},
    ]
    path = write("a.jsonl", rows(7) + useless)
    assert load(path, max_dropped=0.3).counts == {"rows": 10, "no_preference": 0, "identical": 1, "empty": 2, "train": 5, "validation": 2}
    assert complaint(path) == (
        "dataset.path = a.jsonl: 3 of 10 examples cannot be used, more than dataset.max_dropped = 0.2 allows: identical 1 (the completions "
        "are the same); empty 2 (a completion holds no text). Repair the data, or type dataset.max_dropped=1 to go on without them."
    )


def test_what_a_source_leaves_out_on_purpose_does_not_count_as_dropped(write: Write) -> None:
    def row(number: int, score: int) -> Row:
        return {"history": f"p{number}", "human_ref_A": "a", "human_ref_B": "b", "labels": 1, "score_A": score, "score_B": 10}

    path = write("a.jsonl", [row(0, 20), row(1, 20), *(row(number, 11) for number in range(2, 20))])
    assert load(path, SHP(min_ratio=2.0), max_dropped=0.0, validation_examples=1).counts == {
        "rows": 20,
        "no_preference": 18,
        "identical": 0,
        "empty": 0,
        "train": 1,
        "validation": 1,
    }
    assert complaint(path, SHP(min_ratio=3.0)) == (
        "dataset.path = a.jsonl: no example is left (rows 20, no_preference 20). Choose other data with dataset.path=FILE."
    )


def test_dropped_rows_count_with_the_reason_of_their_source(write: Write) -> None:
    good, other = "\n\nHuman: Hi {}\n\nAssistant: {}", "\n\nHuman: Ho\n\nAssistant: b"
    data = [{"chosen": good.format(number, "a"), "rejected": good.format(number, "b")} for number in range(9)]
    path = write("a.jsonl", [*data, {"chosen": good.format(9, "a"), "rejected": other}])
    counts = load(path, HHRLHF()).counts
    assert (counts["prompt_mismatch"], counts["train"], counts["validation"]) == (1, 7, 2)
    assert "prompt_mismatch 1 (chosen and rejected answer different prompts)" in complaint(path, HHRLHF(), max_dropped=0.05)


def test_too_large_a_validation_is_refused_with_a_size_that_would_do(write: Write) -> None:
    assert complaint(write("a.jsonl", rows(30)), validation_examples=256) == (
        "dataset.validation_examples = 256 would hold out 30 of the 30 examples (30 prompts) of dataset.path = a.jsonl; at most half may "
        "be. Try dataset.validation_examples=3, or give a second file with dataset.validation_path=FILE."
    )


def test_a_bad_row_is_named_by_its_line(write: Write) -> None:
    bad: Row = {"prompt": "p", "chosen": None, "rejected": "x"}
    path = write("a.jsonl", [*rows(5), bad])
    assert complaint(path) == (
        "dataset.path = a.jsonl, line 6: 'chosen' is null or missing; every row needs it. Fill it in or delete the row."
    )
    number: Row = {"prompt": "p", "chosen": 5, "rejected": "x"}
    assert complaint(write("b.jsonl", [*rows(5), number])) == "dataset.path = b.jsonl, line 6: 'chosen' is 5 (int); must be text."


def test_a_key_that_one_line_lacks_is_named(write: Write) -> None:
    path = write("a.jsonl", [*rows(2), {"prompt": "p", "chosen": "x"}])
    assert complaint(path).startswith("dataset.path = a.jsonl, line 3: 'rejected' is null or missing")


def test_texts_and_chats_in_one_file_are_told_by_the_first_row_of_each(write: Write) -> None:
    chat = [{"role": "user", "content": "Hi"}]
    mixed: Row = {"prompt": chat, "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}
    assert complaint(write("a.jsonl", [*rows(3), mixed])) == (
        "dataset.path = a.jsonl, line 4 holds chat messages, and dataset.path = a.jsonl, line 1 plain text; all rows must be of "
        "one kind. Convert one of them, or split the file."
    )


def test_missing_columns_are_told_with_those_there_are_and_the_mapping_to_type(write: Write) -> None:
    path = write("a.jsonl", [{"question": "q", "chosen": "a", "rejcted": "b"}])
    assert complaint(path) == (
        "dataset.path = a.jsonl: no column 'rejected'; found 'question', 'chosen', 'rejcted'. Did you mean 'rejcted' for 'rejected'? To "
        "read other columns type: dataset=local dataset.path=a.jsonl 'dataset.columns={prompt: COLUMN, chosen: chosen, rejected: rejcted}'"
    )
    assert complaint(path, StackExchange()).startswith(
        "dataset.path = a.jsonl: no column 'answers'; found 'question', 'chosen', 'rejcted'. To read other columns type: dataset=local "
    )


def test_fields_apart_by_semicolons_are_told(write: Write) -> None:
    write("a.jsonl", [])
    Path("a.csv").write_text("prompt;chosen;rejected\np;a;b\n")
    assert "The fields look separated by something other than a comma; write the file with commas." in complaint("a.csv")


def test_nothing_to_read_is_told() -> None:
    assert complaint(None) == ("dataset.path is missing: dataset=local has no place of its own on the hub. Type dataset.path=FILE.")


class Generated:
    """Counts aloud."""

    def train(self) -> list[PreferenceExample]:
        return [PreferenceExample(prompt=f"t{number}", completions=("a", "b")) for number in range(5)]

    def validation(self, count: int) -> list[PreferenceExample]:
        return [PreferenceExample(prompt=f"v{number}", completions=("a", "b")) for number in range(count)]


def test_a_source_may_make_its_examples() -> None:
    loaded = load_examples(replace(SETTINGS, train_examples=3), Generated())
    assert [example.prompt for example in loaded.train] == ["t0", "t1", "t2"]
    assert [example.prompt for example in loaded.validation] == ["v0", "v1"]
    assert loaded.counts == {"train": 3, "validation": 2}


@pytest.mark.parametrize("key", ["path", "validation_path", "hub"])
def test_a_source_that_makes_its_examples_reads_nothing(key: str) -> None:
    with pytest.raises(UserError) as caught:
        load_examples(replace(SETTINGS, name="reviews", **{key: "a.jsonl"}), Generated())
    assert str(caught.value) == (
        f"dataset.{key} = a.jsonl has no effect: dataset=reviews makes its own data. Leave it out, or choose the format of the data, e.g. "
        f"dataset=local dataset.{key}=a.jsonl."
    )


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        (
            "hh_rlhf/harmless_base_test.jsonl.gz",
            HHRLHF(),
            {"rows": 1500, "prompt_mismatch": 1, "empty": 4, "odd_turns": 3, "train": 1367, "validation": 128},
        ),
        (
            "ultrafeedback_binarized_sample/train.jsonl.gz",
            UltraFeedback(),
            {"rows": 1000, "no_preference": 111, "identical": 3, "empty": 2, "train": 756, "validation": 128},
        ),
        (
            "ultrafeedback_binarized_sample/train.jsonl.gz",
            LOCAL,
            {"rows": 1000, "identical": 4, "empty": 2, "train": 866, "validation": 128},
        ),
        (
            "fine_grained_rlhf_qa/dev_feedback.jsonl.gz",
            Local(columns={"prompt": "question", "chosen": "prediction 1", "rejected": "prediction 2"}, ratings=[]),
            {"rows": 500, "train": 372, "validation": 128},
        ),
        (
            "dolly_hhrlhf_small/train.jsonl.gz",
            Local(columns={"chosen": "response"}, ratings=[]),
            {"rows": 1000, "train": 872, "validation": 128},
        ),
        ("llamafactory_demo/c4_demo.jsonl.gz", LOCAL, {"rows": 300, "train": 172, "validation": 128}),
    ],
)
def test_real_files_give_the_examples_that_were_counted_apart(shared: Path, name: str, source: RowSource, expected: dict[str, int]) -> None:
    loaded = load(shared / "data" / name, source, validation_examples=128)
    assert {name: count for name, count in loaded.counts.items() if count} == expected


@pytest.mark.real
def test_real_pairs_of_stack_exchange_and_hh_helpful(shared: Path, write: Write) -> None:
    paired = load(shared / "data/stack_exchange_paired_tiny/train.jsonl.gz", StackExchange(), validation_examples=4)
    assert (paired.counts["rows"], paired.counts["train"] + paired.counts["validation"]) == (25, 25)
    with gzip.open(shared / "data/hh_rlhf_dsp/helpful_base_test.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    helpful = load(write("helpful.jsonl", [{"chosen": one, "rejected": two} for one, two in texts]), HHRLHF())
    assert {name: count for name, count in helpful.counts.items() if count} == {
        "rows": 2352,
        "prompt_mismatch": 9,
        "empty": 4,
        "odd_turns": 6,
        "train": 2337,
        "validation": 2,
    }
    assert all(isinstance(example.prompt[0], Message) and example.prompt[0].role == "user" for example in helpful.train)


@pytest.mark.real
def test_real_validation_file_shares_no_prompt_with_its_training_file(shared: Path) -> None:
    folder = shared / "data/ultrafeedback_binarized_sample"
    loaded = load(folder / "train.jsonl.gz", UltraFeedback(), validation_path=str(folder / "eval.jsonl.gz"), validation_examples=1000)
    assert (loaded.counts["train"], loaded.counts["validation"]) == (884, 175)
