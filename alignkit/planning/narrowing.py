"""Smaller models of the same kind: fewer layers, and what one rank of tensor parallelism computes of each."""

from __future__ import annotations

import copy

from transformers import PretrainedConfig

from alignkit.errors import UserError
from alignkit.models.skeleton import skeleton
from alignkit.models.tensor_parallel import WHERE, products, why_not_cut

SPLIT = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
"""What ranks of tensor parallelism divide between them."""


def with_layers(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """The same model with its first layers only."""
    shallow = copy.deepcopy(config)
    shallow.num_hidden_layers = layers
    if getattr(shallow, "layer_types", None):
        shallow.layer_types = shallow.layer_types[:layers]
    return shallow


def narrowed(config: PretrainedConfig, ranks: int) -> PretrainedConfig:
    """The model that one of `ranks` computes: its share of the heads of attention and of the features between the two products of an
    MLP, at the model's own width. Embeddings and norms are whole on every rank. `check_narrow` says whether it is that."""
    if ranks == 1:
        return config
    narrow = copy.deepcopy(config)
    narrow.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for field in SPLIT:
        setattr(narrow, field, getattr(config, field) // ranks)
    return narrow


def check_narrow(path: str, config: PretrainedConfig, ranks: int) -> None:
    """Refuse a model that tensor parallelism cannot cut, or not in a way that `narrowed` knows.

    Raises:
        UserError: naming what can be done.
    """
    if ranks == 1:
        return
    whole = skeleton(path, config)
    if why := why_not_cut(whole, ranks):
        raise UserError(f"{WHERE} = {ranks} with {path!r}: {why}")
    shapes = {name: list(parameter.shape) for name, parameter in whole.decoder.named_parameters()}
    for name, style in products(whole).items():
        for kind, dim in (("weight", 0 if style == "colwise" else 1), ("bias", 0 if style == "colwise" else None)):
            if f"{name}.{kind}" in shapes and dim is not None:
                shapes[f"{name}.{kind}"][dim] //= ranks
    known = all(getattr(config, field, None) for field in SPLIT)
    narrow = skeleton(path, narrowed(config, ranks)) if known else whole
    if {name: list(parameter.shape) for name, parameter in narrow.decoder.named_parameters()} != shapes:
        raise UserError(
            f"{WHERE} = {ranks}: alignkit.plan does not know how a {config.model_type} is laid out when it is cut; training does. "
            "Plan hardware=fsdp instead."
        )
