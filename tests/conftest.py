"""Real models at toy size, one of each architecture that the packed layout is proved for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from alignkit.data.examples import EncodedExample

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

VOCABULARY = 97
LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "head_dim": 8,
}
ARCHITECTURES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "llama": LLAMA_LIKE,
    "qwen2": LLAMA_LIKE,
    "gpt_neox": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    },
    "gemma": LLAMA_LIKE,
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "word_embed_proj_dim": 32,
        "dropout": 0.1,
    },
}
SLIDING = {"mistral": {**LLAMA_LIKE, "sliding_window": 8}}


def build_lm(name: str, *, dtype: torch.dtype = torch.float32, **changes: object) -> PreTrainedModel:
    """A causal LM with random weights large enough that attention is far from uniform."""
    settings = {**ARCHITECTURES, **SLIDING}[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=0, **{**settings, **changes})
    lm = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return lm.to(dtype)


def build_examples(count: int, *, completions: int = 2, seed: int = 0, shortest: int = 1, longest: int = 9) -> list[EncodedExample]:
    """Random examples with prompts and completions of 1 to 9 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def ids() -> tuple[int, ...]:
        length = int(torch.randint(shortest, longest + 1, (1,), generator=generator))
        return tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())

    return [
        EncodedExample(key=key, prompt_ids=ids(), completion_ids=tuple((*ids(), 2) for _ in range(completions))) for key in range(count)
    ]


@pytest.fixture(params=sorted(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lm_factory():  # noqa: ANN201
    return build_lm


@pytest.fixture
def examples_factory():  # noqa: ANN201
    return build_examples


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and data beside the checkout."""
    folder = Path(os.environ.get("ALIGNKIT_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder}; set ALIGNKIT_SHARED")
    return folder
