"""What models say of the tokens of completions, summed over each completion.   C completions   N tokens"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from alignkit.advantages import KL_ESTIMATORS
from alignkit.batches import PackedBatch
from alignkit.data.collate import micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.evaluation.cost_measures import ENTROPY, KL_EXACT, KL_K1, KL_K3, TEXT_KL, TEXT_NLL
from alignkit.logps import completion_sums, token_divergences
from alignkit.losses.forward_kl import ForwardKL
from alignkit.losses.reverse_kl import ReverseKL
from alignkit.models.backbone import Backbone
from alignkit.scorers.answer_tokens import on_device

TokenReader = Callable[[PackedBatch], Mapping[str, Tensor]]
"""Values [N] of a batch's completion tokens, by name."""
TOGETHER = 256
"""Examples that are cut into batches together."""


@torch.no_grad()
def token_sums(examples: Sequence[EncodedExample], packing: Packing, device: torch.device, read: TokenReader) -> dict[str, Tensor]:
    """[C] float64 on the CPU, by name: sums over the tokens of each completion, in the order of the examples."""
    found: dict[str, list[Tensor]] = {}
    for start in range(0, len(examples), TOGETHER):
        chunk = examples[start : start + TOGETHER]
        by_key: dict[int, Mapping[str, Tensor]] = {}
        for batch in micro_batches(chunk, packing):
            values = read(on_device(batch, device))
            sums = {
                name: completion_sums(of_tokens.cpu().double(), batch.completion_index, batch.completions).split(
                    list(batch.completion_counts)
                )
                for name, of_tokens in values.items()
            }
            by_key |= {key: {name: parts[place] for name, parts in sums.items()} for place, key in enumerate(batch.example_keys)}
        for example in chunk:
            for name, own in by_key[example.key].items():
                found.setdefault(name, []).append(own)
    return {name: torch.cat(parts) for name, parts in found.items()}


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SampleReader:
    """What is asked of the tokens of a model's own samples, at the temperature of the samples."""

    model: Backbone
    temperature: float
    reference: Backbone | None = None
    """Whom the model is measured against; None asks the model alone."""

    def __call__(self, batch: PackedBatch) -> dict[str, Tensor]:
        """Entropies of the model, and estimates of KL(model | reference) at each token, nats, without gradient.

        k1 and k3 read the sampled token: see `alignkit.advantages.kl_estimates`. The exact one sums over the vocabulary: given the tokens
        before, nothing is left to chance, so that its sum over a sample has the same mean and a smaller variance than that of k1 (Amini et
        al. 2025, arXiv:2504.10637). It is left out where the two vocabularies differ in size.
        """
        hidden = self.model.hidden_states(batch)
        values = {ENTROPY: self.model.token_entropies(hidden, batch, temperature=self.temperature)}
        if self.reference is None:
            return values
        theirs = self.reference.hidden_states(batch)
        logps, reference_logps = (
            model.token_scores(states, batch, temperature=self.temperature).logps
            for model, states in ((self.model, hidden), (self.reference, theirs))
        )
        values |= {name: KL_ESTIMATORS[estimator](logps - reference_logps) for name, estimator in ((KL_K1, "k1"), (KL_K3, "k3"))}
        if same_size(self.model, self.reference):
            ours, others = (
                model.vocabulary(states, batch, temperature=self.temperature)
                for model, states in ((self.model, hidden), (self.reference, theirs))
            )
            values[KL_EXACT] = token_divergences(*ours, *others, ReverseKL())
        return values


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TextReader:
    """What is asked of the tokens of a text that neither model wrote."""

    model: Backbone
    reference: Backbone | None = None
    """Whom the model is measured against; None asks the model alone."""

    def __call__(self, batch: PackedBatch) -> dict[str, Tensor]:
        """-log-prob of each token, and KL(reference | model) over the vocabulary, nats; that is left out where the vocabularies differ in
        size."""
        hidden = self.model.hidden_states(batch)
        values = {TEXT_NLL: -self.model.token_scores(hidden, batch).logps}
        if self.reference is not None and same_size(self.model, self.reference):
            theirs = self.reference.vocabulary(self.reference.hidden_states(batch), batch)
            values[TEXT_KL] = self.model.token_divergences(hidden, batch, theirs, ForwardKL())
        return values


def same_size(left: Backbone, right: Backbone) -> bool:
    """Whether a divergence over the vocabulary means something."""
    sizes = {model.lm.get_output_embeddings().weight.shape[0] for model in (left, right)}
    return len(sizes) == 1
