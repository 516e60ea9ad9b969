"""What FSDP gathers for a moment, at the peak of a step."""

from __future__ import annotations

from alignkit.planning.cutting import cut_model
from alignkit.rehearsal import Rehearsal

GATHERED = "gathered layers"
BUFFERS = "buffers of a layer"
AHEAD = 2
"""Layers that are whole at a time: the one that is computed, and the next one, which is fetched meanwhile."""


def gathered_parts(rehearsal: Rehearsal) -> dict[str, int]:
    """Bytes that a rank holds beside its own part of the models: the root and two layers whole; and of one layer the flat buffer that it
    arrives in, the one that its gradients leave in, and what comes back of them."""
    ranks = rehearsal.share.shards
    if ranks == 1:
        return {}
    running = [*([rehearsal.policy] if rehearsal.policy is not None else []), *rehearsal.references]
    models = [cut_model(backbone, ranks) for backbone in running]
    if not models:
        return {}
    return {
        GATHERED: max(model.root.gathered + AHEAD * model.largest.gathered for model in models),
        BUFFERS: max(model.largest.gathered + model.largest.scattered + model.largest.scattered // ranks for model in models),
    }
