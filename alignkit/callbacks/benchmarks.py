"""What a model knows while it is trained: a few questions of benchmarks at each validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from lightning import Callback, LightningModule, Trainer

from alignkit.data.packing import Packing
from alignkit.evaluation.asked import Asked
from alignkit.evaluation.grading import grade
from alignkit.evaluation.measures import score_of
from alignkit.evaluation.scoring import QuestionScorer
from alignkit.metrics import BENCHMARK, VALIDATION
from alignkit.modules.stepping import SteppingModule


@final
class Benchmarks(Callback):
    """The score of each task as the benchmark defines it, candidates ranked by log-probs and by every head: `alignkit.evaluate` in small.

    Every process asks all questions, so that all know the same numbers.
    """

    def __init__(self, asked: Sequence[Asked], *, packing: Packing) -> None:
        self._asked = asked
        self._packing = packing

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SteppingModule)
        scorer = QuestionScorer(
            backbone=pl_module.backbone, heads=pl_module.heads, packing=self._packing, device=pl_module.device, normalizations={}
        )
        values = {}
        with pl_module.whole_models(), trainer.precision_plugin.forward_context():
            for one in self._asked:
                scored = list(scorer(one.encoded))
                for name in scorer.names:
                    graded = grade(one.name, one.questions, scored, name)
                    values[f"{VALIDATION}{BENCHMARK}{one.name}/{name}"] = score_of(one.task, graded)
        pl_module.emit(values)
