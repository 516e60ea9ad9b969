"""A model that a scorer loads for itself, under the numbers and the attention of the run around it."""

from __future__ import annotations

from alignkit.models.backbone import Backbone
from alignkit.models.freezing import freeze
from alignkit.models.loading import load_lm
from alignkit.scorers.scorer import Surroundings


def load_frozen(where: str, path: str, surroundings: Surroundings) -> Backbone:
    """The model of a folder, still on the CPU. `where` is the setting that named it.

    Raises:
        UserError: when it cannot be read, or cannot attend as the run does.
    """
    backbone = Backbone(load_lm(where, path, surroundings.dtype))
    return freeze(backbone.use_attention(surroundings.attention, surroundings.device.type))


def positions_of(backbone: Backbone) -> int | None:
    """How many tokens a model has positions for; None where it has no limit."""
    positions: int | None = getattr(backbone.lm.config, "max_position_embeddings", None)
    return positions
