"""Windows of a text, and perplexity against transformers' own loss."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from alignkit.data.packing import Packing
from alignkit.evaluation.cost_measures import BITS_PER_BYTE, PERPLEXITY, TEXT_NLL
from alignkit.evaluation.perplexity import HeldOutText, TextMeasures, measure_texts, windows
from alignkit.models.backbone import Backbone

CPU = torch.device("cpu")
WINDOW = 7


def test_windows_share_the_token_that_the_next_one_is_predicted_from() -> None:
    assert windows(range(7), 4) == [(0, 1, 2, 3), (3, 4, 5, 6)]
    assert windows(range(8), 4) == [(0, 1, 2, 3), (3, 4, 5, 6), (6, 7)]
    assert windows(range(3), 4) == [(0, 1, 2)]


@given(length=st.integers(2, 40), size=st.integers(2, 12))
def test_each_token_but_the_first_is_predicted_once(length: int, size: int) -> None:
    cut = windows(range(length), size)
    assert [token for window in cut for token in window[1:]] == list(range(1, length))
    assert max(map(len, cut)) <= size


@pytest.fixture(scope="module")
def texts() -> list[HeldOutText]:
    generator = torch.Generator().manual_seed(0)
    lengths = (2, 7, 13, 20, 5)
    return [HeldOutText(ids=tuple(torch.randint(3, 97, (n,), generator=generator).tolist()), bytes=3 * n) for n in lengths]


def measure(texts: list[HeldOutText], model: PreTrainedModel, reference: PreTrainedModel, layout: str = "packed") -> TextMeasures:
    packing = Packing(layout=layout, tokens=24)  # type: ignore[arg-type]
    return measure_texts(texts, Backbone(model), Backbone(reference), window=WINDOW, packing=packing, device=CPU)


@torch.no_grad()
def total_nll(model: PreTrainedModel, texts: list[HeldOutText]) -> float:
    """By transformers' loss, a mean over the predicted tokens of a window, window by window."""
    total = 0.0
    for text in texts:
        for window in windows(text.ids, WINDOW):
            ids = torch.tensor([window])
            total += float(model(input_ids=ids, labels=ids).loss) * (len(window) - 1)
    return total


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_perplexity_is_that_of_transformers(lm_factory, texts: list[HeldOutText], layout: str) -> None:
    model, reference = lm_factory("llama"), lm_factory("llama", rms_norm_eps=0.5)
    measured = measure(texts, model, reference, layout)
    count = sum(len(text.ids) - 1 for text in texts)
    assert measured.tokens == count
    for side, lm in (("after", model), ("before", reference)):
        nll = total_nll(lm, texts) / count
        assert getattr(measured.changes[TEXT_NLL], side).value == pytest.approx(nll, rel=1e-5)
        assert getattr(measured.changes[PERPLEXITY], side).value == pytest.approx(math.exp(nll), rel=1e-4)
        bits = nll * count / math.log(2) / sum(text.bytes for text in texts)
        assert getattr(measured.changes[BITS_PER_BYTE], side).value == pytest.approx(bits, rel=1e-5)
    assert measured.changes[PERPLEXITY].change.value != 0


@torch.no_grad()
def test_the_divergence_from_the_reference_is_that_of_whole_distributions(lm_factory, texts: list[HeldOutText]) -> None:
    model, reference = lm_factory("gpt2").eval(), lm_factory("gpt2", layer_norm_epsilon=0.5).eval()
    total = 0.0
    for window in (window for text in texts for window in windows(text.ids, WINDOW)):
        ours, theirs = (lm(torch.tensor([window])).logits[0, :-1].double().log_softmax(-1) for lm in (model, reference))
        total += float((theirs.exp() * (theirs - ours)).sum())
    divergence = measure(texts, model, reference).divergence
    assert divergence is not None
    assert divergence.value == pytest.approx(total / sum(len(text.ids) - 1 for text in texts), rel=1e-4)
    assert divergence.value > 0


def test_a_model_has_not_changed_from_itself(lm_factory, texts: list[HeldOutText]) -> None:
    model = lm_factory("llama")
    measured = measure(texts, model, model)
    assert measured.divergence is not None
    assert measured.divergence.value == 0
    assert [change.change.value for change in measured.changes.values()] == [0, 0, 0]
    assert [change.change.standard_error for change in measured.changes.values()] == [0, 0, 0]


def test_vocabularies_of_another_size_have_no_divergence_and_still_a_perplexity(lm_factory, texts: list[HeldOutText]) -> None:
    wider = lm_factory("llama")
    wider.resize_token_embeddings(128)
    measured = measure(texts, wider, lm_factory("llama"))
    assert measured.divergence is None
    assert measured.changes[PERPLEXITY].after.value > 1
