"""How well models predict text that neither of them wrote.   T texts"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.evaluation.cost_measures import BITS_PER_BYTE, PERPLEXITY, TEXT_KL, TEXT_NLL
from alignkit.evaluation.estimates import Change, Estimate
from alignkit.evaluation.token_sums import TextReader, token_sums
from alignkit.models.backbone import Backbone


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutText:
    """One text as both models read it."""

    ids: tuple[int, ...]
    """At least two token ids, the beginning-of-text token included where there is one."""
    bytes: int
    """Bytes in UTF-8 of all that is predicted: of all tokens but the first."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TextMeasures:
    """What was measured on T texts."""

    changes: dict[str, Change]
    divergence: Estimate | None
    """KL(reference | model) a token, nats; None where the vocabularies differ in size."""
    tokens: int
    """That were predicted."""


def windows(ids: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """A text cut into windows of at most `size` tokens, in which each token but the text's first is predicted once.

    Windows share nothing but one token: each begins with the last one of the window before, which predicts its next. So the first tokens
    of a window have little to go by, and a text's perplexity is a little higher than with windows that slide.
    """
    step = size - 1
    return [tuple(ids[start : start + size]) for start in range(0, len(ids) - 1, step)]


def measure_texts(
    texts: Sequence[HeldOutText], model: Backbone, reference: Backbone, *, window: int, packing: Packing, device: torch.device
) -> TextMeasures:
    """Perplexity of both models, and how far they are apart.

        nll = - sum over all predicted tokens of log p / their number          perplexity = e^nll
        bits a byte = nll of all texts / ln 2 / bytes of all texts

    Texts are the units of intervals. `window` is what both models have positions for, >= 2.
    """
    cut = [windows(text.ids, window) for text in texts]
    pieces = [piece for own in cut for piece in own]
    examples = [EncodedExample(key=key, prompt_ids=piece[:1], completion_ids=(piece[1:],)) for key, piece in enumerate(pieces)]
    owner = torch.tensor([place for place, own in enumerate(cut) for _ in own])
    ours = token_sums(examples, packing, device, TextReader(model=model, reference=reference))
    theirs = token_sums(examples, packing, device, TextReader(model=reference))

    def of_texts(values: torch.Tensor) -> list[float]:
        every: list[float] = values.new_zeros(len(texts)).index_add(0, owner, values).tolist()
        return every

    tokens, sizes = [len(text.ids) - 1 for text in texts], [text.bytes for text in texts]
    before, after = of_texts(theirs[TEXT_NLL]), of_texts(ours[TEXT_NLL])
    nll = Change(before=Estimate.of_ratio(before, tokens), after=Estimate.of_ratio(after, tokens))
    bits = (Estimate.of_ratio(sums, sizes).times(1 / math.log(2)) for sums in (before, after))
    return TextMeasures(
        changes={
            TEXT_NLL: nll,
            PERPLEXITY: Change(before=nll.before.exp(), after=nll.after.exp()),
            BITS_PER_BYTE: Change(before=next(bits), after=next(bits)),
        },
        divergence=Estimate.of_ratio(of_texts(ours[TEXT_KL]), tokens) if TEXT_KL in ours else None,
        tokens=sum(tokens),
    )
