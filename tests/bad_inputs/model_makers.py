"""Folders of small models with something wrong: one layer, 32 numbers a token, the tokenizer of `model=tiny`."""

from __future__ import annotations

import importlib.resources
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import save_file

TINY = Path(str(importlib.resources.files("alignkit"))) / "lab" / "pretrained" / "tiny"
WIDTH, INNER, WORDS = 32, 48, 1024
SHAPES: Mapping[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (WORDS, WIDTH),
    "model.layers.0.input_layernorm.weight": (WIDTH,),
    "model.layers.0.mlp.down_proj.weight": (WIDTH, INNER),
    "model.layers.0.mlp.gate_proj.weight": (INNER, WIDTH),
    "model.layers.0.mlp.up_proj.weight": (INNER, WIDTH),
    "model.layers.0.post_attention_layernorm.weight": (WIDTH,),
    "model.layers.0.self_attn.k_proj.weight": (WIDTH, WIDTH),
    "model.layers.0.self_attn.o_proj.weight": (WIDTH, WIDTH),
    "model.layers.0.self_attn.q_proj.weight": (WIDTH, WIDTH),
    "model.layers.0.self_attn.v_proj.weight": (WIDTH, WIDTH),
    "model.norm.weight": (WIDTH,),
}
QUERY = "model.layers.0.self_attn.q_proj.weight"


def model(
    path: Path,
    *,
    config: Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, Any] | None = None,
    drop: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    poison: str | None = None,
    cut: int = 0,
    files: Mapping[str, str] | None = None,
    remove: Sequence[str] = (),
    swapped: Sequence[str] = (),
) -> None:
    """A model that loads, but for what is changed: keys of `config.json` and `tokenizer_config.json` (null takes one out), tensors that
    are left out, have other shapes or hold `poison` ("nan", "inf"), bytes that the weights' file lacks at its end, texts of files,
    files that are taken out, two words of the vocabulary that have each other's number."""
    path.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(TINY / name, path / name)
    own = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    change(path / "config.json", {**own, **(config or {})})
    change(path / "tokenizer_config.json", tokenizer or {})
    if swapped:
        described = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
        words = described["model"]["vocab"]
        words[swapped[0]], words[swapped[1]] = words[swapped[1]], words[swapped[0]]
        (path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    draws = numpy.random.default_rng(0)
    every = {name: tuple(shape) for name, shape in {**SHAPES, **(shapes or {})}.items() if name not in drop}
    weights = {name: draws.normal(0, 0.02, shape).astype(numpy.float32) for name, shape in every.items()}
    if poison is not None:
        weights[QUERY][3, 5] = float(poison)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    if cut:
        content = (path / "model.safetensors").read_bytes()
        (path / "model.safetensors").write_bytes(content[:-cut])
    for name, text in (files or {}).items():
        (path / name).write_text(text, encoding="utf-8")
    for name in remove:
        (path / name).unlink()


def adapter(
    path: Path, *, base: str | None = "base", width: int = WIDTH, layer: str = "layers.0.self_attn.q_proj", poison: str | None = None
) -> None:
    """A peft adapter of rank 2, and in a folder of its own the model that it names as its base."""
    model(path / "base")
    name = layer.rpartition(".")[2]
    named = {"base_model_name_or_path": base and str(path / base), "target_modules": [name]}
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 2, **named}))
    prefix = f"base_model.model.model.{layer}"
    weights = {f"{prefix}.lora_A.weight": numpy.ones((2, width)), f"{prefix}.lora_B.weight": numpy.ones((width, 2))}
    weights = {key: value.astype(numpy.float32) for key, value in weights.items()}
    if poison is not None:
        weights[f"{prefix}.lora_A.weight"][0, 0] = float(poison)
    save_file(weights, path / "adapter_model.safetensors")


def change(file: Path, changes: Mapping[str, Any]) -> None:
    """Keys of a JSON file; null takes one out."""
    values = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}), encoding="utf-8")
