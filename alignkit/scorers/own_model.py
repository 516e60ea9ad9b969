"""A model that a scorer loads for itself, under the numbers and the attention of the run around it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from alignkit.batches import PackedBatch
from alignkit.logps import completion_sums
from alignkit.models.backbone import Backbone
from alignkit.models.freezing import freeze
from alignkit.models.loading import load_lm
from alignkit.models.location import CONFIGS
from alignkit.models.reference import backbone_logps
from alignkit.run_dir import RunDir
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


def summed_logps(model: Backbone, batch: PackedBatch) -> Tensor:
    """[c] log-probs of a batch's completions, summed over their tokens, nats."""
    return completion_sums(backbone_logps(model, batch), batch.completion_index, batch.completions)


def run_of(path: str) -> RunDir | None:
    """The run directory at a path, or the one whose `model/` it is."""
    folder = Path(path).expanduser()
    if (folder / "model").is_dir() and not any((folder / name).is_file() for name in CONFIGS):
        return RunDir(folder)
    return RunDir(folder.parent) if folder.name == "model" and folder.is_dir() else None
