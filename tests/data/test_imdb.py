from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from alignkit.configuration import dataset_settings, packaged
from alignkit.data.examples import PreferenceExample
from alignkit.data.source import LoadedExamples, load_examples
from alignkit.data.sources.imdb import Imdb
from alignkit.data.sources.mixture import Mixture
from alignkit.errors import UserError
from alignkit.scorers.vader import Vader

SETTINGS = dataset_settings(packaged("dataset")["imdb"], [])
WORDS = ("good", "bad", "great", "awful", "superb", "terrible", "lovely", "boring", "fine", "horrible")
ROWS = [{"text": f"Film number {place} was {word}. I was {word} too.", "label": "x"} for place, word in enumerate(WORDS * 3)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)


def write(rows: Sequence[object], name: str = "reviews.jsonl") -> str:
    Path(name).write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return name


def load(path: str, *, held: int = 6, settings: dict[str, Any] | None = None, **options: Any) -> LoadedExamples:
    place = replace(SETTINGS, path=path, validation_examples=held, **(settings or {}))
    return load_examples(place, Imdb(**{**SETTINGS.options, **options}))


def sides(loaded: LoadedExamples) -> tuple[set[str], set[str]]:
    return {str(example.prompt) for example in loaded.train}, {str(example.prompt) for example in loaded.validation}


def test_each_review_is_trained_on_or_held_out() -> None:
    loaded = load(write(ROWS), prompt_words=3)
    train, validation = sides(loaded)
    assert (len(loaded.train), len(loaded.validation)) == (24, 6)
    assert train | validation == {f"Film number {place}" for place in range(30)}
    assert not train & validation
    assert loaded.counts["rows"] == 30
    own = {f"Film number {place}": f" was {word}. I was {word} too." for place, word in enumerate(WORDS * 3)}
    for example in loaded.train:
        assert own[str(example.prompt)] in example.completions
        assert [*example.ratings["overall"]] == Vader().score(["", ""], example.completions)
        assert example.margin > 0.1


def test_no_word_of_a_held_out_review_is_trained_on() -> None:
    # Every review has a word of its own.
    rows = [{"text": f"Film {place} was {WORDS[place % 10]} w{place}."} for place in range(40)]
    loaded = load(write(rows), prompt_words=2, held=10)

    def words(examples: Sequence[PreferenceExample]) -> set[str]:
        return {completion.split()[-1] for example in examples for completion in example.completions}

    assert not words(loaded.train) & words(loaded.validation)


def test_reviews_that_begin_alike_go_to_one_side() -> None:
    rows = [
        {"text": f"{beginning} {word} {place}."}
        for place, word in enumerate(WORDS)
        for beginning in ("This is", "It was", "How so", "So it's")
    ]
    loaded = load(write(rows), prompt_words=2, held=5)
    assert len(loaded.validation) == 10
    assert len(sides(loaded)[1]) == 1


def test_who_is_held_out_depends_on_neither_seed_nor_order() -> None:
    found = [sides(load(write(rows), world_seed=seed))[1] for rows, seed in ((ROWS, 0), (ROWS, 5), (ROWS[::-1], 0))]
    assert found[0] == found[1] == found[2]


def test_the_seed_decides_order_and_company() -> None:
    path = write(ROWS)
    assert load(path) == load(path)
    assert load(path).train != load(path, world_seed=1).train


def test_pairs_may_be_fewer_or_more_than_reviews_and_the_first_are_the_same() -> None:
    path = write(ROWS)
    few, all_, more = (load(path, pairs=pairs).train for pairs in (5, None, 60))
    assert (len(few), len(all_), len(more)) == (5, 24, 60)
    assert more[:24] == all_
    assert all_[:5] == few
    assert load(path, pairs=60, settings={"train_examples": 7}).train == more[:7]


def test_noise_and_length_bias_are_those_of_the_annotator_and_leave_held_out_labels_alone() -> None:
    rows = [{"text": f"Film {place} was {'very ' * (place % 5)}{word}."} for place, word in enumerate(WORDS * 3)]
    path = write(rows)
    clean, biased = load(path, prompt_words=2), load(path, prompt_words=2, length_bias=1.0)
    assert biased.validation == clean.validation
    lengths = [[len(completion.split()) for completion in example.completions] for example in biased.train]
    assert all(chosen >= rejected for chosen, rejected in lengths)
    assert any(chosen > rejected for chosen, rejected in lengths)
    flipped = sum(
        before.completions == after.completions[::-1]
        for before, after in zip(clean.train, load(path, prompt_words=2, noise=0.5).train, strict=True)
    )
    assert 4 <= flipped <= 20  # 12 of 24, standard deviation 2.4


@pytest.mark.parametrize("answers", [1, 3])
def test_rankings_and_texts(answers: int) -> None:
    loaded = load(write(ROWS), answers=answers)
    assert {len(example.completions) for example in (*loaded.train, *loaded.validation)} == {answers}


def test_reviews_that_are_too_short_are_counted_and_ties_too() -> None:
    neutral = [{"text": f"Film number {place} was w{place}."} for place in range(4, 60)]
    loaded = load(write([{"text": "Too short"}, *ROWS[:4], *neutral]), prompt_words=3, held=20)
    assert loaded.counts["empty"] == 1
    # Only two or so of a side's reviews say anything, and a neutral one that does not meet them in its draws has no better or worse one.
    assert loaded.counts["tie"] > 0
    assert len(loaded.train) + len(loaded.validation) + loaded.counts["tie"] + loaded.counts["identical"] == 60
    assert all(example.margin > 0 for example in (*loaded.train, *loaded.validation))


def test_a_part_of_a_mixture_may_be_a_world() -> None:
    parts = {"opinions": {"source": "imdb", "weight": 0.5, "path": write(ROWS), "validation_examples": 6}}
    whole = dataset_settings({**packaged("dataset")["mixture"], "parts": parts}, [])
    loaded = load_examples(whole, Mixture(**whole.options))
    assert (len(loaded.train), len(loaded.validation)) == (12, 6)
    assert {example.source for example in loaded.train} == {"opinions"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS, {"text": None, "label": "x"}], r"dataset\.path = reviews\.jsonl, line 31: 'text' is null or missing"),
        ([{"review": "What a film it was."}] * 3, r"dataset\.path = reviews\.jsonl: no column 'text'; found 'review'"),
        ([{"text": "short"}] * 9, r"dataset\.path = reviews\.jsonl: 9 of 9 examples cannot be used"),
        (
            [{"text": f"The film number {place} is here w{place}."} for place in range(30)],
            r"dataset\.path = reviews\.jsonl: no example is left .*tie 30",
        ),
    ],
)
def test_errors_name_file_and_line(rows: list[object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(write(rows))


def test_too_few_reviews_for_the_answers_are_told() -> None:
    with pytest.raises(
        UserError, match=r"dataset\.path = reviews\.jsonl: 2 reviews to hold out, and dataset\.answers = 4 asks for as many"
    ):
        load(write(ROWS), held=2, answers=4)


def test_a_second_file_has_no_effect() -> None:
    with pytest.raises(UserError, match=r"dataset\.validation_path = b\.jsonl has no effect"):
        load(write(ROWS), settings={"validation_path": "b.jsonl"})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"pairs": 0}, r"dataset\.pairs = 0; must be a number in \[1, inf\)"),
        ({"prompt_words": 0}, r"dataset\.prompt_words = 0"),
        ({"completion_words": 0}, r"dataset\.completion_words = 0"),
        ({"noise": 0.7}, r"dataset\.noise = 0\.7"),
        ({"length_bias": -0.1}, r"dataset\.length_bias = -0\.1"),
        ({"answers": 9}, r"dataset\.answers = 9"),
        ({"world_seed": -1}, r"dataset\.world_seed = -1"),
    ],
)
def test_a_setting_out_of_range_is_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Imdb(**{**SETTINGS.options, **setting})


def test_the_source_loads_without_torch() -> None:
    code = "import sys, alignkit.data.sources.imdb; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.real
@pytest.mark.parametrize(("name", "rows", "empty"), [("imdb_sample/texts.jsonl.gz", 1000, 0), ("rt_polarity/all.jsonl.gz", 10662, 183)])
def test_real_reviews_make_pairs_with_a_clear_gap(shared: Path, name: str, rows: int, empty: int) -> None:
    path = shared / "data" / name
    loaded = load(str(path), held=256, pairs=400)
    assert (loaded.counts["rows"], loaded.counts["empty"], len(loaded.train), len(loaded.validation)) == (rows, empty, 400, 256)
    train, validation = sides(loaded)
    assert not train & validation
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = {" ".join(json.loads(line)["text"].replace("<br />", " ").split()) for line in lines}
    beginnings = {text[: len(text.rsplit(" ", max(len(text.split()) - 4, 0))[0])] for text in texts}
    for example in (*loaded.train[:50], *loaded.validation[:50]):
        assert example.prompt in beginnings
        assert example.margin > 0.1
        assert not any("<br" in completion or len(completion.split()) > 64 for completion in example.completions)
        assert any(text.startswith(f"{example.prompt}{completion}") for completion in example.completions for text in texts)
