"""Language models and tokenizers from the package, a folder or the hub; never somebody else's code."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from alignkit.errors import UserError

BUILTIN = "builtin:"
HUB_TIMEOUT = 3.0
"""Seconds until the hub counts as out of reach; the library's own retries take 23 to 47."""

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def locate(where: str, path: str) -> str:
    """What to hand to `from_pretrained`: a folder, or a hub id that is known to be reachable or cached.

    Raises:
        UserError: when the folder does not exist, or the hub has no such model or cannot be reached.
    """
    if path.startswith(BUILTIN):
        folder = Path(str(importlib.resources.files("alignkit") / "lab" / path.removeprefix(BUILTIN)))
        if not (folder / "config.json").is_file():
            raise UserError(f"{where} = {path!r}: alignkit ships no such model. Try builtin:tiny.")
        return str(folder)
    local = Path(path).expanduser()
    if local.is_dir():
        if not (local / "config.json").is_file():
            raise UserError(f"{where} = {path!r}: the folder holds no config.json, so it is no Hugging Face model folder.")
        return str(local)
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise UserError(f"{where} = {path!r}: there is no such folder (looked at {local.absolute()}).")
    _require_hub(where, path)
    return path


def _require_hub(where: str, path: str) -> None:
    cached = isinstance(huggingface_hub.try_to_load_from_cache(path, "config.json"), str) if path.count("/") <= 1 else False
    try:
        huggingface_hub.HfApi().model_info(path, timeout=HUB_TIMEOUT)
    except GatedRepoError:
        raise UserError(f"{where} = {path!r}: the model is gated. Ask for access on its page, then type: hf auth login") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(f"{where} = {path!r}: neither a folder here nor a model on the hub.") from None
    except (HfHubHTTPError, OSError, RuntimeError, ValueError) as error:  # every way in which a network can be absent
        if not cached:
            raise UserError(
                f"{where} = {path!r}: the hub cannot be reached ({type(error).__name__}) and the model is not in the local cache. "
                "Without a network type model=tiny, or model.path=FOLDER for a model that is on this machine."
            ) from None
        # The library would ask the hub again for every file, with retries.
        huggingface_hub.constants.HF_HUB_OFFLINE = True


def load_config(where: str, path: str) -> PretrainedConfig:
    """The configuration alone: cheap, so that a model that cannot work is refused before its weights are read."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{where} = {path!r}: not a model that can be read ({_first_line(error)})") from None
    if config.is_encoder_decoder:
        raise UserError(f"{where} = {path!r}: a {config.model_type} is an encoder-decoder; a causal language model is needed.")
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(f"{where} = {path!r}: quantised weights cannot be trained. Take the unquantised model.")
    return config


def load_lm(where: str, path: str, dtype: torch.dtype) -> PreTrainedModel:
    """A causal language model with all of its weights.

    Raises:
        UserError: when the folder is no causal language model, or weights are missing (they would be random).
    """
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, trust_remote_code=False, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{where} = {path!r}: the weights cannot be loaded ({_first_line(error)})") from None
    lm: PreTrainedModel = loaded[0]
    report: dict[str, Any] = loaded[1]
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"{where} = {path!r}: {len(missing)} weights are missing and would be random, e.g. {missing[0]}.")
    return lm


def load_tokenizer(where: str, path: str) -> PreTrainedTokenizerBase:
    """The model's tokenizer.

    Raises:
        UserError: when there is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{where} = {path!r}: no tokenizer can be loaded ({_first_line(error)})") from None
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def check_fit(where: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    """Refuse a tokenizer or a length that the model has no embeddings for.

    Raises:
        UserError: naming both numbers.
    """
    if len(tokenizer) > config.vocab_size:
        raise UserError(f"{where}: the tokenizer has {len(tokenizer)} tokens, the model embeddings for {config.vocab_size}.")
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and max_length > context:
        raise UserError(
            f"dataset.max_length = {max_length}: the model has positions for {context} tokens. Type dataset.max_length={context} or less."
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
