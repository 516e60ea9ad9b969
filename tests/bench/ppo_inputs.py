"""What both sides of a PPO comparison start from: `python ppo_inputs.py JOB.json`, with alignkit's interpreter.

The job is `ppo_contest.InputsJob` as JSON. Written into its folder:

- `prompts.jsonl`: texts, for alignkit's `dataset=local`; behind each prompt stands what follows it in the data, which PPO does not read.
- `examples.jsonl`: the same as token ids in the order of the file, for TRL where alignkit does not run.
- `run`: the directory of a run that trained nothing: the model and a fresh reward head, for `scorer=head scorer.path=`.
- `head.safetensors`: the weights of that head, `score.weight`.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from alignkit.lab.reviews import ReviewsWorld
from alignkit.loss_settings import HeadSettings
from alignkit.models.backbone import Backbone
from alignkit.models.export import save_heads, save_model
from alignkit.models.heads import Heads
from alignkit.models.loading import load_lm, load_tokenizer
from alignkit.run_dir import RunDir

TEXT = ("text", "chosen", "prompt")
"""Columns that a prompt is cut from, in the order they are looked for."""


def texts(dataset: str) -> Iterator[str]:
    """Texts of a JSONL file (also .gz), or alignkit's reviews where none is named."""
    if not dataset:
        world = ReviewsWorld(seed=0)
        yield from (world.text(index) for index in range(2000))
        return
    path = Path(dataset).expanduser()
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        for line in file:
            row = json.loads(line)
            yield next(str(row[name]) for name in TEXT if name in row)


def cut(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> tuple[str, str] | None:
    """The text in two, the first part `length` tokens long; None where it is too short or does not survive the round trip."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    prompt = tokenizer.decode(ids[:length])
    if len(ids) <= length or not text.startswith(prompt) or tokenizer(prompt, add_special_tokens=False)["input_ids"] != ids[:length]:
        return None
    return prompt, text[len(prompt) :]


def write_prompts(job: dict[str, Any], tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Both files of prompts.

    Raises:
        SystemExit: where the data have too few.
    """
    shortest, longest = job["prompt_tokens"]
    lengths = random.Random(0)
    rows = []
    for text in texts(job["dataset"]):
        parts = cut(tokenizer, text, lengths.randint(shortest, longest))
        if parts is not None:
            rows.append({"prompt": parts[0], "completion": parts[1]})
        if len(rows) == job["prompts"]:
            break
    else:
        raise SystemExit(f"dataset = {job['dataset']!r}: {len(rows)} prompts of {longest} tokens, and {job['prompts']} are needed.")
    with (folder / "prompts.jsonl").open("w") as file, (folder / "examples.jsonl").open("w") as examples:
        for row in rows:
            file.write(json.dumps(row) + "\n")
            examples.write(json.dumps({"prompt": tokenizer(row["prompt"])["input_ids"]}) + "\n")


def write_run(model: str, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """The run directory and the head apart from it."""
    backbone = Backbone(load_lm("model", model, torch.float32))
    torch.manual_seed(0)
    head = HeadSettings(name="reward", pooler="identity", dropout=0.0, init_std=None)
    heads = Heads(backbone.hidden_width, {head.name: head})
    run = RunDir.create(folder / "run")
    save_model(run.model, backbone, tokenizer)
    save_heads(run, heads, terminator=int(tokenizer.eos_token_id), tokenizer=tokenizer)
    save_file({"score.weight": heads.head(head.name).score.weight.detach().clone()}, folder / "head.safetensors")


def main(job: dict[str, Any]) -> None:
    folder = Path(job["folder"])
    tokenizer = load_tokenizer("model", job["model"])
    write_prompts(job, tokenizer, folder)
    write_run(job["model"], tokenizer, folder)
    Path(job["result"]).write_text("{}")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
