"""The settings of the policy, its adapters and its reference. See `settings` for the rest."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import final

from alignkit.errors import UserError, check_choice, check_range

HIGHEST_RANK = 2**16
"""Wider than the layers of any model, whose own width is the most that an adapter can use."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSettings:
    """`model.lora`: low-rank adapters, `W x + alpha / rank * B A dropout(x)` with W frozen and B zero at first (arXiv:2106.09685)."""

    rank: int
    """Inner width of an adapter, [1, 65536]."""
    alpha: float
    """Strength: an adapter's output is multiplied by alpha / rank, > 0."""
    dropout: float
    """Of what an adapter reads, while training, [0, 1)."""
    targets: list[str] | None
    """Linear layers that get an adapter, by the end of their names (`q_proj`); null is every one inside the trunk's layers. Never
    the output embedding."""
    export: str
    """What `model/` holds: `merged`, a plain model with the adapters added to its weights; `adapter`, a peft folder."""

    def __post_init__(self) -> None:
        check_range("model.lora.rank", self.rank, low=1, high=HIGHEST_RANK)
        check_range("model.lora.alpha", self.alpha, above=0.0)
        check_range("model.lora.dropout", self.dropout, low=0.0, below=1.0)
        check_choice("model.lora.export", self.export, ("merged", "adapter"))
        if self.targets is not None and not all(self.targets):
            raise UserError(f"model.lora.targets = {self.targets}; must be names of layers, e.g. [q_proj,v_proj], or null for all.")
        if self.targets == []:
            raise UserError("model.lora.targets = []; would adapt nothing. Type model.lora.targets=null for all layers.")


UNUSED_LORA = AdapterSettings(rank=16, alpha=32.0, dropout=0.0, targets=None, export="merged")
"""What the files say while no adapter is in use: anything else would have no effect and is refused."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """`model=`: the language model that is trained."""

    name: str
    """Label in run names."""
    path: str
    """Hub id or folder of a model or of a peft adapter, which is merged into its base model; or `builtin:tiny`."""
    train: str
    """`all`: trunk and heads; `embeddings`: heads and both embeddings, the trunk's layers are frozen (DPH's first stage, for new chat
    tokens); `heads`: the trunk is frozen, its logits stay bit-identical."""
    frozen_layers: int
    """Layers of the trunk, from the first one, that are frozen together with the embeddings below them, >= 0."""
    attention: str
    """How packed rows attend: `tiles` (CPUs), `flex` (GPUs), `dense` (a mask of a row's length squared, anywhere); `auto`: the
    fastest that the model and the device can."""
    checkpointing: str
    """`full`: activations of a layer are computed again in the backward pass, for a fraction of the memory and a third more time;
    `off`; `auto`: full where the run would not fit into memory otherwise."""
    compile: bool
    """Compile the layers with torch.compile: minutes at the start, for a faster step where the device gains by it."""
    adapter: str | None
    """`lora`: the trunk is frozen and low-rank adapters in it are trained; null trains the trunk itself."""
    lora: AdapterSettings
    """The adapters, where `adapter` is `lora`."""
    quantize: str | None
    """`nf4`: the frozen trunk in 4 bits under its adapters (QLoRA, arXiv:2305.14314), which needs bitsandbytes and CUDA; null keeps
    the run's precision."""

    def __post_init__(self) -> None:
        check_choice("model.train", self.train, ("all", "embeddings", "heads"))
        check_range("model.frozen_layers", self.frozen_layers, low=0)
        if self.frozen_layers > 0 and (self.train != "all" or self.adapter is not None):
            raise UserError(
                f"model.frozen_layers = {self.frozen_layers} has no effect: no layer is trained anyway. Type model.frozen_layers=0."
            )
        check_choice("model.attention", self.attention, ("auto", "tiles", "flex", "dense"))
        check_choice("model.checkpointing", self.checkpointing, ("auto", "off", "full"))
        check_choice("model.adapter", "null" if self.adapter is None else self.adapter, ("null", "lora"))
        check_choice("model.quantize", "null" if self.quantize is None else self.quantize, ("null", "nf4"))
        if self.adapter is None:
            self._check_no_adapter()
        elif self.train != "all":
            raise UserError(
                f"model.train = {self.train!r} with model.adapter = 'lora': with adapters, these alone are trained. Type model.train=all."
            )
        if self.quantize is not None and self.lora.export == "merged":
            raise UserError(
                "model.lora.export = 'merged' with model.quantize = 'nf4': weights of 4 bits cannot take an adapter up without loss. "
                "Type model.lora.export=adapter; as model.path it is merged into the unquantised model."
            )

    def _check_no_adapter(self) -> None:
        for name in (option.name for option in fields(AdapterSettings)):
            value = getattr(self.lora, name)
            if value != getattr(UNUSED_LORA, name):
                raise UserError(f"model.lora.{name} = {value!r} has no effect while model.adapter = null. Type model.adapter=lora.")
        if self.quantize is not None:
            raise UserError(f"model.quantize = {self.quantize!r}: weights of 4 bits cannot be trained. Type model.adapter=lora.")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceSettings:
    """`reference=`: the frozen model that log-ratios and the KL are measured against."""

    source: str
    """`cache`: its log-probs are computed once, before training, and kept in `cache_dir`; `memory`: it runs in every step, for which
    a policy with adapters switches them off instead of being copied; `moving`: it runs in every step and follows the policy, so
    that nothing can be looked up: no cache is read or written (TR-DPO, arXiv:2404.09656)."""
    path: str | None
    """Folder or hub id of the reference; null is the policy as it is when training starts, as it always is for `moving`."""
    mix: float | None
    """Share of the policy's weights in the new reference of `moving`, (0, 1]; 1 replaces it. Null exactly for the others."""
    every: int | None
    """Optimiser steps from one mixing of `moving` to the next, [1, inf). Null exactly for the others."""

    def __post_init__(self) -> None:
        check_choice("reference.source", self.source, ("cache", "memory", "moving"))
        for name, value in (("mix", self.mix), ("every", self.every)):
            if value is None and self.source == "moving":
                raise UserError(f"reference.{name} is missing: it says how a moving reference moves. Type reference=moving.")
            if value is not None and self.source != "moving":
                raise UserError(f"reference.{name} = {value} has no effect: the reference stands still. Type reference=moving.")
        if self.mix is not None:
            check_range("reference.mix", self.mix, above=0.0, high=1.0)
        if self.every is not None:
            check_range("reference.every", self.every, low=1)
        if self.source == "moving" and self.path is not None:
            raise UserError(f"reference.path = {self.path!r} with reference=moving: it starts as the policy. Type reference.path=null.")
