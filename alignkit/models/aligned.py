"""A trained model in memory: the language model, its heads, and what they say of texts.   C completions"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignkit.batches import PackedBatch
from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.packing import Packing
from alignkit.errors import UserError, check_choice
from alignkit.models.backbone import Backbone
from alignkit.models.heads import Heads
from alignkit.models.terminal_states import head_inputs
from alignkit.models.texts import Texts
from alignkit.scorers.answer_tokens import UNBOUNDED, score_batches

Prompt: TypeAlias = str | tuple[Message, ...]
BATCH_TOKENS = 4096
"""Token positions of a batch that is scored."""
ROW_TOKENS = 128
"""Rows under a dense mask are filled up to the longest example, and to so many tokens at least."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class AlignedModel:
    """What a run produced, in evaluation mode."""

    backbone: Backbone
    heads: Heads
    """Empty where the run trained none."""
    tokenizer: PreTrainedTokenizerBase
    texts: Texts | None
    """How the run wrote texts for the model; None where its folder does not say."""

    @property
    def lm(self) -> PreTrainedModel:
        """The language model alone, as transformers knows it."""
        return self.backbone.lm

    @torch.no_grad()
    def score(self, prompts: Sequence[Prompt], completions: Sequence[str], *, head: str | None = None) -> Tensor:
        """[C] float32 on the CPU: what a head says of each completion of its prompt, written and ended as in training.

        `head` may be left out where there is but one. A gain and a bias that are stored with the head are not applied. A completion
        stands after its prompt without anything between them, unless the data were dialogues, where `Message`s may be prompts.

        Raises:
            UserError: when there is no such head, or a text cannot be encoded or is longer than the model.
        """
        name = self._head(head)
        if len(prompts) != len(completions):
            raise UserError(f"score: {len(prompts)} prompts and {len(completions)} completions; each completion needs its prompt.")
        if self.texts is None:
            raise UserError("score: the folder does not say how texts are written: it has no texts.json. Run the heads on ids of your own.")
        positions = getattr(self.lm.config, "max_position_embeddings", None) or UNBOUNDED
        encoder = self.texts.encoder(self.tokenizer, positions)
        pairs = enumerate(zip(prompts, completions, strict=True))
        examples = encoder.encode_all({key: PreferenceExample(prompt=prompt, completions=(text,)) for key, (prompt, text) in pairs})
        if lost := set(range(len(completions))) - {example.key for example in examples}:
            prompt, completion, reasons = prompts[min(lost)], completions[min(lost)], ", ".join(encoder.report.dropped)
            raise UserError(f"score: cannot read {completion!r} as an answer to {prompt!r} ({reasons}).")
        layout = self.backbone.layout("packed")
        return score_batches(
            examples, Packing(layout=layout, tokens=BATCH_TOKENS, row_tokens=ROW_TOKENS), self.lm.device, self._scores(name)
        )

    def _scores(self, name: str) -> Callable[[PackedBatch], Tensor]:
        layers, attend = self.heads.head(name).settings.layers, self.heads.head(name).attention is not None

        def scores(batch: PackedBatch) -> Tensor:
            hidden = self.backbone.hidden_layers(batch, layers)
            return self.heads.scores_of(name, head_inputs(hidden, layers, batch, with_tokens=attend))

        return scores

    def _head(self, name: str | None) -> str:
        if len(self.heads) == 0:
            raise UserError("score: the run trained no head. Type a run of loss=reward or loss=con_dph.")
        if name is None and len(self.heads) > 1:
            raise UserError(f"score: head is missing: there are {', '.join(self.heads)}.")
        name = next(iter(self.heads)) if name is None else name
        check_choice("head", name, list(self.heads))
        return name
