"""What a cached value depends on, and nothing else: the example's tokens, the function that is computed, and in which numbers."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch
import transformers

from alignkit.data.examples import EncodedExample
from alignkit.models.backbone import Backbone

NO_MATHEMATICS = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")
"""Keys of a model's config that do not change what it computes; the dtype is part of the weights' fingerprint."""


def example_digest(example: EncodedExample) -> bytes:
    """SHA-256 over prompt and completions, in order, each with its length: the same however examples are ordered and laid out."""
    numbers = [len(example.prompt_ids), *example.prompt_ids, len(example.completion_ids)]
    for ids in example.completion_ids:
        numbers += [len(ids), *ids]
    return hashlib.sha256(np.asarray(numbers, dtype="<i8").tobytes()).digest()


def function_digest(backbone: Backbone, weights: str) -> str:
    """32 hex digits over all that decides what a backbone computes: its weights' fingerprint, its config (a rotary base is no
    weight), its class and the version of the code behind it."""
    config = {key: value for key, value in backbone.lm.config.to_dict().items() if key not in NO_MATHEMATICS}
    attention = getattr(backbone.lm.config, "_attn_implementation", None)
    parts = [weights, type(backbone.lm).__name__, transformers.__version__, attention, backbone.attention, config]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def numeric_mode(precision: str, device: torch.device) -> str:
    """The numbers that products are computed in: `bf16-mixed-cpu`."""
    matmul = torch.get_float32_matmul_precision()
    return f"{precision}-{device.type}" + ("" if matmul == "highest" else f"-{matmul}")
