"""One measured PPO run of TRL: `python trl_ppo_worker.py JOB.json`, with the interpreter of TRL's environment.

The version has to be one with `trl.experimental.ppo`: see `trl_environment.TRL_PPO`. The job is `ppo_contest.TRLPPOJob` as JSON. TRL is
given token ids of prompts and the weights of the reward head; every completion has the full length, because there is no stop token.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import datasets
import torch
import transformers
import trl
from accelerate.utils import convert_outputs_to_fp32
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Clock(TrainerCallback):
    """When training began, when each update ended, and what TRL logged of it."""

    def __init__(self) -> None:
        self.began = 0.0
        self.ends: list[float] = []
        self.cpu: list[float] = []
        """Processor seconds of all threads at each end: what another program takes of the machine is not in them."""
        self.logs: list[dict[str, float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.time()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        self.logs.append(dict(logs or {}))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())  # TRL's step is one whole update: rollout, scores, epochs
        self.cpu.append(time.process_time())


class Sampling:
    """Seconds of each call of `generate`, beside the clock of updates."""

    def __init__(self, generate: Callable[..., Any], response: int) -> None:
        self.generate = generate
        self.response = response
        self.seconds: list[float] = []

    def __call__(self, **arguments: Any) -> Any:
        started = time.perf_counter()
        output = self.generate(**arguments)
        self.seconds.append(time.perf_counter() - started)
        sampled = output.sequences.shape[1] - arguments["input_ids"].shape[1]
        assert sampled == self.response, f"a completion ended after {sampled} tokens"
        return output


def ppo_settings(job: dict[str, Any]) -> dict[str, Any]:
    """The algorithm as TRL has it by default, at temperature 1, and of the rest what is fastest on a CPU."""
    return {
        "output_dir": job["folder"],
        "use_cpu": True,
        "bf16": False,  # what it does in transformers 5 is nothing: see main
        "gradient_checkpointing": False,  # TRL's default, True, computes every forward pass twice to save memory
        "per_device_train_batch_size": job["micro"],
        "gradient_accumulation_steps": job["episodes"] // job["micro"],
        "local_rollout_forward_batch_size": job["rollout"],
        "total_episodes": job["episodes"] * job["updates"],
        "response_length": job["response"],
        "num_ppo_epochs": job["epochs"],
        "num_mini_batches": 1,
        "stop_token": None,
        "missing_eos_penalty": None,
        "temperature": 1.0,
        "kl_coef": job["kl_coef"],
        "learning_rate": job["lr"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "optim": "adamw_torch_fused",  # one pass over memory a step; the other one is slower
        "weight_decay": 0.0,
        "num_sample_generations": 0,  # the table of samples
        "logging_steps": 1,  # where scores and KL are heard of; TRL computes them in any case
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }


def read_prompts(job: dict[str, Any]) -> list[list[int]]:
    """Token ids of the prompts of all updates, in order, and once more those of the first one.

    accelerate ends gradient accumulation with the data: in an update on the last batch, TRL would step after every micro-batch.
    """
    rows = [json.loads(line)["prompt"] for line in Path(job["examples"]).read_text().splitlines()]
    needed = job["episodes"] * job["updates"]
    assert len(rows) >= needed, f"{len(rows)} prompts are too few: {needed} are needed"
    return rows[:needed] + rows[: job["episodes"]]


def left_padded(rows: list[dict[str, list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """Prompts that all end in the last column, as TRL wants them."""
    backwards = [torch.tensor(row["input_ids"]).flip(0) for row in rows]
    return {"input_ids": pad_sequence(backwards, batch_first=True, padding_value=pad).flip(1)}


def load_models(job: dict[str, Any]) -> dict[str, Any]:
    """Policy and reference, value and reward model, all from one folder, with PyTorch's fused attention."""
    dtype = torch.bfloat16 if job["precision"] == "bf16_weights" else torch.float32
    arguments = {"dtype": dtype, "attn_implementation": "sdpa"}
    torch.manual_seed(0)  # the value head starts from random weights
    models = {name: AutoModelForCausalLM.from_pretrained(job["model"], **arguments) for name in ("model", "ref_model")}
    for name in ("value_model", "reward_model"):
        models[name] = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=1, **arguments)
    (head,) = load_file(job["head"]).values()
    assert models["reward_model"].score.bias is None, "alignkit's head has no bias"
    with torch.no_grad():
        models["reward_model"].score.weight.copy_(head)
    for name in ("ref_model", "reward_model"):
        models[name].requires_grad_(False).eval()
    for model in models.values():
        model.config.use_cache = False  # of forward passes; generate has its own setting
    return models


def autocast_rollouts(models: dict[str, Any]) -> None:
    """Do in rollouts what accelerate does in training only: it wraps the trained module, and TRL samples and scores with what is inside."""

    def wrapped(forward: Callable[..., Any]) -> Any:
        return convert_outputs_to_fp32(torch.autocast("cpu", dtype=torch.bfloat16)(forward))

    policy, value, reward = models["model"], models["value_model"], models["reward_model"]
    policy.generate = torch.autocast("cpu", dtype=torch.bfloat16)(policy.generate)  # one cast of the weights for all tokens
    models["ref_model"].forward = wrapped(models["ref_model"].forward)
    for classifier in (value, reward):
        backbone = getattr(classifier, classifier.base_model_prefix)
        backbone.forward = wrapped(backbone.forward)


def build_trainer(job: dict[str, Any], prompts: list[list[int]], models: dict[str, Any], clock: Clock) -> Any:
    config = models["model"].config
    # TRL takes whatever equals the padding token for the end of a completion. A number beyond the vocabulary is never sampled, and
    # never embedded: TRL replaces it by 0 under its mask.
    tokenizer = SimpleNamespace(pad_token_id=config.vocab_size, eos_token_id=config.eos_token_id)

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        return left_padded(rows, config.vocab_size)

    dataset = datasets.Dataset.from_list([{"input_ids": ids} for ids in prompts])
    trainer = PPOTrainer(
        args=PPOConfig(**ppo_settings(job)),
        processing_class=tokenizer,
        train_dataset=dataset,
        eval_dataset=dataset,  # a data loader is made of it whatever the settings; nothing reads it
        data_collator=collate,
        callbacks=[clock],
        **models,
    )
    # In the order of the file: TRL shuffles.
    trainer.dataloader = trainer.accelerator.prepare(DataLoader(dataset, batch_size=job["episodes"], collate_fn=collate))
    return trainer


def main(job: dict[str, Any]) -> None:
    # TRL's PPO makes its Accelerator without the `bf16` of its settings; this is what `accelerate launch --mixed_precision` sets.
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if job["precision"] in ("bf16", "bf16_rollouts") else "no"
    os.environ["ACCELERATE_USE_CPU"] = "true"
    torch.set_num_threads(job["threads"])
    transformers.logging.set_verbosity_error()
    clock = Clock()
    models = load_models(job)
    if job["precision"] == "bf16_rollouts":
        autocast_rollouts(models)
    sampling = Sampling(models["model"].generate, job["response"])
    models["model"].generate = sampling
    trainer = build_trainer(job, read_prompts(job), models, clock)
    trainer.train()
    calls = -(-job["episodes"] // job["rollout"])
    updates = [sum(sampling.seconds[start : start + calls]) for start in range(0, len(sampling.seconds), calls)]
    result = {
        "step_seconds": [end - start for start, end in zip(clock.ends, clock.ends[1:], strict=False)],
        "cpu_seconds": [end - start for start, end in zip(clock.cpu, clock.cpu[1:], strict=False)],
        "sampling_seconds": updates[1:],
        "episodes": job["episodes"],
        "scores": [log["objective/scores"] for log in clock.logs],
        "kls": [log["objective/kl"] for log in clock.logs],
        "startup_seconds": clock.began - job["started"],
        "threads": torch.get_num_threads(),
        "versions": {module.__name__: module.__version__ for module in (trl, torch, transformers, accelerate, datasets)},
        "settings": {key: job[key] for key in ("precision", "micro", "rollout", "response", "epochs")},
    }
    Path(job["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
