"""One measured run of TRL: `python trl_worker.py JOB.json`, with the interpreter of TRL's environment.

The job is `contest.TRLJob` as JSON. TRL is given alignkit's token ids: what is compared is training, not tokenisation.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import accelerate
import datasets
import torch
import transformers
import trl
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.trainer.utils import disable_dropout_in_model


class Clock(TrainerCallback):
    """When training began and each optimiser step ended."""

    def __init__(self) -> None:
        self.began = 0.0
        self.ends: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())


def recording(base: type[Any]) -> type[Any]:
    """TRL's trainer, which also keeps the loss and the tokens of each micro-batch; its logs round the one and average the other."""

    class Recording(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.kept_losses: list[torch.Tensor] = []
            self.kept_tokens: list[int] = []
            self.reference_seconds = 0.0
            super().__init__(*args, **kwargs)

        def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
            mask = inputs.get("attention_mask")
            self.kept_tokens.append(int(inputs["input_ids"].numel() if mask is None else mask.sum()))
            loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
            self.kept_losses.append(loss.detach())
            return loss

        def _precompute_ref_logps(self, *args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            dataset = super()._precompute_ref_logps(*args, **kwargs)
            self.reference_seconds += time.perf_counter() - started
            return dataset

    return Recording


class TokenisedDPO(trl.DPOTrainer):  # type: ignore[misc]
    """DPOTrainer alone of the three tokenises whatever it is given; its collator reads the columns that are made here."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


def common_settings(job: dict[str, Any]) -> dict[str, Any]:
    """What every trainer is told: alignkit's hyper-parameters, and of the rest what is fastest on a CPU."""
    return {
        "output_dir": job["folder"],
        "use_cpu": True,
        "bf16": job["precision"] == "bf16",  # autocast over float32 weights, as alignkit's precision=bf16
        "gradient_checkpointing": False,  # TRL's default, True, computes every forward pass twice to save memory
        "per_device_train_batch_size": job["micro"],
        "gradient_accumulation_steps": job["accumulation"],
        "max_steps": job["steps"],
        "max_length": job["max_length"],  # of a prompt with one completion; the data are cut to it already
        "train_sampling_strategy": "sequential",  # the examples come in alignkit's order
        "learning_rate": job["lr"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "optim": "adamw_torch_fused",  # one pass over memory a step; the other one is slower
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "dataloader_num_workers": 0,  # collating takes milliseconds, a worker process takes a core
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
        # Not set: use_liger_kernel and use_kernels have no CPU kernels; torch_compile compiles again for every batch width.
    }


def read_examples(job: dict[str, Any]) -> list[dict[str, list[int]]]:
    """The examples as the columns that each trainer reads, which have their end-of-text token already."""
    rows = [json.loads(line) for line in Path(job["examples"]).read_text().splitlines()]
    rows = [row for row in rows if row["step"] < job["steps"]]
    for row in rows:
        assert all(len(row["prompt"]) + len(ids) <= job["max_length"] for ids in row["completions"]), "TRL would cut this"
    match job["objective"]:
        case "dpo":
            return [{"prompt_ids": r["prompt"], "chosen_ids": r["completions"][0], "rejected_ids": r["completions"][1]} for r in rows]
        case "reward":
            return [dict(zip(("chosen_ids", "rejected_ids"), (r["prompt"] + ids for ids in r["completions"]), strict=True)) for r in rows]
        case _:
            return [
                {"input_ids": r["prompt"] + r["completions"][0], "labels": [-100] * len(r["prompt"]) + r["completions"][0]} for r in rows
            ]


def load_model(job: dict[str, Any]) -> Any:
    """Float32 weights, with PyTorch's fused attention; a reward model starts from alignkit's head."""
    arguments = {"dtype": torch.float32, "attn_implementation": "sdpa"}
    if job["objective"] != "reward":
        model = AutoModelForCausalLM.from_pretrained(job["model"], **arguments)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=1, **arguments)
        (head,) = load_file(job["head"]).values()
        assert model.score.bias is None, "alignkit's head has no bias"
        with torch.no_grad():
            model.score.weight.copy_(head)
    disable_dropout_in_model(model)  # SFTTrainer has no option for it
    return model


def load_tokenizer(job: dict[str, Any], examples: list[dict[str, list[int]]]) -> Any:
    """The model's tokenizer, which pads with a token that the examples do not contain.

    A classifier reads its score at the last token that is not padding: where padding is the end-of-text token, one token too early.
    """
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    used = {token for example in examples for ids in example.values() for token in ids}
    tokenizer.pad_token = next(token for token, number in sorted(tokenizer.get_vocab().items()) if number not in used)
    return tokenizer


def build_trainer(job: dict[str, Any], examples: list[dict[str, list[int]]], clock: Clock) -> Any:
    settings = common_settings(job)
    parts = {
        "model": load_model(job),
        "train_dataset": datasets.Dataset.from_list(examples),
        "processing_class": load_tokenizer(job, examples),
        "callbacks": [clock],
    }
    match job["objective"]:
        case "dpo":
            # The reference is run once before training, so that a step computes the policy alone.
            own = {"beta": job["beta"], "loss_type": ["sigmoid"], "precompute_ref_log_probs": True, "disable_dropout": True}
            return recording(TokenisedDPO)(args=trl.DPOConfig(**settings, **own), **parts)
        case "reward":
            own = {"center_rewards_coefficient": None, "disable_dropout": True, "pad_token": parts["processing_class"].pad_token}
            return recording(trl.RewardTrainer)(args=trl.RewardConfig(**settings, **own), **parts)
        case _:
            # `wrapped` fills rows to the last token and lets examples see each other. `padding_free`, which `bfd` brings along, does not:
            # without an attention mask transformers tells examples in a row apart by their positions, which admission checks.
            packed, free = job["layout"] in ("bfd", "wrapped"), job["layout"] == "padding_free"
            own = {"packing": packed, "padding_free": free, "completion_only_loss": True}
            if packed:
                own["packing_strategy"] = job["layout"]
            if free:
                settings["max_length"] = None  # TRL refuses to be given both; the data are cut already
            return recording(trl.SFTTrainer)(args=trl.SFTConfig(**settings, **own), **parts)


def sums(values: list[Any], size: int) -> list[float]:
    """Of each `size` micro-batches, which are a step."""
    return [float(sum(values[start : start + size])) for start in range(0, len(values), size)]


def main(job: dict[str, Any]) -> None:
    torch.set_num_threads(job["threads"])
    transformers.logging.set_verbosity_error()
    clock = Clock()
    trainer = build_trainer(job, read_examples(job), clock)
    trainer.train()
    if job["save"]:
        trainer.save_model(os.path.join(job["folder"], "model"))
    result = {
        "losses": sums(trainer.kept_losses, job["accumulation"]),
        "tokens": sums(trainer.kept_tokens, job["accumulation"])[1:],
        "step_seconds": [end - start for start, end in zip(clock.ends, clock.ends[1:], strict=False)],
        "startup_seconds": clock.began - job["started"] - trainer.reference_seconds,
        "reference_seconds": trainer.reference_seconds,
        "threads": torch.get_num_threads(),
        "versions": {module.__name__: module.__version__ for module in (trl, torch, transformers, accelerate, datasets)},
        "settings": {key: job[key] for key in ("precision", "micro", "accumulation", "layout")},
    }
    Path(job["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
