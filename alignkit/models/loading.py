"""Language models and tokenizers from the package, a folder or the hub; never somebody else's code."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from alignkit.errors import UserError

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def load_config(where: str, path: str) -> PretrainedConfig:
    """The configuration alone: cheap, so that a model that cannot work is refused before its weights are read."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{where} = {path!r}: not a model that can be read ({_first_line(error)})") from None
    if config.is_encoder_decoder:
        raise UserError(
            f"{where} = {path!r}: a {config.model_type} is an encoder-decoder. Type model.path=FOLDER of a causal language model."
        )
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
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{where} = {path!r}: the weights cannot be loaded ({_first_line(error)})") from None
    lm: PreTrainedModel = loaded[0]
    report: dict[str, Any] = loaded[1]
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(
            f"{where} = {path!r}: {len(missing)} weights are missing and would be random, e.g. {missing[0]}. Type model.path=FOLDER."
        )
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
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        # Without files some model types get an empty tokenizer, and no word is said.
        raise UserError(f"{where} = {path!r}: no tokenizer comes with the model. Copy its files there, e.g. tokenizer.json.")
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
