"""Labels that are known to be flipped, sought by the ledger of a run that was trained on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from alignkit.analysis.ledger import DEFAULT, recall, summaries, suspicion, visits_of
from alignkit.analysis.runs import load_runs
from alignkit.command_line import precheck
from alignkit.data.examples import PreferenceExample
from alignkit.data.sources.reviews import Reviews
from alignkit.job import carry_out
from alignkit.run_dir import RunDir

QUIET = [
    "callbacks.ledger=true",
    "callbacks.checkpoints=false",
    "callbacks.progress_bar=false",
    "hardware.threads=1",
    "logger=jsonl",
    "validation.every=1000",
    "validation.samples=0",
]


def made(noise: float, pairs: int, seed: int = 0) -> list[PreferenceExample]:
    return Reviews(
        pairs=pairs, answers=2, noise=noise, length_bias=0.0, prompts="usual", validation_prompts="usual", world_seed=seed
    ).train()


def found(folder: Path, flipped: Sequence[bool], *overrides: str) -> float:
    """The share of flipped labels in the most suspicious tenth of the pairs of a run."""
    (settings,) = precheck([*QUIET, *overrides])
    run = RunDir.create(folder)
    carry_out(settings, run)
    told = summaries(visits_of(load_runs(run.path))).set_index("key").reindex(range(len(flipped)))
    return recall(suspicion(told, DEFAULT).tolist(), flipped)


def test_a_head_finds_most_flipped_labels_of_clear_pairs(tmp_path):
    """The small twin of the next test: 291 pairs that gold tells apart clearly, 33 of them flipped, and a head on a frozen trunk."""
    both = zip(made(0.1, 450), made(0.0, 450), strict=True)
    clear = [(noisy, noisy.completions != clean.completions) for noisy, clean in both if noisy.margin > 0.6]
    rows = [{"prompt": pair.prompt, "chosen": pair.completions[0], "rejected": pair.completions[1]} for pair, _ in clear]
    for name, part in (("train", rows), ("held_out", [{**row, "prompt": f"Again: {row['prompt']}"} for row in rows[:4]])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    data = [
        "dataset=local",
        f"dataset.path={tmp_path / 'train.jsonl'}",
        f"dataset.validation_path={tmp_path / 'held_out.jsonl'}",
        "dataset.validation_examples=4",
        "dataset.max_length=128",
    ]
    recipe = ["loss=bradley_terry", "model.train=heads", "steps=100", "batch.pairs=32", "optimizer.lr=2e-3"]
    assert found(tmp_path / "run", [flipped for _, flipped in clear], *data, *recipe) >= 0.6


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("loss", ["con_dph", "bradley_terry"])
def test_the_ledger_finds_at_least_60_percent_of_10_percent_flipped_labels(loss, seed, tmp_path):
    """Three epochs of the default recipe. Flipped near-ties are found by nobody: see the README."""
    flipped = [noisy.completions != clean.completions for noisy, clean in zip(made(0.1, 2000, seed), made(0.0, 2000, seed), strict=True)]
    assert found(tmp_path / "run", flipped, f"loss={loss}", "steps=375", f"seed={seed}", f"dataset.world_seed={seed}") >= 0.6
