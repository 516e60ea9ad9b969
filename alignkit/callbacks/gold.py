"""What held-out samples of a policy are truly worth, at each validation: for objectives that sample nothing themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from lightning import Callback, LightningModule, Trainer

from alignkit.data.examples import EncodedExample
from alignkit.metrics import GOLD, GOLD_STD, LENGTH, TERMINATED, VALIDATION
from alignkit.modules.collector import Collector
from alignkit.modules.rollout_module import Stream
from alignkit.modules.stepping import SteppingModule
from alignkit.sampling.together import draw_together


@final
class GoldSamples(Callback):
    """One sample a held-out prompt, at temperature 1, scored by `validation.gold`: what `loss=ppo` logs too."""

    def __init__(self, collector: Collector, prompts: Sequence[EncodedExample], *, seed: int) -> None:
        """`collector`: its scorer is the gold one."""
        self._collector = collector
        self._prompts = prompts
        self._seed = Stream.HELD_OUT.seed(seed, 0)  # that of PPO's held-out samples, so that both draw the same from the same policy

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SteppingModule)
        with pl_module.whole_models(), trainer.precision_plugin.forward_context():
            drawn = draw_together(self._collector.sampler, [prompt.prompt_ids for prompt in self._prompts], samples=1, seed=self._seed)
            examples = tuple(
                EncodedExample(key=key, prompt_ids=prompt.prompt_ids, completion_ids=(sample.ids,))
                for key, (prompt, (sample,)) in enumerate(zip(self._prompts, drawn, strict=True))
            )
            scores, metrics = self._collector.worth_together(self._collector.answers(examples))
        values = {GOLD: float(scores.mean()), GOLD_STD: float(scores.std(correction=0))}
        values |= {name: float(metrics[name].mean()) for name in (LENGTH, TERMINATED)}
        pl_module.emit({VALIDATION + name: value for name, value in values.items()})
