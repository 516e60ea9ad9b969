"""Several data sets at once: what comes from which, how often, and whose fault it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import PreTrainedTokenizerFast

from alignkit.command_line import precheck
from alignkit.configuration import dataset_settings, packaged
from alignkit.data.examples import PreferenceExample
from alignkit.data.forms import Form
from alignkit.data.preparation import prepare
from alignkit.data.source import LoadedExamples, load_examples
from alignkit.data.sources.mixture import Mixture
from alignkit.errors import UserError
from alignkit.settings import DatasetSettings

Characters = Callable[..., PreTrainedTokenizerFast]
SETTINGS = replace(
    dataset_settings(packaged("dataset")["local"], []), name="mixture", source="mixture", max_length=64, validation_examples=2, options={}
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)


def write(name: str, count: int, *, start: int = 0, **more: object) -> str:
    rows = [{"prompt": f"p{n}", "chosen": f" good {n}", "rejected": f" bad {n}", **more} for n in range(start, start + count)]
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def settings_of(**parts: Mapping[str, Any]) -> DatasetSettings:
    """As `dataset=mixture dataset.parts={...}` gives them."""
    text = json.dumps(parts).replace('"', "")
    (settings,) = precheck(["dataset=mixture", f"dataset.parts={text}", "dataset.validation_examples=2", "dataset.max_length=64"])
    return settings.dataset


def load(**parts: Mapping[str, Any]) -> LoadedExamples:
    settings = settings_of(**parts)
    return load_examples(settings, Mixture(parts=settings.options["parts"]))


def complaint(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def by_source(examples: list[PreferenceExample]) -> Counter[str]:
    return Counter(example.source for example in examples)


def test_each_part_holds_out_for_itself_and_its_examples_carry_its_name() -> None:
    one, two = write("a.jsonl", 10), write("b.jsonl", 6, start=10)
    loaded = load(one={"source": "local", "path": one}, two={"source": "local", "path": two, "validation_examples": 3})
    assert (by_source(loaded.train), by_source(loaded.validation)) == ({"one": 8, "two": 3}, {"one": 2, "two": 3})
    assert {str(example.prompt) for example in loaded.train if example.source == "two"} <= {f"p{n}" for n in range(10, 16)}
    assert loaded.counts == {
        "rows": 16, "no_preference": 0, "identical": 0, "empty": 0, "held_out_elsewhere": 0, "train": 11, "validation": 5,
    }  # fmt: skip


def test_equal_weights_keep_everything_and_two_is_twice() -> None:
    one, two = write("a.jsonl", 10), write("b.jsonl", 12, start=10)
    parts = {"one": {"source": "local", "path": one}, "two": {"source": "local", "path": two, "weight": 2.5}}
    loaded = load(**parts)
    assert by_source(loaded.train) == {"one": 8, "two": 25}
    times = Counter(str(example.prompt) for example in loaded.train if example.source == "two")
    assert Counter(times.values()) == {2: 5, 3: 5}
    again = load(**parts)
    assert again.train == loaded.train


def test_a_half_of_the_examples_is_the_same_half_whatever_their_order() -> None:
    path = write("a.jsonl", 30)
    half = load(one={"source": "local", "path": path, "weight": 0.5})
    lines = Path(path).read_text().splitlines(keepends=True)
    Path("b.jsonl").write_text("".join(reversed(lines)))
    other = load(one={"source": "local", "path": "b.jsonl", "weight": 0.5})
    assert len(half.train) == 14
    assert {example.prompt for example in half.train} == {example.prompt for example in other.train}
    assert half.train == other.train[::-1], "in the order of the file"


def test_no_prompt_that_one_part_holds_out_is_trained_on_in_another() -> None:
    one, two = write("a.jsonl", 10), write("b.jsonl", 20)
    loaded = load(one={"source": "local", "path": one}, two={"source": "local", "path": two, "validation_examples": 5})
    held = {example.prompt for example in loaded.validation}
    assert not held & {example.prompt for example in loaded.train}
    assert loaded.counts["held_out_elsewhere"] == 8 + 15 - len(loaded.train) > 0


def test_generated_data_may_be_a_part() -> None:
    loaded = load(made={"source": "reviews", "pairs": 5}, read={"source": "local", "path": write("a.jsonl", 6)})
    assert by_source(loaded.train) == {"made": 5, "read": 4}


def test_parts_are_read_in_forms_of_their_own(characters: Characters) -> None:
    pairs, rated = write("a.jsonl", 6), "b.jsonl"
    Path(rated).write_text("".join(json.dumps({"prompt": f"q{n}", "completion": " c", "style": n}) + "\n" for n in range(6)))
    settings = settings_of(pairs={"source": "local", "path": pairs}, rated={"source": "local", "path": rated, "ratings": ["style"]})
    forms = {"pairs": Form.pairs(), "rated": Form.ratings("style")}
    mixture = Mixture(parts=settings.options["parts"])
    data = prepare(settings, mixture, characters(), form=forms["pairs"].joined(forms["rated"]), by_source=forms)
    assert {key: data.counts[key] for key in data.counts if "/" in key} == {
        "train/pairs": 4,
        "train/rated": 4,
        "validation/pairs": 2,
        "validation/rated": 2,
    }
    assert {(item.source, len(item.completion_ids), tuple(item.ratings)) for item in data.train} == {
        ("pairs", 2, ()),
        ("rated", 1, ("style",)),
    }
    assert len({item.key for item in (*data.train, *data.validation)}) == 12
    with pytest.raises(UserError, match="no_rejected 6"):
        prepare(settings, mixture, characters(), form=Form.pairs())


# Whose fault it is


def test_errors_name_the_part() -> None:
    good = {"source": "local", "path": write("a.jsonl", 6)}
    assert complaint(lambda: load(one=good, two={"source": "local"})) == (
        "dataset.parts.two.path is missing: dataset.parts.two.source=local has no place of its own on the hub. Type "
        "dataset.parts.two.path=FILE."
    )
    assert complaint(lambda: load(one=good, two={"source": "local", "path": "no.jsonl"})).startswith(
        "dataset.parts.two.path = no.jsonl: no such"
    )
    assert complaint(lambda: load(one={**good, "validation_examples": 4})).startswith(
        "dataset.parts.one.validation_examples = 4 would hold"
    )
    Path("dataset.jsonl").write_text('{"prompt": "p", "chosen": 5}\n')
    assert complaint(lambda: load(one={"source": "local", "path": "dataset.jsonl"})) == (
        "dataset.parts.one.path = dataset.jsonl, line 1: 'chosen' is 5 (int); must be text."
    )


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ("{}", r"^dataset\.parts = \{\}; must name the data sets to mix\. Try 'dataset\.parts="),
        ("{a: hh_rlhf}", r"^dataset\.parts\.a = 'hh_rlhf'; must say which source it is"),
        ("{a: {path: x.jsonl}}", r"^dataset\.parts\.a = .*must say which source"),
        ("{a-b: {source: local}}", r"^dataset\.parts\.a-b: a part's name must be letters"),
        ("{a: {source: locl}}", r"^unknown dataset source 'locl'; .*Did you mean 'local'"),
        ("{a: {source: mixture}}", r"^dataset\.parts\.a\.source = 'mixture'; a mixture cannot be a part"),
        ("{a: {source: local, weight: 0}}", r"^dataset\.parts\.a\.weight = 0; must be a number in \(0, inf\)"),
        ("{a: {source: local, weight: much}}", r"^dataset\.parts\.a\.weight = 'much'; must be a number"),
        ("{a: {source: local, max_length: 9}}", r"^dataset\.parts\.a\.max_length: no such key\. .*dataset\.max_length=9"),
        ("{a: {source: local, min_ratio: 2}}", r"^dataset\.parts\.a\.min_ratio: local has no option 'min_ratio'; shp has it"),
        ("{a: {source: local, pth: x}}", r"^dataset\.parts\.a\.pth: no such key\. Did you mean 'path'"),
        ("{a: {source: shp, min_ratio: 0.5}}", r"^dataset\.parts\.a\.min_ratio = 0\.5; must be a number in \[1, inf\)"),
        ("{a: {source: shp, min_ratio: high}}", r"^dataset\.parts\.a\.min_ratio = 'high'; must be a number"),
        ("{a: {source: local, max_dropped: 2}}", r"^dataset\.parts\.a\.max_dropped = 2"),
        ("{a: {source: os.path}}", r"'os\.path' names code outside alignkit"),
    ],
)
def test_parts_that_cannot_be_are_refused_before_anything_is_read(parts: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        precheck(["dataset=mixture", f"dataset.parts={parts}"])


def test_a_mixture_has_no_data_of_its_own() -> None:
    settings = replace(settings_of(one={"source": "local", "path": write("a.jsonl", 6)}), path="x.jsonl")
    assert complaint(lambda: load_examples(settings, Mixture(parts=settings.options["parts"]))) == (
        "dataset.path = x.jsonl has no effect: a mixture has no data of its own. Try dataset.parts.one.path=x.jsonl."
    )


def test_a_weight_that_leaves_nothing_is_refused() -> None:
    words = complaint(lambda: load(one={"source": "local", "path": write("a.jsonl", 6), "weight": 0.1}))
    assert words == "dataset.parts.one.weight = 0.1 leaves none of its 4 examples to train on. Try 1."


def test_texts_beside_chats_need_one_way_to_be_written() -> None:
    parts = {"texts": {"source": "local", "path": write("a.jsonl", 6)}, "chats": {"source": "local", "path": "b.jsonl"}}
    rows = [{"prompt": [{"role": "user", "content": f"Hi {n}"}], "chosen": "a", "rejected": "b"} for n in range(6)]
    Path("b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert complaint(lambda: load(**parts)) == (
        "dataset.parts: texts holds plain text, and chats chat messages; with dataset.format=auto all parts must be of one kind. "
        "Type dataset.format=chat (a text is a user's turn) or dataset.format=text (no chat template)."
    )
    settings = replace(settings_of(**parts), format="text")
    assert len(load_examples(settings, Mixture(parts=settings.options["parts"])).train) == 8


@pytest.mark.real
def test_real_helpful_and_harmless_dialogues(shared: Path) -> None:
    folder = shared / "data"
    loaded = load(
        helpful={"source": "hh_rlhf", "path": str(folder / "hh_rlhf_dsp/helpful_base_test.jsonl.gz")},
        harmless={"source": "hh_rlhf", "path": str(folder / "hh_rlhf/harmless_base_test.jsonl.gz"), "weight": 2},
    )
    assert by_source(loaded.train) == {"helpful": 2337, "harmless": 2 * 1493}
    assert by_source(loaded.validation) == {"helpful": 2, "harmless": 2}
