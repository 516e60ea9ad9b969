"""The vLLM backend against a stand-in for vLLM that samples with transformers: its calls, the weights that it sees, and a run with it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from alignkit.command_line import precheck
from alignkit.errors import UserError
from alignkit.job import carry_out
from alignkit.metrics import IMPORTANCE, SAMPLER_ERROR
from alignkit.models.backbone import Backbone
from alignkit.run_dir import RunDir, read_jsonl
from alignkit.sampling.vllm_sampler import VLLMSampler

TERMINATOR = 2


@dataclass(kw_only=True)
class SamplingParams:
    """What the stand-in knows of vLLM's; any other argument is a TypeError."""

    n: int
    temperature: float
    max_tokens: int
    stop_token_ids: list[int]
    ignore_eos: bool
    logprobs: int
    detokenize: bool
    seed: int


class LLM:
    """Reads a folder when it is built and when it is told to, and samples token by token."""

    built: list[LLM] = []  # noqa: RUF012  emptied by the fixture
    error = 0.0
    """Added to all log-probs that are reported."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.calls: list[str] = []
        self.parameters: list[SamplingParams] = []
        self.collective_rpc("reload_weights")
        LLM.built.append(self)

    def collective_rpc(self, method: str) -> None:
        self.calls.append(method)
        self.lm: PreTrainedModel = AutoModelForCausalLM.from_pretrained(self.options["model"], dtype=self.options["dtype"])

    def reset_prefix_cache(self) -> bool:
        self.calls.append("reset_prefix_cache")
        return True

    def generate(self, prompts: Sequence[dict[str, list[int]]], parameters: Sequence[SamplingParams], *, use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        self.parameters = list(parameters)
        return [
            SimpleNamespace(outputs=[self._continue(prompt["prompt_token_ids"], own, own.seed + number) for number in range(own.n)])
            for prompt, own in zip(prompts, parameters, strict=True)
        ]

    @torch.no_grad()
    def _continue(self, prompt: list[int], own: SamplingParams, seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        ids: list[int] = []
        reported = []
        while len(ids) < own.max_tokens and not (ids and ids[-1] in own.stop_token_ids):
            scaled = self.options["logprobs_mode"] == "processed_logprobs"
            logits = self.lm(torch.tensor([[*prompt, *ids]])).logits[0, -1].float()
            drawn = int(torch.multinomial((logits / own.temperature).softmax(-1), 1, generator=generator))
            logps = (logits / own.temperature if scaled else logits).log_softmax(-1)
            ids.append(drawn)
            reported.append({drawn: SimpleNamespace(logprob=float(logps[drawn]) + LLM.error)})
        return SimpleNamespace(token_ids=ids, logprobs=reported)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    module = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(LLM, "built", [])
    monkeypatch.setattr(LLM, "error", 0.0)
    return LLM


@pytest.fixture
def sampler(vllm, lm_factory, tokenizer_factory) -> Callable[..., tuple[VLLMSampler, Backbone]]:
    def build(temperature: float = 1.0) -> tuple[VLLMSampler, Backbone]:
        backbone = Backbone(lm_factory("llama"))
        options = {"terminator": TERMINATOR, "max_tokens": 5, "positions": 20, "dtype": "float32"}
        return VLLMSampler(backbone, tokenizer_factory(), temperature=temperature, **options), backbone

    return build


PROMPTS = [(5, 6, 7), (8,), (5, 6, 7)]


def test_the_engine_is_built_once_and_given_the_weights_before_each_call(sampler, vllm) -> None:
    draw, backbone = sampler()
    assert vllm.built == []
    first = draw(PROMPTS, samples=2, seed=0)
    (engine,) = vllm.built
    assert engine.calls == ["reload_weights"]  # by the constructor
    assert draw(PROMPTS, samples=2, seed=0) == first
    with torch.no_grad():
        backbone.lm.get_output_embeddings().weight.mul_(2)
    other = draw(PROMPTS, samples=2, seed=0)
    assert vllm.built == [engine]
    assert engine.calls == ["reload_weights", *["reload_weights", "reset_prefix_cache"] * 2]
    assert other != first
    assert torch.equal(engine.lm.get_output_embeddings().weight, backbone.lm.get_output_embeddings().weight)


def test_what_vllm_is_asked_for(sampler, vllm) -> None:
    draw, _ = sampler(temperature=0.7)
    draw(PROMPTS, samples=3, seed=4)
    (engine,) = vllm.built
    options = {name: value for name, value in engine.options.items() if name not in ("model", "gpu_memory_utilization")}
    assert options == {"logprobs_mode": "processed_logprobs", "max_model_len": 20, "dtype": "float32"}
    assert {(own.n, own.temperature, own.max_tokens, own.ignore_eos) for own in engine.parameters} == {(3, 0.7, 5, True)}
    assert {tuple(own.stop_token_ids) for own in engine.parameters} == {(TERMINATOR,)}


def test_each_prompt_has_its_own_numbers_and_each_seed_others(sampler) -> None:
    draw, _ = sampler()
    drawn = [draw(PROMPTS, samples=4, seed=seed) for seed in (0, 1)]
    assert drawn[0][0] != drawn[0][2]  # the same prompt twice
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_the_policy_that_was_sampled(sampler, temperature: float) -> None:
    draw, backbone = sampler(temperature)
    for prompt, samples in zip(PROMPTS, draw(PROMPTS, samples=2, seed=0), strict=True):
        for sample in samples:
            assert len(sample.ids) == 5 or sample.ids[-1] == TERMINATOR
            assert TERMINATOR not in sample.ids[:-1]
            with torch.no_grad():
                logits = backbone.lm(torch.tensor([[*prompt, *sample.ids]])).logits[0, len(prompt) - 1 : -1] / temperature
            expected = logits.log_softmax(-1).gather(1, torch.tensor(sample.ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(sample.logps), expected, rtol=0, atol=1e-4)


def test_the_folder_goes_with_the_sampler(sampler, vllm) -> None:
    draw, _ = sampler()
    draw(PROMPTS[:1], samples=1, seed=0)
    folder = Path(vllm.built[0].options["model"])
    assert (folder / "model.safetensors").exists()
    del draw
    assert not folder.exists()


RUN = ["loss=rloo", "scorer=length", "rollout.backend=vllm", "steps=2", "batch.pairs=2", "rollout.samples=2", "rollout.max_tokens=4"]
QUIET = ["logger=jsonl", "logger.every=1", "callbacks.checkpoints=false", "callbacks.progress_bar=false", "schedule.warmup_steps=0"]
FEW = ["dataset.pairs=12", "dataset.validation_examples=4", "validation.samples=1", "validation.sample_tokens=2", "validation.every=2"]


def run_briefly(folder: Path, *overrides: str) -> RunDir:
    (settings,) = precheck([*RUN, *QUIET, *FEW, *overrides])
    run = RunDir.create(folder / "run")
    carry_out(settings, run)
    return run


def test_a_run_weighs_what_the_engine_drew(vllm, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(LLM, "error", -0.005)  # the engine thinks each token a little less likely than the trunk does
    run = run_briefly(tmp_path)
    rows = [row for row in read_jsonl(run.metrics) if f"train/{IMPORTANCE}" in row]
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row[f"train/{IMPORTANCE}"] == pytest.approx(2.718281828**0.005, abs=1e-3)
        assert row[f"train/{SAMPLER_ERROR}"] == pytest.approx(0.005, abs=1e-3)
    (engine,) = vllm.built
    assert len(engine.calls) > 3  # validations and updates


def test_an_engine_that_is_off_by_more_than_rounding_is_refused(vllm, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(LLM, "error", 0.2)
    with pytest.raises(UserError, match=r"log-probs differ by up to 0\.2 nats \(at most 0\.1 is rounding\)"):
        run_briefly(tmp_path)


def test_weights_are_capped(vllm, tmp_path: Path) -> None:
    (settings,) = precheck([*RUN, *QUIET, *FEW, "rollout.importance_cap=1"])
    assert settings.rollout.weighs_samples
    with pytest.raises(UserError, match=re.escape("rollout.importance_cap = 1 has no effect")):
        run_briefly(tmp_path, "rollout.backend=torch", "rollout.importance_cap=1")


def test_without_vllm_a_run_ends_before_weights_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("alignkit.assembly.build_models", lambda *_, **__: pytest.fail("weights were loaded"))
    with pytest.raises(UserError, match=r"rollout\.backend = 'vllm': vllm is not installed\. Type `pip install vllm`, or rollout\.backend"):
        run_briefly(tmp_path)
