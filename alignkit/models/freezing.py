"""Which weights of a trunk are trained."""

from __future__ import annotations

from alignkit.errors import UserError
from alignkit.model_settings import ModelSettings
from alignkit.models.backbone import Backbone


def leave_trained(backbone: Backbone, settings: ModelSettings) -> None:
    """Freeze all of the trunk that a run does not train; adapters come after it.

    Raises:
        UserError: when it has no such layers.
    """
    if settings.train == "heads":
        freeze(backbone)
    if settings.train == "embeddings":
        train_embeddings(backbone)
    if settings.frozen_layers > 0:
        freeze_layers(backbone, settings.frozen_layers)


def freeze(backbone: Backbone) -> Backbone:
    """The same backbone, without gradients."""
    return backbone.requires_grad_(False).eval()


def freeze_layers(backbone: Backbone, count: int) -> Backbone:
    """Freeze the first `count` layers of the trunk and the input embeddings. A tied output embedding is frozen with them.

    Raises:
        UserError: when there are not so many layers, or they cannot be told apart.
    """
    layers = backbone.layers()
    if count > len(layers):
        raise UserError(f"model.frozen_layers = {count}; this model has {len(layers)} layers. Type model.frozen_layers={len(layers) // 2}.")
    for module in (backbone.lm.get_input_embeddings(), *layers[:count]):
        module.requires_grad_(False)
    return backbone


def train_embeddings(backbone: Backbone) -> Backbone:
    """Freeze everything but the input and the output embeddings."""
    freeze(backbone)
    for module in (backbone.lm.get_input_embeddings(), backbone.lm.get_output_embeddings()):
        module.requires_grad_(True)
    return backbone
