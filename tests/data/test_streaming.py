"""Sets that do not fit into memory are what they would be in memory: examples, keys, order, counts and complaints."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from alignkit.batches import StepBatch
from alignkit.command_line import precheck
from alignkit.configuration import dataset_settings, packaged
from alignkit.data import measured, streams
from alignkit.data.arrow_examples import ArrowExamples
from alignkit.data.examples import PreferenceExample
from alignkit.data.forms import Form
from alignkit.data.holdout import hold_out
from alignkit.data.indexing import Indexing
from alignkit.data.packing import Packing
from alignkit.data.preparation import PreparedData, prepare
from alignkit.data.selection import held_out, repeated
from alignkit.data.source import Source
from alignkit.data.sources.local import Local
from alignkit.data.sources.mixture import Mixture
from alignkit.data.sources.reviews import Reviews
from alignkit.data.steps import Steps
from alignkit.errors import UserError
from alignkit.settings import DatasetSettings

Characters = Callable[..., PreTrainedTokenizerFast]
Row = Mapping[str, Any]
Both = Callable[..., tuple[PreparedData, PreparedData]]
LOCAL = Local(columns={}, ratings=[])
PAIRS = Form.pairs()
SETTINGS = replace(dataset_settings(packaged("dataset")["local"], []), max_length=24, validation_examples=6, max_dropped=1.0, options={})
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("ALIGNKIT_CACHE", str(tmp_path / "kept"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def both(characters: Characters) -> Both:
    """The same data in memory and streamed."""

    def build(
        source: Source = LOCAL, *, form: Form = PAIRS, template: str | None = None, **changes: Any
    ) -> tuple[PreparedData, PreparedData]:
        tokenizer = characters(template=template)
        settings = changes.pop("settings", SETTINGS)
        made = [prepare(replace(settings, streaming=way, **changes), source, tokenizer, form=form) for way in (False, True)]
        return made[0], made[1]

    return build


def write(name: str, rows: Sequence[Row]) -> str:
    """A file of the kind that its name says."""
    path = Path(name)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    elif name.endswith(".csv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines)
    return name


def pairs(count: int, start: int = 0) -> list[Row]:
    """Of each prompt one, two or three."""
    return [{"prompt": f"p{n // 2 if n % 5 else n}", "chosen": f" yes {n}", "rejected": f" no {n}"} for n in range(start, start + count)]


FAULTY: list[Row] = [
    {"prompt": "same", "chosen": " x", "rejected": " x"},
    {"prompt": "empty", "chosen": " ", "rejected": " x"},
    {"prompt": "spelt", "chosen": " a</s>", "rejected": " x"},
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {"prompt": "0123456789012345", "chosen": "abcdefghijklmnop", "rejected": "z"},
    {"prompt": "twins", "chosen": "x" * 40 + "1", "rejected": "x" * 40 + "2"},
    {"prompt": "None", "chosen": "NA", "rejected": "4"},
]


def assert_equal(memory: PreparedData, streamed: PreparedData) -> None:
    assert isinstance(streamed.train, ArrowExamples)
    assert list(streamed.train) == list(memory.train)
    assert streamed.validation == memory.validation
    assert streamed.validation_texts == memory.validation_texts
    assert streamed.counts == memory.counts
    assert streamed.encoder.report == memory.encoder.report


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet"])
def test_every_kind_of_file_gives_the_same_examples_and_the_same_account(both: Both, name: str) -> None:
    path = write(name, [*pairs(30), *FAULTY, *pairs(10, start=100)])
    memory, streamed = both(path=path)
    assert_equal(memory, streamed)
    assert {"identical", "empty", "special_token_in_text", "empty_prompt", "truncated_identical"} <= {
        reason for reason, count in streamed.counts.items() if count
    }
    assert streamed.counts["trimmed_prompts"] > 0


@pytest.mark.parametrize("changes", [{"train_examples": 7}, {"validation_examples": 1}, {"overflow": "drop"}, {"max_length": 12}], ids=str)
def test_settings_choose_the_same_examples(both: Both, changes: dict[str, Any]) -> None:
    assert_equal(*both(path=write("a.jsonl", [*pairs(30), *FAULTY]), **changes))


def test_a_second_file_is_held_out(both: Both) -> None:
    paths = {"path": write("a.jsonl", pairs(20)), "validation_path": write("b.jsonl", pairs(20, start=100))}
    memory, streamed = both(**paths, train_examples=9, validation_examples=5)
    assert_equal(memory, streamed)
    assert (len(streamed.train), len(streamed.validation)) == (9, 5)


RANKED: list[Row] = [
    {"prompt": f"r{n}", "completions": [" a", " b", f" c{n}"], "scores": [n % 3, 1, 2], "kind": [1.5, None, float(n)]} for n in range(20)
]
CHATS: list[Row] = [
    {"prompt": [{"role": "user", "content": f"q{n}"}], "chosen": [{"role": "assistant", "content": "yes"}], "rejected": "no"}
    for n in range(9)
]
LABELLED: list[Row] = [{"prompt": f"l{n}", "completion": f" answer {n}", "label": n % 2 == 0} for n in range(12)]


@pytest.mark.parametrize(
    ("rows", "form", "source"),
    [
        (RANKED, Form.rankings(), LOCAL),
        (RANKED, Form.pairs(), LOCAL),
        (RANKED, Form.ratings("overall", "kind"), Local(columns={}, ratings=["kind"])),
        (LABELLED, Form.labels(), LOCAL),
        (pairs(20), Form.single(), LOCAL),
        (RANKED, Form.single(), LOCAL),
    ],
    ids=["rankings", "pairs", "ratings", "labels", "single", "best"],
)
def test_every_form_of_feedback_comes_through(both: Both, rows: list[Row], form: Form, source: Local) -> None:
    memory, streamed = both(source, form=form, path=write("a.jsonl", rows), max_length=40)
    left, right = ([dataclasses.asdict(item) for item in data.train] for data in (memory, streamed))
    assert repr(right) == repr(left), "repr: NaN stands for a missing rating, and is no number's equal"
    assert streamed.counts == memory.counts


def test_chats_come_through(both: Both) -> None:
    rows = [{**row, "rejected": [{"role": "assistant", "content": "no"}]} for row in CHATS]
    memory, streamed = both(path=write("a.jsonl", rows), template=CHATML, validation_examples=3)
    assert_equal(memory, streamed)
    assert not isinstance(streamed.validation_texts[0].prompt, str)


def mixture_of(**parts: Mapping[str, Any]) -> tuple[DatasetSettings, Mixture]:
    """As `dataset=mixture dataset.parts={...}` gives them."""
    text = json.dumps(parts).replace('"', "")
    (run,) = precheck(["dataset=mixture", f"dataset.parts={text}", "dataset.validation_examples=2", "dataset.max_length=64"])
    return run.dataset, Mixture(parts=run.dataset.options["parts"])


@pytest.mark.parametrize("weight", [1, 0.5, 2.5])
def test_a_mixture_is_mixed_alike(both: Both, weight: float) -> None:
    one, two = write("a.jsonl", pairs(30)), write("b.jsonl", pairs(16, start=8))
    settings, source = mixture_of(one={"source": "local", "path": one}, two={"source": "local", "path": two, "weight": weight})
    memory, streamed = both(source, settings=settings)
    assert_equal(memory, streamed)
    assert streamed.counts["held_out_elsewhere"] > 0
    assert {item.source for item in streamed.train} == {"one", "two"}
    # A part that is visited twice has two keys for each example.
    assert len({item.key for item in streamed.train}) == len(streamed.train)


def tensors(step: StepBatch) -> list[Any]:
    return [getattr(batch, field.name) for batch in step.micro_batches for field in dataclasses.fields(batch)]


def test_steps_are_cut_alike_also_in_another_process(both: Both) -> None:
    memory, streamed = both(path=write("a.jsonl", pairs(60)))
    copied = pickle.loads(pickle.dumps(streamed.train))
    packing = Packing(layout="packed", tokens=200, row_tokens=100)
    made = [
        Steps(examples, pairs=8, steps=12, seed=3, packing=packing, mismatched=True) for examples in (memory.train, streamed.train, copied)
    ]
    for step in range(12):
        expected, *others = (tensors(steps[step]) for steps in made)
        for other in others:
            assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(expected, other, strict=True))
        assert [steps.mismatched_examples(step) for steps in made] == [made[0].mismatched_examples(step)] * 3


def test_what_is_asked_of_all_examples_is_known_without_reading_them(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, streamed = both(path=write("a.jsonl", [*pairs(30), *FAULTY]))
    keys = [memory.train[place].key for place in (7, 0, 11)]
    assert list(measured.by_length(streamed.train)) == list(measured.by_length(memory.train))
    assert measured.with_keys(streamed.train, keys) == measured.with_keys(memory.train, keys)
    assert (streamed.train[-1], streamed.train[2:5]) == (memory.train[-1], list(memory.train[2:5]))
    with pytest.raises(IndexError):
        streamed.train[len(streamed.train)]
    expected = [ask(memory.train) for ask in (measured.longest_packed, measured.longest_prompt, measured.longest_branch)]
    lengths, counts = measured.packed_tokens(memory.train, [3, 1]), measured.source_counts(memory.train)
    monkeypatch.setattr(ArrowExamples, "_read", lambda self, place: pytest.fail("an example was read"))
    assert [ask(streamed.train) for ask in (measured.longest_packed, measured.longest_prompt, measured.longest_branch)] == expected
    assert (measured.packed_tokens(streamed.train, [3, 1]), measured.source_counts(streamed.train)) == (lengths, counts)


@settings(derandomize=True, deadline=None, max_examples=80)
@given(prompts=st.lists(st.integers(0, 12), max_size=30), count=st.integers(0, 40))
def test_whole_prompts_are_held_out_by_columns_as_by_text(prompts: list[int], count: int) -> None:
    from alignkit.data.holdout import prompt_digest

    examples = [PreferenceExample(prompt=f"p{n}", completions=(str(place),)) for place, n in enumerate(prompts)]
    column = torch.tensor([int.from_bytes(prompt_digest(one)[:8], "big") for one in examples], dtype=torch.uint64).numpy()
    held = held_out(column, count)
    assert [one for one, is_held in zip(examples, held, strict=True) if is_held] == hold_out(examples, count)[1]


def test_a_weight_repeats_places_and_then_takes_the_lowest_hashes() -> None:
    places, contents = torch.tensor([4, 5, 9, 7]).numpy(), torch.tensor([3, 1, 0, 2]).numpy()
    assert repeated(places, contents, 2.5).tolist() == [4, 5, 9, 7, 4, 5, 9, 7, 5, 9]
    assert repeated(places, contents, 0.25).tolist() == [9]


@dataclass(frozen=True)
class Case:
    """Data that are refused."""

    name: str
    rows: Sequence[Row]
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


REFUSED = [
    Case("a.jsonl", pairs(4), {"validation_examples": 3}),
    Case("a.jsonl", pairs(20), {"validation_examples": 15}),
    Case("a.jsonl", [*pairs(3), *FAULTY], {"max_dropped": 0.2}),
    Case("a.jsonl", [*pairs(8), FAULTY[2], FAULTY[3]], {"max_dropped": 0.1, "validation_examples": 2}),
    Case("a.jsonl", FAULTY[:2]),
    Case("a.jsonl", [{"promt": "a", "chosen": "b", "rejected": "c"}]),
    Case("a.jsonl", [*pairs(3), {"prompt": "a", "chosen": None, "rejected": "c"}, *pairs(3)]),
    Case("a.jsonl", [*pairs(3), {**CHATS[0], "rejected": CHATS[0]["chosen"]}][::-1]),
    Case("a.parquet", [*pairs(3), {"prompt": "a", "chosen": None, "rejected": "c"}]),
    Case("a.csv", [{"question": "a", "chosen": "b", "rejected": "c"}]),
    Case("a.jsonl", pairs(10), {"validation_path": "a.jsonl"}),
    Case("missing.jsonl", []),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: str(case.changes) + case.name)
def test_complaints_are_the_same(characters: Characters, case: Case) -> None:
    if case.rows:
        write(case.name, case.rows)
    said = []
    for way in (False, True):
        with pytest.raises(UserError) as caught:
            prepare(replace(SETTINGS, path=case.name, streaming=way, **case.changes), LOCAL, characters(), form=PAIRS)
        said.append(str(caught.value))
    if said[0].startswith("dataset.path = a.jsonl cannot be read") or "Convert one of them" in said[1]:
        assert "a.jsonl, line 2 holds plain text, and dataset.path = a.jsonl, line 1 chat messages" in said[1]
    else:
        assert said[1] == said[0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a", "chosen": ', "line 3 is not JSON"),
        ("[1]", "line 3 is a list, not an object"),
        ('{"prompt": "a", "prompt": "b"}', "line 3 has the key 'prompt' twice"),
        ('{"prompt": "\\ud800"}', "line 3 holds half a surrogate pair"),
        ('{"margin": NaN}', "line 3 holds NaN, which is not JSON"),
    ],
)
def test_a_malformed_line_is_named_before_the_whole_file_is_read(both: Both, line: str, words: str) -> None:
    good = [json.dumps(row) for row in pairs(4)]
    Path("a.jsonl").write_text("\n".join([*good[:2], line, *good[2:]]) + "\n")
    with pytest.raises(UserError) as caught:
        streams.stream_file("a.jsonl", "dataset.path").columns()
    assert str(caught.value).startswith("dataset.path = a.jsonl, ")
    assert words in str(caught.value)


def test_a_surrogate_pair_is_a_character(both: Both) -> None:
    rows = [{**row, "chosen": " \U0001f600"} for row in pairs(3)]
    assert '\\ud83d\\ude00"' in json.dumps(rows[0])
    assert next(streams.stream_file(write("a.jsonl", rows), "dataset.path").read())["chosen"] == " \U0001f600"


def test_what_cannot_be_streamed_is_refused_with_what_can(characters: Characters, monkeypatch: pytest.MonkeyPatch) -> None:
    def complaint(source: Source = LOCAL, **changes: Any) -> str:
        with pytest.raises(UserError) as caught:
            prepare(replace(SETTINGS, streaming=True, **changes), source, characters(), form=PAIRS)
        return str(caught.value)

    Path("whole.json").write_text(json.dumps(pairs(4)))
    assert complaint(path="whole.json").endswith("Write it as JSON lines, or type dataset.streaming=false.")
    reviews = Reviews(pairs=10, answers=2, noise=0.0, length_bias=0.0, prompts="usual", validation_prompts="usual", world_seed=0)
    assert complaint(reviews, name="reviews").startswith("dataset.streaming = True has no effect: dataset=reviews makes its own data")
    rows = [*pairs(9), {**pairs(1)[0], "margin": 1.0}]
    monkeypatch.setattr(streams, "KEYS_WITHIN", 200)
    assert "a.jsonl, line 10: the key 'margin' is in none of the lines of the first" in complaint(path=write("a.jsonl", rows))


def test_a_place_that_cannot_be_written_is_told(characters: Characters) -> None:
    Path("file").write_text("")
    place = Indexing(folder=Path("file/examples").absolute(), say=lambda line: None, workers=0)
    with pytest.raises(UserError, match=r"^cache_dir: .* cannot be written \(Not a directory\).* Type cache_dir=DIR"):
        prepare(replace(SETTINGS, path=write("a.jsonl", pairs(9)), streaming=True), LOCAL, characters(), form=PAIRS, indexing=place)


@pytest.mark.parametrize(("steps", "streaming", "too_many"), [(3125, True, False), (3126, True, True), (3126, False, False)])
def test_values_of_examples_are_looked_up_only_where_they_fit_into_memory(steps: int, streaming: bool, too_many: bool) -> None:
    (run,) = precheck(
        [
            "dataset=local",
            f"dataset.path={write('a.jsonl', pairs(9))}",
            f"dataset.streaming={streaming}",
            f"steps={steps}",
            "batch.pairs=64",
        ]
    )
    assert measured.LOOKED_UP == 3125 * 64
    assert measured.too_many_to_look_up(run) is too_many
