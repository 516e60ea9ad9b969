"""`pipeline=active_learning` with real stages of a few steps: who is asked, what is labelled, and what is learnt from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from alignkit import pipeline as shell
from alignkit.lab.annotator import Annotator
from alignkit.lab.reviews import ReviewsWorld
from alignkit.labelling.querying import Pool, uncertainty
from alignkit.run_dir import RunDir, read_jsonl
from alignkit.scorers.scorer import Scores

SHORT = [
    *("hardware.threads=1", "logger=jsonl", "callbacks.progress_bar=false", "dataset.pairs=32", "dataset.validation_examples=8"),
    *("rounds=1", "count=6", "dataset.noise=0.3", "steps=4", "schedule.warmup_steps=1"),
    *("stages.reward.loss.members=2", "stages.last.loss.members=2", "validation.every=4"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline's directory."""
    place = tmp_path_factory.mktemp("active") / "all"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["alignkit-pipeline", *SHORT, "pipeline=active_learning", "query=ensemble", f"run_dir={place}"])
        assert shell.main() == 0
    return place


def rows(folder: Path, stage: str, file: str = "labels.jsonl") -> list[dict]:
    return list(read_jsonl(folder / stage / file))


def test_labels_of_all_rounds_are_those_of_the_data_mistakes_included(folder: Path) -> None:
    first, after = rows(folder, "first"), rows(folder, "labels_1")
    assert after[:6] == first
    assert len({row["prompt"] for row in after}) == len(after) == 12
    annotator, world = Annotator(answers=2, noise=0.3, length_bias=0.0, seed=0), ReviewsWorld(seed=0)
    known = {example.prompt: example.completions for example in (annotator.labelled(world, index) for index in range(32))}
    assert [(row["chosen"], row["rejected"]) for row in after] == [known[row["prompt"]] for row in after]
    truth = {example.prompt: example.completions for example in (world.pair(index) for index in range(32))}
    assert any(known[row["prompt"]] != truth[row["prompt"]] for row in after)


def test_those_are_asked_on_which_members_differ_most(folder: Path) -> None:
    pool = rows(folder, "labels_1", "pool.jsonl")
    labelled = {row["prompt"] for row in rows(folder, "first")}
    assert len(pool) == 32 - len(labelled)
    parts = {name: torch.tensor([score for row in pool for score in row["parts"][name]]) for name in ("reward", "reward_1", "reward_2")}
    scores = Scores(total=torch.stack(list(parts.values())).mean(0), parts=parts)
    worth = uncertainty(Pool(counts=[len(row["scores"]) for row in pool], scores=scores), "ensemble")
    # A quarter of the pool is as many as are asked for: none is drawn by chance.
    best = {frozenset(pool[place]["completions"]) for place in worth.topk(6).indices.tolist()}
    asked = {frozenset((row["chosen"], row["rejected"])) for row in rows(folder, "labels_1")[6:]}
    assert asked == best


def test_reward_models_learn_from_all_labels_and_are_held_to_the_same_clean_pairs(folder: Path) -> None:
    results = [json.loads(RunDir(folder / stage).results.read_text()) for stage in ("reward_1", "last")]
    assert [(own["data/train"], own["data/validation"]) for own in results] == [(6, 8), (12, 8)]
    world = ReviewsWorld(seed=0)
    clean = {(pair.prompt, *pair.completions) for pair in (world.pair(index, split="validation") for index in range(8))}
    assert {(row["prompt"], row["chosen"], row["rejected"]) for row in rows(folder, "held_out")} == clean
    assert not {row["prompt"] for row in rows(folder, "held_out")} & {row["prompt"] for row in rows(folder, "labels_1")}
