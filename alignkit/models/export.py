"""Trained models as folders that other tools load."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from alignkit.errors import UserError
from alignkit.loss_settings import HeadSettings
from alignkit.models.adapters import adapter_config, adapter_state, merged_weights
from alignkit.models.backbone import Backbone
from alignkit.models.heads import Heads
from alignkit.models.loading import base_of, load_lm, load_tokenizer
from alignkit.run_dir import RunDir


def save_model(folder: Path, backbone: Backbone, tokenizer: PreTrainedTokenizerBase) -> None:
    """A Hugging Face folder (safetensors) that `AutoModelForCausalLM.from_pretrained` loads, tokenizer included.

    Adapters are added to the weights in the file, not in the backbone.
    """
    backbone.lm.save_pretrained(folder, state_dict=dict(merged_weights(backbone)))
    tokenizer.save_pretrained(folder)


def save_adapter(folder: Path, backbone: Backbone, tokenizer: PreTrainedTokenizerBase) -> None:
    """A peft folder that `PeftModel.from_pretrained` loads onto the base model, which it names; tokenizer included."""
    lm = backbone.lm
    base = str(lm.name_or_path)
    config = copy.copy(adapter_config(lm))
    config.base_model_name_or_path = str(Path(base).absolute()) if Path(base).is_dir() else base
    config.inference_mode = True
    config.save_pretrained(str(folder))
    save_file({name: tensor.contiguous() for name, tensor in adapter_state(lm).items()}, folder / "adapter_model.safetensors")
    tokenizer.save_pretrained(folder)


def check_adapter_export(path: str) -> None:
    """Refuse to export an adapter where `model.path` is one already, which is merged: peft could not put the new one on anything.

    Raises:
        UserError: with what to type.
    """
    if base_of("model.path", path) is not None:
        raise UserError(
            f"model.lora.export = 'adapter' with model.path = {path!r}: that is an adapter itself, and peft cannot stack them in files. "
            "Type model.lora.export=merged."
        )


def save_heads(run: RunDir, heads: Heads, *, terminator: int, tokenizer: PreTrainedTokenizerBase, reads: str | None = None) -> None:
    """`heads.safetensors`, and in `heads.json` how each head pools and which token it reads: `reads`, or where completions end."""
    save_file({name: tensor.contiguous() for name, tensor in heads.state_dict().items()}, run.heads)
    description = {
        name: {
            **asdict(heads.head(name).settings),
            "hidden_width": heads.head(name).score.in_features,
            "reads": reads or _reads(heads.head(name).settings),
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
        settings = {name: head_settings(name, entry) for name, entry in json.loads(run.heads_description.read_text()).items()}
        heads = Heads(backbone.hidden_width, settings)
        try:
            heads.load_state_dict(load_file(run.heads))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{run.heads}: the heads do not fit the model ({error})") from None
    return AlignedModel(backbone=backbone.eval(), heads=heads.to(dtype).eval(), tokenizer=load_tokenizer("model", str(run.model)))


def _reads(settings: HeadSettings) -> str:
    states = "the hidden state after the final norm"
    if settings.layers != [-1]:
        numbers = ", ".join(map(str, settings.layers))
        mixture = "the learned mixture of the hidden states" if len(settings.layers) > 1 else "the hidden state"
        states = f"{mixture} of layer {numbers} (0: embeddings, k: after block k, -1: after the final norm)"
    last = f"{states} at the completion's last token, which ends with the terminator"
    return last if settings.tokens == "last" else f"{last}, and by attention at all tokens of the completion"


def head_settings(name: str, entry: Mapping[str, object]) -> HeadSettings:
    """How the head of an entry of `heads.json` is built."""
    fields = {key: entry[key] for key in ("pooler", "dropout", "init_std")}
    # Files of before these could be chosen do not have them.
    fields |= {key: entry[key] for key in ("layers", "tokens", "normalize") if key in entry}
    return HeadSettings(name=name, **fields)  # type: ignore[arg-type]
