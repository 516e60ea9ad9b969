"""Whether raising one side of a pair raises the other: the angle between their gradients, on a probe batch."""

from __future__ import annotations

from typing import final

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from alignkit.batches import PackedBatch
from alignkit.metrics import GRADIENT_COSINE, VALIDATION
from alignkit.modules.alignment import AlignmentModule
from alignkit.modules.forward import Forward


@final
class GradientCosine(Callback):
    """After each validation, the cosine between the gradients of sum log pi(y_w) and of sum log pi(y_l) over the first held-out
    micro-batch. Costs two backward passes and two gradients in memory.

    Near 1, an update that lowers the rejected side lowers the chosen one too: likelihood displacement.
    """

    def __init__(self) -> None:
        self._probe: PackedBatch | None = None

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: PackedBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0:
            self._probe = batch

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, AlignmentModule)
        assert self._probe is not None
        with torch.enable_grad(), trainer.precision_plugin.forward_context():
            cosine = gradient_cosine(pl_module.forward_of(self._probe))
        self._probe = None
        if cosine is not None:  # of the first rank's batch, which is the one that one process takes
            pl_module.emit({VALIDATION + GRADIENT_COSINE: cosine})


def gradient_cosine(forward: Forward) -> float | None:
    """Cosine between the gradients of both sides' log-probs, over all weights of the trunk that are trained; None where none is."""
    weights = [parameter for parameter in forward.parts.backbone.parameters() if parameter.requires_grad]
    if not weights:
        return None
    pairs = forward.pairs(forward.policy, forward.select(None))
    chosen = torch.autograd.grad(pairs.chosen.sum(), weights, retain_graph=True, allow_unused=True)
    rejected = torch.autograd.grad(pairs.rejected.sum(), weights, allow_unused=True)
    both = [(one.float(), other.float()) for one, other in zip(chosen, rejected, strict=True) if one is not None and other is not None]
    product, one, other = (sum_of(both, a, b) for a, b in ((0, 1), (0, 0), (1, 1)))
    length = (one * other).sqrt()
    return float(product / length) if length > 0 else None


def sum_of(gradients: list[tuple[Tensor, Tensor]], a: int, b: int) -> Tensor:
    """[] inner product of side a with side b."""
    return torch.stack([(pair[a] * pair[b]).sum(dtype=torch.float64) for pair in gradients]).sum()
