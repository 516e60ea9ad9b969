"""`python -m alignkit.generate` as a user runs it: sampling, ranking, keeping, and training on what was kept."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import datasets
import pytest
import torch
from transformers import AutoTokenizer

from alignkit import generate as shell
from alignkit.command_line import precheck
from alignkit.generation.answering import Answering
from alignkit.generation.config import carry_out
from alignkit.job import carry_out as carry_out_training
from alignkit.metrics import GOLD, KL, KL_K3, LENGTH, SCORES
from alignkit.models.export import load_aligned
from alignkit.run_dir import RunDir, Scalar
from alignkit.scorers.sentiment import compound

SMALL = ("dataset.pairs=40", "dataset.validation_examples=6", "batch.pairs=4")
SHORT = ("steps=3", "schedule.warmup_steps=1", "validation.samples=0", "callbacks.progress_bar=false", "callbacks.checkpoints=false")
Generated = tuple[RunDir, dict[str, Scalar], list[dict[str, Any]]]
Generate = Callable[..., Generated]


@pytest.fixture
def generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generate:
    """Runs the command's work in this process: the run's directory, its results and its samples."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str) -> Generated:
        generation = shell.parse([*SMALL, "max_tokens=12", *overrides]).generation
        run = RunDir.create(tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}")
        return run, carry_out(generation, run), rows(run.samples)

    return run


@pytest.fixture(scope="module")
def dph(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A short run with the head `dph`."""
    (settings,) = precheck([*SMALL, *SHORT, "loss=con_dph", "optimizer.lr=0.003", "logger=jsonl"])
    run = RunDir.create(tmp_path_factory.mktemp("runs") / "dph")
    carry_out_training(settings, run)
    return run


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_samples_are_scored_ranked_and_kept(generate: Generate) -> None:
    run, results, samples = generate("rank_by=vader", "samples=4", "keep=best", "validation.gold=length")
    assert results == json.loads(run.results.read_text())
    assert len(samples) == results["prompts"] == 6
    assert all(len(row[name]) == 4 for row in samples for name in ("completions", "scores", "finished", "tokens", "gold"))
    for row in samples:
        assert row["scores"] == pytest.approx([compound(text) for text in row["completions"]], abs=1e-6)
        assert row["gold"] == [-abs(len(text.split()) - 20) for text in row["completions"]]
    assert results[SCORES] == pytest.approx(fmean(score for row in samples for score in row["scores"]))
    assert results[GOLD] == pytest.approx(fmean(gold for row in samples for gold in row["gold"]))
    assert results[LENGTH] == pytest.approx(fmean(count for row in samples for count in row["tokens"]))
    assert results["best_of_4/score"] == pytest.approx(fmean(max(row["scores"]) for row in samples))
    assert results["tokens"] == sum(sum(row["tokens"]) for row in samples)
    kept = [(row["prompt"], row["chosen"]) for row in rows(run.path / "kept.jsonl")]
    assert kept == [(row["prompt"], row["completions"][row["scores"].index(max(row["scores"]))]) for row in samples]


def test_samples_follow_from_the_seed(generate: Generate) -> None:
    _, _, first = generate("samples=2")
    _, _, second = generate("samples=2")
    _, _, other = generate("samples=2", "seed=1")
    assert first == second
    assert [row["prompt"] for row in first] == [row["prompt"] for row in other]
    assert [row["completions"] for row in first] != [row["completions"] for row in other]
    assert first[0]["scores"] is None


def test_prompts_come_from_a_file_in_its_order(generate: Generate) -> None:
    Path("asked.txt").write_text('Review of "A":\nI saw "B" last week. It was a long film with many people in it.\nReview of "C":\n')
    run, _, samples = generate("prompts=asked.txt", "batch.pairs=2", "out=copy.jsonl", "samples=1")
    assert [row["prompt"] for row in samples] == Path("asked.txt").read_text().splitlines()
    assert Path("copy.jsonl").read_bytes() == run.samples.read_bytes()
    assert not (run.path / "kept.jsonl").exists()


def test_a_head_of_the_run_ranks_its_samples_as_it_scores_them_elsewhere(generate: Generate, dph: RunDir) -> None:
    _, results, samples = generate(f"model.path={dph.path}", "rank_by=dph", "samples=4")
    aligned, tokenizer = load_aligned(dph.path), AutoTokenizer.from_pretrained(dph.model)
    head = aligned.heads.head("dph")
    checked = 0
    for row in samples:
        for text, score, count, finished in zip(row["completions"], row["scores"], row["tokens"], row["finished"], strict=True):
            prompt, whole = (tokenizer(part)["input_ids"] for part in (row["prompt"], row["prompt"] + text))
            whole = whole + [tokenizer.eos_token_id] * finished
            if len(whole) - len(prompt) != count:
                continue  # the text is written with other tokens than were sampled
            with torch.no_grad():
                states = aligned.backbone.decoder(input_ids=torch.tensor([whole])).last_hidden_state
                expected = float(head(states[:, -1]))
            assert score == pytest.approx(expected, abs=1e-4)
            checked += 1
    assert checked > 12
    assert results["best_of_4/score"] > results["best_of_1/score"]  # type: ignore[operator]


def test_the_kl_from_the_model_itself_is_nought_and_that_of_a_trained_one_is_not(generate: Generate, dph: RunDir) -> None:
    _, same, _ = generate("reference.path=builtin:tiny", "samples=2", "temperature=0.7")
    assert same[KL] == same[KL_K3] == 0.0
    assert same["policy_fingerprint"] == same["reference_fingerprint"]
    _, moved, _ = generate(f"model.path={dph.path}", "reference.path=builtin:tiny", "samples=2")
    assert moved[KL_K3] > 0.0  # type: ignore[operator]


@pytest.mark.parametrize(("keep", "loss"), [("rso", "dpo"), ("quantile", "sft")])
def test_training_goes_on_from_what_was_kept(generate: Generate, tmp_path: Path, keep: str, loss: str) -> None:
    kept, results, _ = generate("rank_by=vader", "samples=8", f"keep={keep}", "prompts=dataset:train", "dataset.pairs=12", "max_tokens=8")
    path = f"dataset.path={kept.path / 'kept.jsonl'}"
    local = ("dataset=local", path, "dataset.validation_examples=3", "dataset.max_dropped=0")
    (settings,) = precheck([f"loss={loss}", *SHORT, *local, "batch.pairs=4", "logger=jsonl"])
    trained = carry_out_training(settings, RunDir.create(tmp_path / "trained"))
    assert trained["data/rows"] == results["kept"]
    assert results["kept"] > 6  # type: ignore[operator]


def test_bfloat16_samples_and_scores(generate: Generate, dph: RunDir) -> None:
    for precision in ("bf16", "bf16_true"):
        _, results, _ = generate(f"model.path={dph.path}", "rank_by=dph", "samples=2", f"precision={precision}", "validation.gold=vader")
        assert abs(float(results[SCORES])) < 100  # type: ignore[arg-type]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Calls the command in this process with these lines on standard input, and returns its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str, lines: str = "") -> int:
        monkeypatch.setattr(sys, "argv", ["alignkit-generate", *SMALL, "max_tokens=12", "run_dir=mine", *argv])
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        return shell.main()

    return run


def test_a_dialogue_is_answered_as_it_goes_and_every_turn_is_a_row(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("prompts=chat", lines="Hello\nAnd the plot?\n") == 0
    samples = rows(Path("mine/samples.jsonl"))
    assert [len(row["prompt"]) for row in samples] == [1, 3]
    assert samples[1]["prompt"][1] == {"role": "assistant", "content": samples[0]["completions"][0]}
    out = capsys.readouterr().out
    assert out.startswith(f"> {samples[0]['completions'][0]}\n> {samples[1]['completions'][0]}\n> \n")


def test_lines_are_answered_and_rows_streamed(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("prompts=-", "out=-", "rank_by=vader", "keep=pairs", "samples=8", lines='Review of "A":\nReview of "B":\n') == 0
    said = capsys.readouterr()
    assert said.out == Path("mine/kept.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["prompt"] for line in said.out.splitlines()] == ['Review of "A":', 'Review of "B":']


def test_an_interruption_leaves_the_rows_that_were_written(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Answering, batches: Callable[[Answering], Iterator[Any]] = Answering.batches) -> Iterator[Any]:
        yield next(batches(self))
        raise KeyboardInterrupt

    monkeypatch.setattr(Answering, "batches", interrupted)
    assert command() == 130
    assert len(rows(Path("mine/samples.jsonl"))) == 4
    assert "run: " in capsys.readouterr().out


def test_what_cannot_work_is_told_before_weights_are_loaded_and_leaves_nothing(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignkit.generation.answering.load_backbone", lambda *_: pytest.fail("weights were loaded"))
    for argv, words in (
        (["max_tokens=512"], "rollout.max_tokens = 512: the model has positions for 512, prompt included."),
        (["prompts=-"], "prompts: there is none."),
    ):
        assert command(*argv) == 2
        assert words in capsys.readouterr().err
        assert not Path("mine").exists()
