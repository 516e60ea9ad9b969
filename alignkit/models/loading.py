"""Language models and tokenizers from the package, a folder or the hub; never somebody else's code."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from alignkit.errors import UserError
from alignkit.models.arriving import arriving
from alignkit.models.chat_templates import check_templates
from alignkit.models.foreign_model import check_adapter, check_model, code_of
from alignkit.models.location import is_packaged, locate
from alignkit.models.soundness import READING_ERRORS, check_architecture, check_finite, check_layers_complete

FETCHED = ("penalty_alpha", "dola_layers", "constraints", "force_words_ids", "num_beam_groups", "custom_generate")
"""Settings of `generation_config.json` for which transformers would fetch code from the hub."""
PICKLES = "for it can run code. Where you trust it, load it with transformers once and save it by save_pretrained, as safetensors."

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def base_of(where: str, path: str) -> str | None:
    """The base model of a peft adapter, as a folder or hub id; None for what is a model itself.

    Raises:
        UserError: when the base model is not named or not there.
    """
    try:
        file = find_adapter_config_file(path)
        config = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
        named = config.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{where} = {path!r}: its adapter_config.json cannot be read ({_first_line(error)})") from None
    if file is None:
        return None
    check_adapter(where, path, config)
    if (Path(path) / "config.json").is_file():
        raise UserError(f"{where} = {path!r}: holds a model and an adapter. Move config.json or adapter_config.json elsewhere.")
    if not isinstance(named, str) or not named:
        raise UserError(f"{where} = {path!r}: an adapter that names no base model. Write base_model_name_or_path into {file}.")
    try:
        base = locate("base_model_name_or_path", named)
    except UserError as error:
        raise UserError(f"{where} = {path!r}: an adapter whose base model is not there; it is named in {file}. {error}") from None
    if find_adapter_config_file(base) is not None:
        raise UserError(f"{where} = {path!r}: an adapter on {base!r}, which is an adapter too. Merge that one into its base model first.")
    return base


@arriving
def load_config(where: str, path: str, /) -> PretrainedConfig:
    """The configuration alone: cheap, so that a model that cannot work is refused before its weights are read.

    Raises:
        UserError: when the folder is no causal language model, or its weights are quantised.
    """
    path = base_of(where, path) or path
    check_model(where, path)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (*READING_ERRORS, StrictDataclassError) as error:
        if (code := code_of(path)) is not None:
            raise UserError(f"{where} = {path!r}: needs code from its own folder ({code}), which alignkit does not run.") from None
        raise UserError(f"{where} = {path!r}: not a model that can be read ({_first_line(error)})") from None
    check_architecture(where, path, config)
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(f"{where} = {path!r}: quantised weights cannot be trained. Take the unquantised model.")
    return config


def load_lm(where: str, path: str, dtype: torch.dtype) -> PreTrainedModel:
    """A causal language model with all of its weights; a peft adapter is merged into its base model, in float32.

    Raises:
        UserError: when the folder is no causal language model, or weights are missing (they would be random).
    """
    base = base_of(where, path)
    if base is None:
        return _load_weights(where, path, dtype=dtype)
    lm = _merge_adapter(where, path, _load_weights(f"{where}: base model", base, dtype=torch.float32))
    check_finite(where, path, lm)
    for parameter in lm.parameters():  # buffers stay as they are, which is how a model is loaded in a type
        parameter.data = parameter.data.to(dtype)
    return lm


def load_quantized_lm(where: str, path: str, dtype: torch.dtype, products: torch.dtype) -> PreTrainedModel:
    """A causal language model in 4 bits on the CUDA device, for adapters to be trained in: NormalFloat with doubly quantised scales
    (QLoRA, Dettmers et al. 2023, arXiv:2305.14314). What is not quantised has type `dtype`, matrix products run in `products`.

    Raises:
        UserError: where it cannot be had, or as `load_lm` does.
    """
    check_quantization("cuda")
    if base_of(where, path) is not None:
        raise UserError(f"{where} = {path!r}: an adapter, which 4 bits cannot take up. Merge it first, or type model.quantize=null.")
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=products)
    lm = _load_weights(where, path, dtype=dtype, quantization_config=nf4, device_map={"": torch.cuda.current_device()})
    from bitsandbytes.nn import Linear4bit

    for module in lm.modules():
        if isinstance(module, Linear4bit) and module.bias is not None:
            # bitsandbytes would do so when it is first used, and the fingerprint would change.
            module.bias.data = module.bias.data.to(products)
    return lm


def check_quantization(device: str) -> None:
    """Refuse `model.quantize` where there is no library or device for it; `device` is the kind that the run computes on.

    Raises:
        UserError: saying what is missing.
    """
    if device != "cuda" or not torch.cuda.is_available():
        raise UserError(f"model.quantize = 'nf4' on {device}: bitsandbytes needs a CUDA device for it. Type model.quantize=null.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("model.quantize = 'nf4': bitsandbytes is not installed. Type pip install bitsandbytes, or model.quantize=null.")


@arriving
def load_tokenizer(where: str, path: str, /) -> PreTrainedTokenizerBase:
    """The model's tokenizer.

    Raises:
        UserError: when there is none.
    """
    source = path
    if (base := base_of(where, path)) is not None and not _has_file(path, "tokenizer_config.json"):
        source = base
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (*READING_ERRORS, StrictDataclassError) as error:
        if (code := code_of(source)) is not None:
            raise UserError(f"{where} = {path!r}: its tokenizer needs code from its own folder ({code}), which is not run.") from None
        raise UserError(f"{where} = {path!r}: no tokenizer can be loaded ({_first_line(error)})") from None
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        # Without files some model types get an empty tokenizer, and no word is said.
        raise UserError(f"{where} = {path!r}: no tokenizer comes with the model. Copy its files there, e.g. tokenizer.json.")
    if tokenizer.chat_template is not None and not is_packaged(source):
        check_templates(f"{where} = {path!r}", tokenizer.chat_template, tokenizer.special_tokens_map)
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


@arriving
def _load_weights(where: str, path: str, /, **options: Any) -> PreTrainedModel:
    check_model(where, path)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, trust_remote_code=False, use_safetensors=True, output_loading_info=True, **options
        )
    except (*READING_ERRORS, StrictDataclassError) as error:
        if any(_has_file(path, f"pytorch_model.bin{end}") for end in ("", ".index.json")):
            raise UserError(f"{where} = {path!r}: its weights are a pickle, {PICKLES}") from None
        raise UserError(f"{where} = {path!r}: the weights cannot be loaded ({_first_line(error)})") from None
    lm: PreTrainedModel = loaded[0]
    for key in FETCHED:
        if getattr(lm.generation_config, key, None) is not None:
            setattr(lm.generation_config, key, None)
    report: dict[str, Any] = loaded[1]
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(
            f"{where} = {path!r}: {len(missing)} weights are missing and would be random, e.g. {missing[0]}. Type model.path=FOLDER."
        )
    check_layers_complete(where, path, lm.config, report["unexpected_keys"])
    check_finite(where, path, lm)
    return lm


def _merge_adapter(where: str, path: str, lm: PreTrainedModel) -> PreTrainedModel:
    """The base model with an adapter added to its weights; every tensor of the adapter has found its place."""
    from peft import PeftModel, get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTuner
    from peft.utils import load_peft_weights

    if not _has_file(path, "adapter_model.safetensors"):
        raise UserError(f"{where} = {path!r}: holds no adapter_model.safetensors. A pickle is not read, {PICKLES}")
    try:
        given = set(load_peft_weights(path, device="cpu"))
        with warnings.catch_warnings(action="ignore"):  # of peft; what matters in them is checked below
            adapted = PeftModel.from_pretrained(lm, path, torch_device="cpu")
            taken = set(get_peft_model_state_dict(adapted))
            if lost := sorted(given ^ taken):
                raise ValueError(f"{len(lost)} of its weights do not fit, e.g. {lost[0]}")
            if not isinstance(adapted.base_model, BaseTuner):
                raise ValueError("it is no change of weights")
            merged: PreTrainedModel = adapted.base_model.merge_and_unload()  # type: ignore[assignment]
    except READING_ERRORS as error:
        name = lm.name_or_path
        raise UserError(f"{where} = {path!r}: the adapter cannot be merged into its base model {name!r} ({_first_line(error)})") from None
    merged.name_or_path = path
    return merged


def _has_file(path: str, name: str) -> bool:
    return cached_file(path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False) is not None


def _first_line(error: Exception) -> str:
    lines = str(error.__cause__ if isinstance(error, StrictDataclassError) else error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
