"""What a run is made of, as its parts are built one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from alignkit.data.preparation import PreparedData
from alignkit.loss_settings import HeadSettings
from alignkit.models.shared_passes import Asked
from alignkit.modules.forward import Parts
from alignkit.modules.stepping import SteppingModule
from alignkit.objectives import AnyObjective


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What a run reads before it loads weights."""

    module_class: type[SteppingModule]
    objective: AnyObjective
    heads: Mapping[str, HeadSettings]
    """By name."""
    path: str
    """Folder or hub id of the model."""
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    prepared: PreparedData
    terminator: int
    """The token that ends the completions of these data."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """The weights of a run, and what identifies them."""

    parts: Parts
    policy_fingerprint: str
    """Of the trunk before the first update."""
    reference_fingerprint: str | None
    """None where the objective needs no reference."""
    measured_against: Asked | None = None
    """Whom `validation.kl` measures held-out samples against; None where nobody asks, and where the module holds such a reference."""

    @property
    def reference_is_policy(self) -> bool:
        """Whether policy and reference start as the same function."""
        return self.reference_fingerprint == self.policy_fingerprint
