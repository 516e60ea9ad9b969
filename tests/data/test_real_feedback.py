"""Real files of feedback, brought into the forms that objectives read."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import datasets
import pytest

from alignkit.configuration import dataset_settings, packaged
from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.forms import Form
from alignkit.data.rows import DroppedRow
from alignkit.data.source import LoadedExamples, RowSource, load_examples
from alignkit.data.sources.fine_grained_qa import FineGrainedQA
from alignkit.data.sources.hh_rlhf import HHRLHF
from alignkit.data.sources.local import Local
from alignkit.data.sources.sharegpt import ShareGPT
from alignkit.data.sources.ultrafeedback import UltraFeedback
from alignkit.data.sources.webgpt import WebGPT

LOCAL = Local(columns={}, ratings=[])
SETTINGS = replace(dataset_settings(packaged("dataset")["local"], []), name="real", source="real", validation_examples=40, options={})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load(path: Path, source: RowSource) -> LoadedExamples:
    return load_examples(replace(SETTINGS, path=str(path)), source)


def everything(loaded: LoadedExamples) -> list[PreferenceExample]:
    return [*loaded.train, *loaded.validation]


def outcomes(loaded: LoadedExamples, form: Form) -> Counter[str]:
    """How many examples are in form, and why the others are not."""
    counts: Counter[str] = Counter()
    for example in everything(loaded):
        try:
            form.of(example)
            counts["kept"] += 1
        except DroppedRow as dropped:
            counts[dropped.reason] += 1
    return counts


@pytest.mark.real
def test_real_comparisons_of_webgpt(shared: Path) -> None:
    loaded = load(shared / "data/webgpt_comparisons_dsp/test.jsonl.gz", WebGPT())
    assert (loaded.counts["rows"], len(everything(loaded))) == (901, 901)
    # the file's own account: 254 + 237 by half, 94 + 71 clearly, 245 ties
    assert Counter(example.margin for example in everything(loaded)) == {1.0: 491, 2.0: 165, 0.0: 245}
    assert outcomes(loaded, Form.pairs()) == {"kept": 656, "tie": 245}
    assert outcomes(loaded, Form.ratings("overall")) == {"kept": 901}


@pytest.mark.real
def test_real_rankings_of_qa_feedback(shared: Path) -> None:
    loaded = load(shared / "data/fine_grained_rlhf_qa/dev_feedback.jsonl.gz", FineGrainedQA(passages=True))
    assert len(everything(loaded)) == 500
    assert outcomes(loaded, Form.rankings()) == {"kept": 488, "tie": 12}
    assert {len(example.completions) for example in everything(loaded)} == {4}


@pytest.mark.real
def test_real_labelled_chats(shared: Path) -> None:
    loaded = load(shared / "data/llamafactory_demo/kto_en_demo.jsonl.gz", LOCAL)
    assert Counter(example.desirable for example in everything(loaded)) == {(True,): 150, (False,): 150}
    assert outcomes(loaded, Form.single()) == {"kept": 150, "undesirable": 150}
    assert outcomes(loaded, Form.labels()) == {"kept": 300}


@pytest.mark.real
def test_real_pairs_in_sharegpt_form(shared: Path) -> None:
    loaded = load(shared / "data/llamafactory_demo/dpo_en_demo.jsonl.gz", ShareGPT())
    assert outcomes(loaded, Form.pairs()) == {"kept": 300}
    openings = [example.prompt[0] for example in everything(loaded)]
    assert sum(isinstance(opening, Message) and opening.role == "system" for opening in openings) == 80


@pytest.mark.real
def test_real_helpful_dialogues_by_score(shared: Path) -> None:
    loaded = load(shared / "data/hh_rlhf_dsp/helpful_base_test.jsonl.gz", HHRLHF())
    counts = {name: count for name, count in loaded.counts.items() if count}
    assert counts == {"rows": 2352, "prompt_mismatch": 9, "empty": 4, "odd_turns": 6, "train": 2299, "validation": 40}


@pytest.mark.real
def test_real_pairs_of_ultrafeedback_carry_their_ratings(shared: Path) -> None:
    loaded = load(shared / "data/ultrafeedback_binarized_sample/train.jsonl.gz", UltraFeedback())
    assert all(example.margin == example.ratings["overall"][0] - example.ratings["overall"][1] for example in everything(loaded))


def test_a_file_of_lists_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    rows = [{"prompt": f"p{n}", "completions": ["a", "b", "c"], "scores": [n, 1, 1.5]} for n in range(9)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_examples(replace(SETTINGS, path=str(file), validation_examples=2), LOCAL)
    assert sorted(example.ranks for example in everything(loaded)) == [(0, 2, 1)] * 7 + [(1, 1, 0), (2, 1, 0)]
