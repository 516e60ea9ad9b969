"""After training, the scores of heads get mean 0 and variance 1 over samples of the policy as it was before."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from lightning import Trainer
from lightning.fabric.utilities import move_data_to_device

from alignkit.data.collate import micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.modules.alignment import AlignmentModule
from alignkit.modules.forward import Forward
from alignkit.ranks import is_first
from alignkit.run_dir import RunDir, Scalar
from alignkit.run_parts import Inputs
from alignkit.sampling.sampler import Distribution
from alignkit.sampling.together import draw_together
from alignkit.sampling.trunk_sampler import TrunkSampler
from alignkit.scorers.normalization import normalization
from alignkit.scorers.saved_heads import saved_head
from alignkit.settings import RunSettings

SAMPLED_POSITIONS = 32768
"""Positions whose keys and values are held at once while the samples are drawn."""


@final
class HeadNormalization:
    """Draws the samples before training and measures their scores after it.

    One head at a time could be normalised over other samples; here the largest number that any head asks for serves all that ask.
    """

    def __init__(self, settings: RunSettings, module: AlignmentModule, inputs: Inputs, trainer: Trainer) -> None:
        self._settings = settings
        self._module = module
        self._inputs = inputs
        self._trainer = trainer
        self._heads = [name for name, head in inputs.heads.items() if head.normalize > 0]
        self._samples: list[EncodedExample] = []

    def sample(self) -> None:
        """One answer to each of the first training prompts, by the policy as it is now."""
        count = max((self._inputs.heads[name].normalize for name in self._heads), default=0)
        if count == 0:
            return
        sampler = TrunkSampler(
            self._module.backbone,
            terminator=self._inputs.terminator,
            max_tokens=self._settings.validation.sample_tokens,
            distribution=Distribution(),
            tokens=SAMPLED_POSITIONS,
        )
        train = self._inputs.prepared.train
        prompts = [train[place % len(train)].prompt_ids for place in range(count)]
        with self._trainer.precision_plugin.forward_context():
            drawn = draw_together(sampler, prompts, samples=1, seed=self._settings.seed)
        self._samples = [
            EncodedExample(key=key, prompt_ids=prompt, completion_ids=(sample.ids,))
            for key, (prompt, (sample,)) in enumerate(zip(prompts, drawn, strict=True))
        ]

    @torch.no_grad()
    def store(self, run: RunDir) -> dict[str, Scalar]:
        """Measure the scores and write gain and bias beside each head that asks for it; what was measured, for the results."""
        results: dict[str, Scalar] = {}
        if not self._samples:
            return results
        packing = self._trainer.datamodule.steps.packing.for_looking()  # type: ignore[attr-defined]
        scores: dict[str, list[torch.Tensor]] = {name: [] for name in self._heads}
        self._module.heads.eval()
        parts = replace(self._module.parts, states=None, reference=None)  # what is cached is of other texts
        with self._module.whole_models(), self._trainer.precision_plugin.forward_context():
            for batch in micro_batches(self._samples, packing):
                forward = Forward(parts, move_data_to_device(batch, self._module.device))
                for name in self._heads:
                    scores[name].append(forward.scores(name).cpu())
        for name, of_head in scores.items():
            found = normalization(torch.cat(of_head))
            if is_first():
                saved_head(str(run.path), name).store_normalization(found)
            results |= {f"heads/{name}/gain": found.gain, f"heads/{name}/bias": found.bias}
        return results
