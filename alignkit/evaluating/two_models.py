"""A model and the reference that it is measured against, which read the same batches of the same tokens."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import final

import torch
from transformers import PreTrainedTokenizerBase

from alignkit.assembly import load_backbone, plan_packing
from alignkit.data.packing import Packing
from alignkit.errors import UserError
from alignkit.generation.answering import room_of
from alignkit.hardware import device_kind
from alignkit.models.backbone import Backbone
from alignkit.models.freezing import freeze
from alignkit.models.loading import check_fit, load_config, load_tokenizer
from alignkit.models.location import locate
from alignkit.scorers.answer_tokens import same_tokens
from alignkit.settings import RunSettings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where the two are, and what can be known of them without their weights."""

    model: str
    reference: str
    tokenizer: PreTrainedTokenizerBase
    """Of both."""
    positions: int | None
    """That both have; None where neither has a limit."""

    def room(self, settings: RunSettings, *, of_dataset: bool) -> int:
        """Tokens of the longest prompt that both can answer. Raises UserError where answers alone are too long."""
        return room_of(settings, SimpleNamespace(max_position_embeddings=self.positions), of_dataset=of_dataset)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TwoModels:
    """Both, loaded and frozen."""

    model: Backbone
    reference: Backbone
    packing: Packing
    """Of batches that both read: where they are one function, they say the same to the bit."""
    device: torch.device


def find_both(settings: RunSettings) -> Places:
    """Look at what there is, before weights are loaded.

    Raises:
        UserError: when one is not there, or they read texts as different tokens.
    """
    if settings.reference.path is None:
        raise UserError("reference.path is missing: the cost is that of a model against what it was. Type reference.path=DIR.")
    model, reference = locate("model.path", settings.model.path), locate("reference.path", settings.reference.path)
    config, tokenizer = load_config("model.path", model), load_tokenizer("model.path", model)
    other = load_config("reference.path", reference)
    check_fit("model.path", config, tokenizer, 0)
    if not same_tokens(tokenizer, load_tokenizer("reference.path", reference)):
        raise UserError(
            f"reference.path = {settings.reference.path!r}: reads texts as other tokens than the model at {settings.model.path!r}, so that "
            "log-probs of tokens do not compare. Type reference.path=DIR of a model with the same tokenizer, such as the one that training "
            "began from."
        )
    check_fit("reference.path", other, tokenizer, 0)
    limits = [getattr(one, "max_position_embeddings", None) for one in (config, other)]
    return Places(
        model=model, reference=reference, tokenizer=tokenizer, positions=min((limit for limit in limits if limit is not None), default=None)
    )


def load_both(settings: RunSettings, places: Places) -> TwoModels:
    """Load the weights, in the number format of the run, to the CPU.

    Raises:
        UserError: when they cannot be read.
    """
    model = freeze(load_backbone(settings, "model.path", places.model))
    reference = freeze(load_backbone(settings, "reference.path", places.reference))
    # Packed rows only where both can; each attends in its own way.
    packings = [plan_packing(settings.batch, one).for_looking() for one in (model, reference)]
    return TwoModels(
        model=model,
        reference=reference,
        packing=next((packing for packing in packings if packing.layout == "rows"), packings[0]),
        device=torch.device(device_kind(settings.hardware.accelerator)),
    )
