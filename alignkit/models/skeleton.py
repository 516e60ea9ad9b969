"""A model without its weights: shapes alone, from its configuration."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from alignkit.errors import UserError
from alignkit.models.backbone import Backbone
from alignkit.models.soundness import READING_ERRORS


def skeleton(path: str, config: PretrainedConfig) -> Backbone:
    """The model without its weights: shapes alone.

    Raises:
        UserError: when there is no causal language model of this kind.
    """
    try:
        with torch.device("meta"):
            return Backbone(AutoModelForCausalLM.from_config(config, trust_remote_code=False))
    except READING_ERRORS as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        raise UserError(f"model.path = {path!r}: no causal language model can be built by its config.json ({reason})") from None
