"""Models that load without a word and cannot be trained, or train something else: refused before anything is computed."""

from __future__ import annotations

import re

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from alignkit.errors import UserError

READING_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError, ZeroDivisionError, SafetensorError)
"""What transformers raises for files that are not as it expects, beside errors of its own that are told apart by their module."""
ENCODERS = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) & frozenset(MODEL_FOR_MASKED_LM_MAPPING_NAMES)
"""Kinds of models that fill gaps, and write only where their configuration says so."""
MOST_LAYERS = 1000
LEAST = ("num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads", "max_position_embeddings")
"""Keys of a `config.json` that count what a model has one of at least; not every kind of model has all of them."""


def check_architecture(where: str, path: str, config: PretrainedConfig) -> None:
    """Refuse what is no model that writes, by its configuration alone.

    Raises:
        UserError: for an encoder, and for numbers that no model has.
    """
    if config.is_encoder_decoder:
        raise UserError(
            f"{where} = {path!r}: a {config.model_type} is an encoder-decoder. Type model.path=FOLDER of a causal language model."
        )
    if config.model_type in ENCODERS and not getattr(config, "is_decoder", False):
        raise UserError(
            f"{where} = {path!r}: a {config.model_type} that fills gaps in a text and writes none: is_decoder is false in its config.json. "
            "Type model.path=FOLDER of a causal language model."
        )
    for key in LEAST:
        value = getattr(config, key, None)
        if isinstance(value, int) and value < 1:
            raise UserError(f"{where} = {path!r}: {key} = {value} in its config.json; must be 1 or more.")
    layers = getattr(config, "num_hidden_layers", None)
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise UserError(f"{where} = {path!r}: num_hidden_layers = {layers:,} in its config.json; no model has more than {MOST_LAYERS:,}.")


def check_layers_complete(where: str, path: str, config: PretrainedConfig, unexpected: list[str]) -> None:
    """Refuse weights of layers that the configuration leaves out: the model would be another one.

    `unexpected` are names of tensors that the model has no place for; others than layers are left out by many models on purpose.

    Raises:
        UserError: naming one.
    """
    layers = getattr(config, "num_hidden_layers", None)
    numbers = {name: match for name in sorted(unexpected) if (match := re.search(r"\.(\d+)\.", name))}
    beyond = [name for name, match in numbers.items() if isinstance(layers, int) and int(match[1]) >= layers]
    if beyond:
        raise UserError(
            f"{where} = {path!r}: num_hidden_layers = {layers} in its config.json, but weights hold more, e.g. {beyond[0]}. Take the "
            "config.json that belongs to them."
        )


def check_finite(where: str, path: str, lm: nn.Module) -> None:
    """Refuse weights that hold NaN or infinity: nothing that is computed with them means anything.

    Raises:
        UserError: naming the first such tensor.
    """
    for name, tensor in lm.named_parameters():  # buffers may hold infinities on purpose, as masks do
        # Both extremes of a tensor are NaN where one element is, and nothing is copied.
        if tensor.is_floating_point() and tensor.numel() > 0 and not bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all()):
            raise UserError(f"{where} = {path!r}: {name} holds NaN or infinity, so that the model is broken. Take another copy of it.")


def check_same_tokens(tokenizer: PreTrainedTokenizerBase, reference: PreTrainedTokenizerBase, path: str) -> None:
    """Refuse a reference for which the token ids of the policy mean other tokens.

    Raises:
        UserError: naming a token that differs.
    """
    ours, theirs = tokenizer.get_vocab(), reference.get_vocab()
    differing = sorted(token for token in ours if theirs.get(token) != ours[token])
    if differing:
        raise UserError(
            f"reference.path = {path!r}: has another vocabulary than the policy: {len(differing)} of {len(ours)} tokens have other ids, "
            f"such as {differing[0]!r}. Type reference.path=FOLDER of a model with the same tokenizer."
        )
