"""Trained models as folders that other tools load."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from alignkit.errors import UserError
from alignkit.loss_settings import HeadSettings
from alignkit.models.adapters import adapter_config, adapter_state, merged_weights
from alignkit.models.aligned import AlignedModel
from alignkit.models.backbone import Backbone
from alignkit.models.heads import Heads
from alignkit.models.loading import base_of, load_lm, load_tokenizer
from alignkit.models.location import CONFIGS
from alignkit.models.texts import load_texts
from alignkit.run_dir import RunDir

PREDICTING = "the hidden state after the final norm that predicts each token of a completion"
"""What a value head reads."""


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


def load_aligned(path: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> AlignedModel:
    """The language model, heads and tokenizer of a run directory, of its `model/`, or of a folder that holds the files of both, as a
    repository on the hub does; in evaluation mode. An adapter is merged into its base model.

    Raises:
        UserError: when there is no model, its base model is missing, or heads do not fit it.
    """
    model, beside = model_folders(Path(path).expanduser())
    backbone = Backbone(load_lm("model", str(model), dtype))
    heads = Heads(backbone.hidden_width, {})
    if beside.heads_description.is_file():
        settings = {name: head_settings(name, entry) for name, entry in json.loads(beside.heads_description.read_text()).items()}
        heads = Heads(backbone.hidden_width, settings)
        try:
            heads.load_state_dict(load_file(beside.heads))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{beside.heads}: the heads do not fit the model ({error})") from None
    return AlignedModel(
        backbone=backbone.to(device).eval(),
        heads=heads.to(device, dtype).eval(),
        tokenizer=load_tokenizer("model", str(model)),
        texts=load_texts(beside.texts),
    )


def model_folders(path: Path) -> tuple[Path, RunDir]:
    """The Hugging Face folder that a path means, and the directory that holds heads, where there are any.

    Raises:
        UserError: when there is no model.
    """
    run = RunDir(path)
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder (looked at {path.absolute()}). For one on the hub first: hf download OWNER/NAME")
    if run.model.is_dir():
        return run.model, run
    if not any((path / name).is_file() for name in CONFIGS):
        raise UserError(f"{path}: holds no model/ folder, so it is no finished run. Of one that was stopped: python -m alignkit.export RUN")
    around = RunDir(path.absolute().parent)
    is_of_run = path.absolute() == around.model and not run.texts.is_file()
    return path, around if is_of_run else run


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
    fields |= {key: entry[key] for key in ("layers", "tokens", "standardize", "normalize") if key in entry}
    return HeadSettings(name=name, **fields)  # type: ignore[arg-type]
