"""A trunk whose matrix products are cut between processes: each computes some heads, and some columns of each layer's network.

    y = sum over processes of  f(x A_k) B_k        A cut by columns, B by rows; one sum over the processes a pair of products

Shoeybi et al. 2019 (arXiv:1909.08053), as transformers' configurations lay it out. Embeddings, norms and heads stay whole, and every
process of a group computes the same with them: it must see the same examples.
"""

from __future__ import annotations

import re

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from alignkit.errors import UserError
from alignkit.models.adapters import has_adapters
from alignkit.models.backbone import Backbone

WHERE = "hardware.tensor_parallel"
STYLES: dict[str, type[ParallelStyle]] = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
"""What transformers' plans call them."""


def why_not_cut(backbone: Backbone, size: int) -> str | None:
    """Why the products of a model cannot be cut between `size` processes, with those numbers that can; None where they can."""
    lm = backbone.lm
    if has_adapters(lm):
        return "its layers have adapters. Type hardware=fsdp, or model.adapter=null."
    kind = type(lm).__name__
    plan = products(backbone)
    if not plan:
        return f"transformers knows no way to cut a {kind}. Type hardware=fsdp."
    unknown = sorted(set(plan.values()) - STYLES.keys())
    if unknown:
        return f"a {kind} asks for {', '.join(unknown)}, which is not known here. Type hardware=fsdp."
    counts = divisors(backbone)
    if any(count % size for count in counts.values()):
        fits = [number for number in range(2, min(counts.values()) + 1) if not any(count % number for count in counts.values())]
        have = ", ".join(f"{count} {what}" for what, count in counts.items())
        return f"it has {have}, which {size} processes cannot share. " + (
            f"Type {WHERE}={fits[-1]}; of {', '.join(map(str, fits))}." if fits else "Type hardware=fsdp."
        )
    return None


def cut_products(backbone: Backbone, mesh: DeviceMesh) -> Backbone:
    """Cut the matrix products of each layer over the processes of `mesh`, in place. Comes before `shard`, over the mesh's other dimension.

    Gradients of what stays whole are the same on all processes, those of what is cut are each one's own. A mesh of one process changes
    nothing.

    Raises:
        UserError: when this model cannot be cut so, saying what can.
    """
    if mesh.size() == 1:
        return backbone
    why = why_not_cut(backbone, mesh.size())
    if why is not None:
        raise UserError(f"{WHERE} = {mesh.size()} with {backbone.lm.name_or_path or type(backbone.lm).__name__!r}: {why}")
    parallelize_module(backbone.decoder, mesh, {name: STYLES[style]() for name, style in products(backbone).items()})
    return backbone


def products(backbone: Backbone) -> dict[str, str]:
    """The modules inside the trunk's layers that the model's own plan cuts, by name in the decoder, and how."""
    plan: dict[str, str] = backbone.lm.config.get_text_config().base_model_tp_plan or {}
    inside = {id(module) for layer in backbone.layers() for module in layer.modules()}
    return {
        name: style
        for name, module in backbone.decoder.named_modules()
        if id(module) in inside
        for pattern, style in plan.items()
        if re.fullmatch(pattern.replace(".", r"\.").replace("*", r"\d+"), name)
    }


def divisors(backbone: Backbone) -> dict[str, int]:
    """What the number of processes must divide: attention heads, and the inner width of the layers' networks."""
    config = backbone.lm.config.get_text_config()
    heads = int(config.num_attention_heads)
    counts = {"attention heads": heads, "key and value heads": int(getattr(config, "num_key_value_heads", None) or heads)}
    inner = getattr(config, "intermediate_size", None)
    return counts if inner is None else {**counts, "inner features": int(inner)}
