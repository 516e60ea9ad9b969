"""`pairs.jsonl`: the held-out pairs of the newest validation, one by one."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest
from transformers import AutoTokenizer

from alignkit.callbacks import held_out_pairs
from alignkit.callbacks.held_out_pairs import best_and_worst
from alignkit.command_line import precheck
from alignkit.data.collate import collate
from alignkit.data.examples import EncodedExample
from alignkit.job import carry_out
from alignkit.run_dir import RunDir, Scalar, read_jsonl

SHORT = [
    "hardware.threads=1",
    "steps=2",
    "schedule.warmup_steps=0",
    "validation.every=1",
    "validation.samples=0",
    "dataset.validation_examples=6",
    "batch.pairs=4",
    "batch.tokens=256",
    "logger=jsonl",
    "callbacks.checkpoints=false",
    "callbacks.progress_bar=false",
]
TINY = Path(__file__).parents[2] / "alignkit/lab/pretrained/tiny"


def train(folder: Path, *overrides: str, size: str = "dataset.pairs=16") -> tuple[RunDir, dict[str, Scalar]]:
    (settings,) = precheck([*SHORT, size, *overrides])
    run = RunDir.create(folder)
    return run, carry_out(settings, run)


def check_means(run: RunDir, results: dict[str, Scalar], names: list[str]) -> None:
    """The rows are those whose means were logged last."""
    rows = list(read_jsonl(run.pairs))
    assert len(rows) == 6
    assert {row["step"] for row in rows} == {2}
    for name in names:
        assert fmean(row[name] for row in rows) == pytest.approx(results[f"val/{name}"], abs=1e-5), name


REWARDS = ["rewards/chosen", "rewards/rejected"]
IMPLICIT = ["implicit_rewards/chosen", "implicit_rewards/rejected"]


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["loss=dpo"], REWARDS),
        (["loss=con_dph"], REWARDS + IMPLICIT),
        (["loss=kto"], REWARDS),
        (["loss=plackett_luce_dpo", "dataset.answers=4"], REWARDS),
        (["loss=plackett_luce", "dataset.answers=4"], REWARDS),
    ],
    ids=["dpo", "con_dph", "kto", "rankings", "rankings of a head"],
)
def test_rewards_are_those_whose_means_are_logged(overrides, names, tmp_path):
    run, results = train(tmp_path / "run", *overrides)
    check_means(run, results, names)
    assert {name for row in read_jsonl(run.pairs) for name in row if "/" in name} == set(names)


def test_texts_are_those_of_the_held_out_pairs(tmp_path):
    run, _ = train(tmp_path / "run", "loss=dpo")
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    rows = list(read_jsonl(run.pairs))
    assert len({(row["prompt"], row["chosen"]) for row in rows}) == 6
    for row in rows:
        for side in ("chosen", "rejected"):
            assert row[f"{side}_tokens"] == len(tokenizer(row[side], add_special_tokens=False)["input_ids"]) + 1  # its terminator
        assert row["chosen"] != row["rejected"]


def test_unpaired_labels_are_validated_on_pairs(tmp_path):
    run, results = train(tmp_path / "run", "loss=kto", "dataset=reviews_unpaired", size="dataset.labels=16")
    check_means(run, results, REWARDS)


def test_what_has_no_rewards_writes_no_pairs(tmp_path):
    run, _ = train(tmp_path / "run", "loss=sft")
    assert not run.pairs.exists()


def test_rewards_of_a_part_of_a_mixture_write_no_pairs(tmp_path):
    parts = "{a: {source: reviews, pairs: 16}, b: {source: reviews, pairs: 16, world_seed: 5}}"
    terms = "{prefer: {loss: dpo, beta: 0.1, source: a}, imitate: {loss: sft, source: b}}"
    mixture = ["loss=composite", f"loss.parts={terms}", "dataset=mixture", "batch.tokens=64"]  # a pair a batch: some are of the part alone
    run, results = train(tmp_path / "run", *mixture, size=f"dataset.parts={parts}")
    assert "val/rewards/chosen" in results
    assert not run.pairs.exists()


def test_no_more_pairs_are_kept_than_it_says(tmp_path, monkeypatch):
    whole, _ = train(tmp_path / "whole", "loss=dpo")
    monkeypatch.setattr(held_out_pairs, "MOST_PAIRS", 4)
    run, _ = train(tmp_path / "run", "loss=dpo")
    assert list(read_jsonl(run.pairs)) == list(read_jsonl(whole.pairs))[:4]


def example(*, ranks: tuple[int, ...], desirable: tuple[bool, ...] = ()) -> EncodedExample:
    return EncodedExample(key=0, prompt_ids=(5,), completion_ids=((6, 2),) * len(ranks), ranks=ranks, desirable=desirable)


def test_the_pair_of_a_ranking_is_its_best_and_its_worst():
    batch = collate([[example(ranks=(2, 0, 1), desirable=(False, True, True)), example(ranks=(0, 1))]], "packed")
    assert best_and_worst(batch) == [(1, 0), (0, 1)]


@pytest.mark.parametrize(
    "odd",
    [
        example(ranks=(0, 0, 1), desirable=(True, True, False)),
        example(ranks=(0, 1, 1)),
        example(ranks=(0,)),
        example(ranks=(0, 1), desirable=(True, True)),
        example(ranks=(0, 1), desirable=(False, False)),
    ],
    ids=["two best", "two worst", "single", "both desirable", "none desirable"],
)
def test_a_batch_with_an_example_that_is_no_pair_has_none(odd):
    assert best_and_worst(collate([[example(ranks=(0, 1)), odd]], "packed")) is None
