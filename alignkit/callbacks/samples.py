"""Held-out prompts, continued by the policy and by the reference, side by side at each validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from transformers import PreTrainedTokenizerBase

from alignkit.models.backbone import Backbone
from alignkit.models.sharding import whole_weights
from alignkit.modules.stepping import SteppingModule
from alignkit.run_dir import RunDir, Scalar


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Continuation:
    """How prompts are continued: greedily, so that two validations differ by the weights alone."""

    tokenizer: PreTrainedTokenizerBase
    terminator: int
    """Token that ends a continuation."""
    tokens: int
    """Longest continuation."""

    @torch.no_grad()
    def __call__(self, backbone: Backbone, prompts: Sequence[Sequence[int]]) -> list[str]:
        """The continuation of each prompt, as text without special tokens; a prompt's oldest tokens make room for it."""
        context = getattr(backbone.lm.config, "max_position_embeddings", None)
        if context is not None:
            prompts = [prompt[-max(1, context - self.tokens) :] for prompt in prompts]
        width = max(map(len, prompts))
        device = backbone.lm.device
        ids = torch.tensor([[self.terminator] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        generate: Callable[..., torch.Tensor] = backbone.lm.generate  # type: ignore[assignment]
        with whole_weights(backbone):
            output = generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=self.tokens,
                do_sample=False,
                eos_token_id=self.terminator,
                pad_token_id=self.terminator,
            )
        texts: list[str] = self.tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
        return texts


@final
class Samples(Callback):
    """Writes `samples.jsonl` and a W&B table."""

    def __init__(self, run: RunDir, prompts: Sequence[Sequence[int]], continuation: Continuation) -> None:
        self._run = run
        self._prompts = prompts
        self._continue = continuation
        self._texts = [str(continuation.tokenizer.decode(list(prompt), skip_special_tokens=True)) for prompt in prompts]
        self._reference: list[str] = []

    def remember(self, reference: Backbone) -> None:
        """Continue the prompts by the reference, before training: where there is none, by the policy before its first update."""
        if self._prompts:
            self._reference = self._continue(reference, self._prompts)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SteppingModule)
        if trainer.sanity_checking or not self._prompts:
            return
        with trainer.precision_plugin.forward_context():
            policy = self._continue(pl_module.backbone, self._prompts)
        rows: list[dict[str, Scalar]] = [
            {"step": pl_module.steps_done, "prompt": prompt, "policy": ours, "reference": theirs}
            for prompt, ours, theirs in zip(self._texts, policy, self._reference, strict=True)
        ]
        if trainer.is_global_zero:
            for row in rows:
                self._run.append_sample(row)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_table("samples", columns=list(rows[0]), data=[list(row.values()) for row in rows], step=pl_module.steps_done)
