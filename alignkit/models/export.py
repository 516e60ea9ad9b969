"""Trained models as folders that other tools load."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from alignkit.errors import UserError
from alignkit.models.backbone import Backbone
from alignkit.models.heads import Heads
from alignkit.models.loading import load_lm, load_tokenizer
from alignkit.run_dir import RunDir
from alignkit.settings import HeadSettings


def save_model(folder: Path, backbone: Backbone, tokenizer: PreTrainedTokenizerBase) -> None:
    """A Hugging Face folder (safetensors) that `AutoModelForCausalLM.from_pretrained` loads, tokenizer included."""
    backbone.lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_heads(run: RunDir, heads: Heads, *, terminator: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """`heads.safetensors`, and in `heads.json` how each head pools and which token it reads."""
    save_file({name: tensor.contiguous() for name, tensor in heads.state_dict().items()}, run.heads)
    description = {
        name: {
            **asdict(heads.head(name).settings),
            "hidden_width": heads.head(name).score.in_features,
            "reads": "the hidden state after the final norm at the completion's last token, which ends with the terminator",
            "terminator_id": terminator,
            "terminator": tokenizer.convert_ids_to_tokens(terminator),
        }
        for name in heads
    }
    run.heads_description.write_text(json.dumps(description, indent=2) + "\n")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class AlignedModel:
    """What a run produced."""

    backbone: Backbone
    heads: Heads
    """Empty where the run trained none."""
    tokenizer: PreTrainedTokenizerBase


def load_aligned(path: str | Path, dtype: torch.dtype = torch.float32) -> AlignedModel:
    """The language model, heads and tokenizer of a run directory, in evaluation mode.

    Raises:
        UserError: when the directory holds no `model/`, or heads that do not fit it.
    """
    run = RunDir(Path(path))
    if not run.model.is_dir():
        raise UserError(f"{run.path}: holds no model/ folder, so it is no finished run.")
    backbone = Backbone(load_lm("model", str(run.model), dtype))
    heads = Heads(backbone.hidden_width, {})
    if run.heads_description.is_file():
        settings = {name: _head_settings(name, entry) for name, entry in json.loads(run.heads_description.read_text()).items()}
        heads = Heads(backbone.hidden_width, settings)
        try:
            heads.load_state_dict(load_file(run.heads))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{run.heads}: the heads do not fit the model ({error})") from None
    return AlignedModel(backbone=backbone.eval(), heads=heads.to(dtype).eval(), tokenizer=load_tokenizer("model", str(run.model)))


def _head_settings(name: str, entry: dict[str, object]) -> HeadSettings:
    fields = {key: entry[key] for key in ("pooler", "dropout", "init_std")}
    return HeadSettings(name=name, **fields)  # type: ignore[arg-type]
