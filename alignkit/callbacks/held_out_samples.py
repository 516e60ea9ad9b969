"""What held-out samples of a policy are worth, and how far from the reference: for objectives that sample nothing themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from alignkit.batches import PackedBatch
from alignkit.data.examples import EncodedExample
from alignkit.losses.rollout_outputs import PolicyTokens
from alignkit.metrics import GOLD, GOLD_STD, LENGTH, TERMINATED, VALIDATION
from alignkit.models.reference import backbone_logps
from alignkit.models.shared_passes import Asked
from alignkit.modules.collector import Collector
from alignkit.modules.draws import Stream
from alignkit.modules.held_out import distinctness, divergence
from alignkit.modules.stepping import SteppingModule
from alignkit.sampling.together import draw_together


@final
class HeldOutSamples(Callback):
    """One sample a held-out prompt, at temperature 1, at each validation: what `loss=ppo` logs too, under the same names.

    Its score by `validation.gold`, its KL to the reference by `validation.kl`, its length and variety. Policy and reference read the same
    batches through the same code in the same precision: where they are one function, as under a frozen trunk, KL is 0 to the bit.
    """

    def __init__(
        self, collector: Collector, prompts: Sequence[EncodedExample], *, seed: int, scored: bool, reference: Asked | None = None
    ) -> None:
        """`collector`: its scorer is the gold one where samples are `scored`. `reference`: None measures no KL."""
        self._collector = collector
        self._prompts = prompts
        self._seed = Stream.HELD_OUT.seed(seed, 0)  # that of PPO's held-out samples, so that both draw the same from the same policy
        self._scored = scored
        self._reference = reference

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SteppingModule)
        with pl_module.whole_models(), trainer.precision_plugin.forward_context():
            values = self._worth() if self._reference is None else self._worth_and_divergence(pl_module, self._reference)
        pl_module.emit({VALIDATION + name: value for name, value in values.items()})

    def _worth(self) -> dict[str, float]:
        drawn = draw_together(self._collector.sampler, [prompt.prompt_ids for prompt in self._prompts], samples=1, seed=self._seed)
        answers = self._collector.answers(
            tuple(
                EncodedExample(key=key, prompt_ids=prompt.prompt_ids, completion_ids=(sample.ids,))
                for key, (prompt, (sample,)) in enumerate(zip(self._prompts, drawn, strict=True))
            )
        )
        scores, metrics = self._collector.worth_together(answers)
        return self._told(scores, metrics[LENGTH], metrics[TERMINATED], answers.completions)

    def _worth_and_divergence(self, module: SteppingModule, reference: Asked) -> dict[str, float]:
        if isinstance(reference, nn.Module):
            reference.to(module.device)

        def read(batch: PackedBatch) -> tuple[PolicyTokens, Tensor]:
            return PolicyTokens(logps=backbone_logps(module.backbone, batch)), reference.token_logps(batch)

        collected = self._collector(self._prompts, samples=1, seed=self._seed, read=read, device=module.device)
        metrics = collected.metrics
        told = self._told(collected.rollout.scores, metrics[LENGTH], metrics[TERMINATED], collected.answers.completions)
        return told | divergence(collected.rollout)

    def _told(self, scores: Tensor, lengths: Tensor, terminated: Tensor, texts: Sequence[str]) -> dict[str, float]:
        values = {GOLD: float(scores.mean()), GOLD_STD: float(scores.std(correction=0))} if self._scored else {}
        return values | {LENGTH: float(lengths.mean()), TERMINATED: float(terminated.mean()), **distinctness(texts)}
