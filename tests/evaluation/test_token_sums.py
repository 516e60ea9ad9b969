"""What models say of samples, against whole distributions in float64, and KL estimates against the exact KL of all that can be sampled."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import PreTrainedModel

from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.evaluation.cost_measures import (
    ENTROPY,
    KL_EXACT,
    KL_EXACT_TOKEN,
    KL_K1,
    KL_K1_TOKEN,
    KL_K3,
    KL_K3_TOKEN,
)
from alignkit.evaluation.sample_measures import PromptSamples, divergences, sample_changes
from alignkit.evaluation.token_sums import SampleReader, token_sums
from alignkit.models.backbone import Backbone
from alignkit.sampling.sampler import Distribution
from alignkit.sampling.trunk_sampler import TrunkSampler

CPU = torch.device("cpu")
PACKING = Packing(layout="packed", tokens=64)
END = 2


@pytest.fixture
def models(lm_factory) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Two models that are near each other, so that no estimate is ruled by a few tokens."""
    model, reference = lm_factory("llama"), lm_factory("llama")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.5)
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            ours.copy_(theirs + 0.25 * theirs.std().nan_to_num() * torch.randn(theirs.shape, generator=generator))
    return model, reference


@torch.no_grad()
def slow_values(
    model: PreTrainedModel, reference: PreTrainedModel, example: EncodedExample, ids: tuple[int, ...], temperature: float
) -> dict[str, float]:
    """Of one completion alone, from the whole vocabulary in float64."""
    whole = torch.tensor([[*example.prompt_ids, *ids]])
    places = slice(len(example.prompt_ids) - 1, -1)
    ours, theirs = ((lm(whole).logits[0, places].double() / temperature).log_softmax(-1) for lm in (model, reference))
    ratios = (ours - theirs).gather(-1, torch.tensor(ids)[:, None])
    return {
        ENTROPY: float(-(ours.exp() * ours).sum()),
        KL_K1: float(ratios.sum()),
        KL_K3: float((torch.exp(-ratios) - 1 + ratios).sum()),
        KL_EXACT: float((ours.exp() * (ours - theirs)).sum()),
    }


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sums_are_those_of_each_completion_by_itself(models, examples_factory, temperature: float) -> None:
    model, reference = models
    examples = examples_factory(9)
    reader = SampleReader(model=Backbone(model), reference=Backbone(reference), temperature=temperature)
    sums = token_sums(examples, PACKING, CPU, reader)
    expected = [slow_values(model, reference, example, ids, temperature) for example in examples for ids in example.completion_ids]
    assert set(sums) == set(expected[0])
    for name, values in sums.items():
        torch.testing.assert_close(values, torch.tensor([one[name] for one in expected]).double(), rtol=1e-3, atol=1e-4)


def test_a_model_is_at_no_distance_from_itself_to_the_bit(models, examples_factory) -> None:
    model = Backbone(models[0])
    sums = token_sums(examples_factory(5), PACKING, CPU, SampleReader(model=model, reference=model, temperature=1.0))
    assert not any(sums[name].any() for name in (KL_K1, KL_K3, KL_EXACT))
    assert sums[ENTROPY].min() > 0


def test_vocabularies_of_another_size_are_compared_by_sampled_tokens_alone(lm_factory, examples_factory) -> None:
    wider = lm_factory("llama")
    wider.resize_token_embeddings(128)
    reader = SampleReader(model=Backbone(wider), reference=Backbone(lm_factory("llama")), temperature=1.0)
    assert set(token_sums(examples_factory(2), PACKING, CPU, reader)) == {ENTROPY, KL_K1, KL_K3}


@torch.no_grad()
def exact_kl(model: PreTrainedModel, reference: PreTrainedModel, prompt: tuple[int, ...]) -> tuple[float, float]:
    """KL(model | reference) of completions of at most two tokens, from all that there are: nats, and expected tokens of one."""
    first = [lm(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1) for lm in (model, reference)]
    every = torch.tensor([[*prompt, token] for token in range(len(first[0]))])
    second = [lm(every).logits[:, -1].double().log_softmax(-1) for lm in (model, reference)]
    then = (second[0].exp() * (second[0] - second[1])).sum(-1)
    then[END] = 0  # a completion that ended has no second token
    chances = first[0].exp()
    return float((chances * (first[0] - first[1] + then)).sum()), float(2 - chances[END])


def test_estimates_agree_with_the_exact_kl(models) -> None:
    model, reference = models
    prompts, samples = [(token, token + 1) for token in range(3, 51)], 16
    sampler = TrunkSampler(Backbone(model), terminator=END, max_tokens=2, distribution=Distribution(), tokens=4096)
    drawn = sampler(prompts, samples=samples, seed=0)
    examples = [
        EncodedExample(key=key, prompt_ids=prompt, completion_ids=tuple(sample.ids for sample in own))
        for key, (prompt, own) in enumerate(zip(prompts, drawn, strict=True))
    ]
    reader = SampleReader(model=Backbone(model), reference=Backbone(reference), temperature=1.0)
    sums = {name: values.view(-1, samples).tolist() for name, values in token_sums(examples, PACKING, CPU, reader).items()}
    found = divergences(
        [
            PromptSamples(
                texts=("",) * samples,
                tokens=tuple(map(len, example.completion_ids)),
                ended=(True,) * samples,
                sums={name: tuple(values[place]) for name, values in sums.items()},
            )
            for place, example in enumerate(examples)
        ]
    )
    exact, tokens = (sum(values) / len(prompts) for values in zip(*(exact_kl(model, reference, one) for one in prompts), strict=True))
    assert exact > 0.02
    for name in (KL_K1, KL_K3, KL_EXACT):
        assert abs(found[name].value - exact) < 3 * found[name].standard_error
    for name in (KL_K1_TOKEN, KL_K3_TOKEN, KL_EXACT_TOKEN):
        assert abs(found[name].value - exact / tokens) < 3 * found[name].standard_error
    # Nothing is left to the draw of a token, which is most of what k1 is unsure of.
    assert found[KL_EXACT].standard_error < found[KL_K3].standard_error < found[KL_K1].standard_error


def samples_of(tokens: tuple[int, ...], **sums: tuple[float, ...]) -> PromptSamples:
    names = {"k1": KL_K1, "entropy": ENTROPY}
    return PromptSamples(
        texts=("a b c d e",) * len(tokens),
        tokens=tokens,
        ended=(True, False)[: len(tokens)],
        sums={names[name]: values for name, values in sums.items()},
        toxicity=(-0.5,) * len(tokens),
    )


def test_long_samples_have_more_tokens_and_no_more_samples() -> None:
    samples = [samples_of((1, 3), k1=(1.0, 5.0)), samples_of((4, 4), k1=(2.0, 0.0))]
    found = divergences(samples)
    assert set(found) == {KL_K1, KL_K1_TOKEN}
    assert found[KL_K1].value == (3 + 1) / 2
    assert found[KL_K1].standard_error == pytest.approx(1.0)  # of the prompts' means 3 and 1
    assert found[KL_K1_TOKEN].value == 8 / 12
    # s - R n = 6 - 8/3 and 2 - 16/3, over the mean count 6: +-5/9; the error is that over sqrt(2) for two of them, squares summed.
    assert found[KL_K1_TOKEN].standard_error == pytest.approx(math.sqrt(2 * (5 / 9) ** 2 / 2))


def test_changes_are_paired_by_prompt() -> None:
    before = [samples_of((1, 3), entropy=(1.0, 3.0)), samples_of((2, 4), entropy=(2.0, 4.0))]
    after = [samples_of((2, 4), entropy=(1.0, 2.0)), samples_of((3, 5), entropy=(1.5, 2.5))]
    changes = sample_changes(before, after, toxicity="lexicon")
    assert (changes["samples/length"].before.value, changes["samples/length"].after.value) == (2.5, 3.5)
    assert changes["samples/length"].change.standard_error == 0  # each prompt's answers are one longer
    assert changes["samples/ended"].after.value == 0.5
    assert changes["samples/entropy"].change.value == -0.5
    assert changes["samples/self_bleu"].after.value == pytest.approx(1)
    assert changes["samples/distinct_1"].after.value == 5 / 20
    assert changes["toxicity/lexicon"].after.value == -0.5
    assert "toxicity/lexicon" not in sample_changes(before, after, toxicity=None)
