"""The reference: the frozen model that log-ratios are measured against, or what it said."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol, final

import torch
from torch import Tensor, nn

from alignkit.batches import PackedBatch
from alignkit.caches.values import CachedValues
from alignkit.errors import UserError
from alignkit.models.adapters import adapters_off, merged_weights, trunk_state
from alignkit.models.backbone import Backbone
from alignkit.models.conversions import AUTOCAST, convert_for_good
from alignkit.models.freezing import freeze


class Reference(Protocol):
    """Whoever knows the reference's log-probs."""

    def token_logps(self, batch: PackedBatch) -> Tensor:
        """Log-probs [N] of the batch's completion tokens, nats, without gradient; in the order of `target_ids`."""
        ...


@final
class LiveReference(nn.Module):
    """A frozen model in memory, run on every batch through the policy's own code and precision."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = freeze(backbone)

    @classmethod
    def under(cls, backbone: Backbone, precision: str) -> LiveReference:
        """One that is held as a precision, by Lightning's name, computes it: what it says is the same to the bit."""
        products = AUTOCAST.get(precision)
        return cls(backbone if products is None else convert_for_good(freeze(backbone), products))

    @torch.no_grad()
    def token_logps(self, batch: PackedBatch) -> Tensor:
        return backbone_logps(self.backbone, batch)

    @torch.no_grad()
    def hidden_states(self, batch: PackedBatch) -> tuple[Backbone, Tensor]:
        """The model and its hidden states [R * T, D], for what log-probs of single tokens do not say."""
        return self.backbone, self.backbone.hidden_states(batch)

    @torch.no_grad()
    def hidden_layers(self, batch: PackedBatch, layers: Sequence[int]) -> list[Tensor]:
        """[R * T, D] of each of `layers`, for heads of the same weights."""
        return self.backbone.hidden_layers(batch, layers)


@final
class AdapterOffReference:
    """The policy's own trunk with its adapters switched off: the policy before it got them, without a second model.

    Not a module: its weights are the policy's.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        """The policy."""

    @torch.no_grad()
    def token_logps(self, batch: PackedBatch) -> Tensor:
        with adapters_off(self.backbone):
            return backbone_logps(self.backbone, batch)

    @torch.no_grad()
    def hidden_states(self, batch: PackedBatch) -> tuple[Backbone, Tensor]:
        """The model and its hidden states [R * T, D]; the output embedding, which reads them, has no adapter."""
        with adapters_off(self.backbone):
            return self.backbone, self.backbone.hidden_states(batch)

    @torch.no_grad()
    def hidden_layers(self, batch: PackedBatch, layers: Sequence[int]) -> list[Tensor]:
        """[R * T, D] of each of `layers`, for heads of the same weights."""
        with adapters_off(self.backbone):
            return self.backbone.hidden_layers(batch, layers)


@final
class MovingReference(nn.Module):
    """A frozen model in memory that starts as the policy and follows it: every `every` optimiser steps

        reference <- mix * policy + (1 - mix) * reference        weight by weight, adapters merged

    TR-DPO, Gorbatovski et al. 2024 (arXiv:2404.09656); their hard update is `mix` 1. What it says changes, so it is never cached,
    and unlike other references it belongs into a checkpoint.
    """

    def __init__(self, backbone: Backbone, *, mix: float, every: int) -> None:
        """`backbone`: a copy of the policy before it got adapters; `mix` in (0, 1]."""
        super().__init__()
        self.backbone = freeze(backbone)
        self._mix = mix
        self._every = every

    @torch.no_grad()
    def token_logps(self, batch: PackedBatch) -> Tensor:
        return backbone_logps(self.backbone, batch)

    @torch.no_grad()
    def hidden_states(self, batch: PackedBatch) -> tuple[Backbone, Tensor]:
        """The model and its hidden states [R * T, D], for what log-probs of single tokens do not say."""
        return self.backbone, self.backbone.hidden_states(batch)

    @torch.no_grad()
    def after_step(self, steps_done: int, policy: Backbone) -> bool:
        """Move where `steps_done` optimiser steps call for it; whether it moved."""
        if steps_done % self._every != 0:
            return False
        own = dict(self.backbone.lm.named_parameters())  # a tied weight has one name here, and two in a state
        for name, theirs in merged_weights(policy):
            if name in own:
                own.pop(name).lerp_(theirs, self._mix)
        assert not own, f"the policy has no {sorted(own)}"
        return True


@final
class CachedReference:
    """Log-probs that are computed before training, float32; no model is held from then on.

    A policy that is the reference then agrees with it up to the rounding of differently cut batches, not to the bit.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone: Backbone | None = backbone
        """The model that is to be asked; None once its log-probs are known."""
        self._values = CachedValues()

    def load(self, values: Mapping[int, Tensor]) -> None:
        """Take the log-probs of each example's completion tokens by the example's key, and let the model go."""
        self._values.load(values)
        self.backbone = None

    def token_logps(self, batch: PackedBatch) -> Tensor:
        logps = self._values.rows(batch)
        assert len(logps) == batch.completion_tokens, "cached log-probs of other completions"
        return logps


def backbone_logps(backbone: Backbone, batch: PackedBatch) -> Tensor:
    """Log-probs [N] of the batch's completion tokens under a model."""
    return backbone.token_scores(backbone.hidden_states(batch), batch).logps


def frozen_copy(backbone: Backbone) -> Backbone:
    """The policy as it is now, copied in memory and frozen; it runs the policy's own code in the policy's own precision."""
    return freeze(copy.deepcopy(backbone))


def fingerprint(module: nn.Module) -> str:
    """SHA-256 (first 16 hex digits) over names, types, shapes and bytes of all weights."""
    return _digest(module.state_dict())


def trunk_fingerprint(backbone: Backbone) -> str:
    """The fingerprint of a backbone without its adapters, which is the one that it had before it got them."""
    return _digest(trunk_state(backbone))


def check_reference(begun: str | None, now: str | None) -> None:
    """Refuse to go on with a run against another reference than it began with; both are fingerprints.

    Raises:
        UserError: when they differ.
    """
    if begun != now:
        raise UserError(
            f"reference: the run began against weights {begun or 'of no model'}, and now there are {now or 'none'}. A resumed run needs "
            "the model that it began from: give model.path and reference.path as they were."
        )


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        assert isinstance(tensor, Tensor)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(dtype=torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
