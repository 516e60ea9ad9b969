"""Models at their real size and shape, and models and data from the real world."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from alignkit.command_line import precheck
from alignkit.job import carry_out
from alignkit.models.export import load_aligned
from alignkit.run_dir import RunDir, read_jsonl

TINY = Path(__file__).parents[2] / "alignkit/lab/pretrained/tiny"
SHORT = [
    "steps=2",
    "schedule.warmup_steps=1",
    "validation.every=2",
    "validation.samples=1",
    "validation.sample_tokens=4",
    "callbacks.progress_bar=false",
    "callbacks.checkpoints=false",
    "logger=jsonl",
    "logger.every=1",
]


def train(tmp_path: Path, *overrides: str) -> tuple[RunDir, dict[str, object]]:
    (settings,) = precheck([*SHORT, *overrides])
    run = RunDir.create(tmp_path / "run")
    return run, carry_out(settings, run)


@pytest.mark.slow
def test_gpt2_at_its_full_size_trains_from_a_folder(tmp_path):
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(tmp_path / "gpt2")
    AutoTokenizer.from_pretrained(TINY).save_pretrained(tmp_path / "gpt2")
    run, results = train(
        tmp_path,
        "loss=con_dph",
        "model=gpt2",
        f"model.path={tmp_path / 'gpt2'}",
        "dataset.pairs=16",
        "dataset.validation_examples=2",
        "batch.pairs=2",
    )
    assert results["parameters"] == 124_439_808
    assert results["layout"] == "packed"
    assert results["certificate/expected_first_loss/dpo"] == pytest.approx(0.6931471805599453, abs=1e-6)
    assert load_aligned(run.path).heads.head("dph").score.in_features == 768


@pytest.mark.real
@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_a_trained_model_on_human_preferences_starts_at_ln_2(layout, shared, tmp_path):
    run, results = train(
        tmp_path,
        "loss=dpo",
        "model=hf",
        f"model.path={shared / 'models/stories260k'}",
        "dataset=hh_rlhf",
        f"dataset.path={shared / 'data/hh_rlhf/harmless_base_test.jsonl.gz'}",
        "dataset.max_length=256",
        "dataset.validation_examples=4",
        "batch.pairs=4",
        f"batch.layout={layout}",
    )
    assert results["certificate/first_loss"] == pytest.approx(0.6931471805599453, abs=1e-5)
    assert [results["start/val/rewards/chosen"], results["start/val/rewards/rejected"]] == pytest.approx([0.0, 0.0], abs=1e-5)
    assert results["certificate/reference_error"] < 1e-5
    assert results["data/empty"] == 4
    assert results["data/prompt_mismatch"] == 1
    AutoModelForCausalLM.from_pretrained(run.model)


@pytest.mark.real
def test_stories_are_still_told_after_training_a_head(shared, tmp_path):
    run, _ = train(
        tmp_path,
        "loss=sep_dph",
        "loss.dpo_weight=0",
        "model.train=heads",
        "model=hf",
        f"model.path={shared / 'models/stories260k'}",
        "dataset.pairs=8",
        "dataset.validation_examples=2",
        "batch.pairs=4",
    )
    aligned = load_aligned(run.path)
    ids = torch.tensor([aligned.tokenizer("Once upon a time")["input_ids"]])
    told = aligned.backbone.lm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False)
    text = aligned.tokenizer.decode(told[0], skip_special_tokens=True)
    assert text.startswith("Once upon a time, there was a little girl named Lily.")


@pytest.mark.real
@pytest.mark.slow
def test_a_chat_model_whose_pad_token_is_its_terminator_starts_at_ln_2(shared, tmp_path):
    model = os.environ.get("ALIGNKIT_SMOLLM2")
    if model is None:
        pytest.skip("no SmolLM2: python models/smollm2.py DIR beside the data makes it, then set ALIGNKIT_SMOLLM2=DIR")
    _, results = train(
        tmp_path,
        "loss=dpo",
        "reference=memory",
        "model=hf",
        f"model.path={model}",
        "precision=bf16",
        "dataset=hh_rlhf",
        f"dataset.path={shared / 'data/hh_rlhf/harmless_base_test.jsonl.gz'}",
        "dataset.validation_examples=4",
        "dataset.max_length=256",
        "batch.pairs=4",
    )
    assert results["certificate/first_loss"] == pytest.approx(0.6931471805599453, abs=1e-6)
    assert results["start/val/rewards/chosen"] == results["start/val/rewards/rejected"] == 0.0
    assert results["certificate/terminated_completions"] == 8


@pytest.mark.real
@pytest.mark.parametrize("loss", ["ppo", pytest.param("rloo", marks=pytest.mark.slow)])
def test_a_model_that_tells_stories_learns_to_tell_what_a_rule_likes(loss, shared, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    names = ("Tim", "Lily", "Sam", "Anna", "Ben", "Sue", "Max", "Mia")
    rows = [{"prompt": f"{time}, {name} went out.", "chosen": " The sun was up."} for time in ("One day", "Once") for name in names]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, results = train(
        tmp_path,
        f"loss={loss}",
        "loss.epochs=2",
        "loss.kl_coefficient=0.02",
        "scorer=regex",
        "scorer.pattern=happy|fun|smile",
        "model=hf",
        f"model.path={shared / 'models/stories260k'}",
        "dataset=local",
        f"dataset.path={prompts}",
        "dataset.validation_examples=8",
        "dataset.format=text",
        "steps=12",
        "batch.pairs=8",
        "rollout.samples=8",
        "rollout.max_tokens=24",
        "optimizer.lr=1e-3",
        "validation.every=100",
        "logger.every=1",
        "hardware.threads=1",
    )
    scores = [row["train/objective/scores"] for row in read_jsonl(tmp_path / "run/metrics.jsonl") if "train/objective/scores" in row]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.2
    assert results["certificate/first_ratio_error"] < 1e-4
    assert results["certificate/first_kl_error"] < 1e-4
