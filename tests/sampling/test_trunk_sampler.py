"""Samples are drawn from what the scorer of packed rows says, whatever shares their batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from transformers import PreTrainedModel

from alignkit.data.collate import micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.errors import UserError
from alignkit.models.backbone import Backbone
from alignkit.sampling import trunk_sampler
from alignkit.sampling.sampler import Distribution, Sample
from alignkit.sampling.trunk_sampler import TrunkSampler

PROMPTS = [(5, 6, 7), (8,), (9, 10, 11, 12, 13, 14, 15), (16, 17), (18, 19, 20, 21)]
TERMINATOR = 2
Sampled = list[list[Sample]]


def sampler_of(backbone: Backbone, *, max_tokens: int = 8, tokens: int = 10_000, **distribution: float) -> TrunkSampler:
    chosen = Distribution(**distribution)  # type: ignore[arg-type]
    return TrunkSampler(backbone, terminator=TERMINATOR, max_tokens=max_tokens, distribution=chosen, tokens=tokens)


@pytest.fixture
def ending(lm_factory) -> Callable[..., PreTrainedModel]:
    """Models that end about every third completion."""

    def build(name: str, **options: object) -> PreTrainedModel:
        lm: PreTrainedModel = lm_factory(name, **options)
        with torch.no_grad():
            lm.get_output_embeddings().weight[TERMINATOR] *= 3
        return lm

    return build


def scored(backbone: Backbone, answers: Sampled, temperature: float, layout: str) -> torch.Tensor:
    """Log-probs of all sampled tokens by the code that trains, in the order of the samples."""
    examples = [
        EncodedExample(key=key, prompt_ids=prompt, completion_ids=tuple(sample.ids for sample in own))
        for key, (prompt, own) in enumerate(zip(PROMPTS, answers, strict=True))
    ]
    (batch,) = micro_batches(examples, Packing(layout=layout, tokens=10_000, row_tokens=10_000))  # type: ignore[arg-type]
    with torch.no_grad():
        said = backbone.token_scores(backbone.hidden_states(batch), batch, temperature=temperature).logps
    sizes = [sum(map(len, examples[key].completion_ids)) for key in batch.example_keys]
    parts = dict(zip(batch.example_keys, said.split(sizes), strict=True))
    return torch.cat([parts[key] for key in range(len(examples))])


def drawn(answers: Sampled) -> torch.Tensor:
    return torch.tensor([logp for own in answers for sample in own for logp in sample.logps], dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "gpt_neox", "gemma", "opt", "mistral", "gemma3_text", "bloom"])
def test_log_probs_as_drawn_are_those_of_the_packed_scorer(name, temperature, ending):
    backbone = Backbone(ending(name))
    answers = sampler_of(backbone, temperature=temperature)(PROMPTS, samples=3, seed=0)
    assert len({len(sample.ids) for own in answers for sample in own}) > 1, "ragged"
    error = (drawn(answers) - scored(backbone, answers, temperature, backbone.layout("packed"))).abs().max()
    assert error < 1e-4


@pytest.mark.parametrize("name", ["gpt2", "opt", "gpt_neox"])  # others have float32 inside
def test_they_are_so_to_nine_digits_in_float64(name, ending):
    backbone = Backbone(ending(name, dtype=torch.float64))
    answers = sampler_of(backbone, temperature=0.7)(PROMPTS, samples=3, seed=0)
    assert (drawn(answers) - scored(backbone, answers, 0.7, "packed")).abs().max() < 1e-9
    assert (drawn(answers) - scored(backbone, answers, 1.0, "packed")).abs().max() > 0.1


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "opt", "mistral", "bloom"])
def test_the_likeliest_tokens_are_those_that_transformers_generates(name, ending):
    lm = ending(name)
    backbone = Backbone(lm)
    answers = sampler_of(backbone, max_tokens=12, top_k=1)(PROMPTS, samples=2, seed=0)
    for prompt, own in zip(PROMPTS, answers, strict=True):
        output = lm.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=TERMINATOR,
            pad_token_id=0,
        )
        assert [sample.ids for sample in own] == [tuple(output[0, len(prompt) :].tolist())] * 2
        assert own[0].logps == (0.0,) * len(own[0].ids)


@pytest.fixture
def exact(ending) -> Backbone:
    """In float64, where rounding of other batches moves no token over an edge."""
    return Backbone(ending("gpt2", dtype=torch.float64))


def ids(answers: Sampled) -> list[list[tuple[int, ...]]]:
    return [[sample.ids for sample in own] for own in answers]


def test_samples_do_not_depend_on_what_shares_their_batch(exact):
    together = sampler_of(exact)(PROMPTS, samples=4, seed=3)
    for tokens in (16, 40, 60, 100, 150, 400):  # at 16 every sample runs alone
        apart = sampler_of(exact, tokens=tokens)(PROMPTS, samples=4, seed=3)
        assert ids(apart) == ids(together)
        assert (drawn(apart) - drawn(together)).abs().max() < 1e-9


def test_the_budget_of_tokens_is_kept(exact, monkeypatch):
    held: list[int] = []
    run = TrunkSampler._run

    def watched(self, ids, mask, positions, cache):
        held.append(mask.numel())
        return run(self, ids, mask, positions, cache)

    monkeypatch.setattr(TrunkSampler, "_run", watched)
    for budget in (16, 60, 150):
        held.clear()
        sampler_of(exact, tokens=budget)(PROMPTS, samples=4, seed=0)
        assert max(held) <= budget


@pytest.mark.parametrize("alive", [0.0, 0.5, 1.0])
def test_sequences_that_ended_may_leave_the_batch_or_stay(alive, exact, monkeypatch):
    expected = sampler_of(exact)(PROMPTS, samples=4, seed=1)
    assert len({len(sample.ids) for own in expected for sample in own}) > 3
    monkeypatch.setattr(trunk_sampler, "ALIVE", alive)
    answers = sampler_of(exact)(PROMPTS, samples=4, seed=1)
    assert ids(answers) == ids(expected)
    assert (drawn(answers) - drawn(expected)).abs().max() < 1e-9


def test_sequences_that_ended_leave_sliding_windows_too(ending, monkeypatch):
    backbone = Backbone(ending("mistral"))
    answers = []
    for alive in (0.0, 1.0):
        monkeypatch.setattr(trunk_sampler, "ALIVE", alive)
        answers.append(ids(sampler_of(backbone, max_tokens=14)(PROMPTS, samples=4, seed=1)))
    assert answers[0] == answers[1]


def test_logits_exist_for_a_chunk_of_the_sequences_at_a_time(exact, monkeypatch):
    expected = sampler_of(exact)(PROMPTS, samples=4, seed=2)
    sizes: list[int] = []
    monkeypatch.setattr("alignkit.vocabulary.CHUNK_ELEMENTS", 3 * 97)
    logits = Backbone.next_token_logits

    def watched(self, states):
        sizes.append(len(states))
        return logits(self, states)

    monkeypatch.setattr(Backbone, "next_token_logits", watched)
    assert ids(sampler_of(exact)(PROMPTS, samples=4, seed=2)) == ids(expected)
    assert max(sizes) == 3


def test_completions_end_with_their_terminator_or_were_cut(exact):
    answers = sampler_of(exact, max_tokens=6)(PROMPTS, samples=20, seed=0)
    samples = [sample for own in answers for sample in own]
    assert all(len(sample.ids) == len(sample.logps) for sample in samples)
    assert all(TERMINATOR not in sample.ids[:-1] for sample in samples)
    ended = [sample for sample in samples if sample.ids[-1] == TERMINATOR]
    cut = [sample for sample in samples if sample.ids[-1] != TERMINATOR]
    assert min(len(ended), len(cut)) > 5
    assert {len(sample.ids) for sample in cut} == {6}
    assert min(len(sample.ids) for sample in ended) == 1


def test_the_seed_alone_decides(exact):
    first, again, other = (ids(sampler_of(exact)(PROMPTS, samples=2, seed=seed)) for seed in (7, 7, 8))
    torch.manual_seed(5)
    assert first == again != other
    assert all(own[0] != own[1] for own in first if len(own[0]) > 2), "samples of a prompt differ"


def test_sampling_draws_no_random_numbers_that_others_would(exact):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sampler_of(exact)(PROMPTS, samples=2, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_tokens_come_as_often_as_the_softmax_says(temperature, exact):
    prompt, count = PROMPTS[2], 5_000
    (own,) = sampler_of(exact, max_tokens=1, temperature=temperature, tokens=10**9)([prompt], samples=count, seed=0)
    with torch.no_grad():
        expected = (exact.lm(torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1) * count
    seen = torch.bincount(torch.tensor([sample.ids[0] for sample in own]), minlength=97).double()
    common = expected >= 5
    observed, wanted = (torch.cat([values[common], values[~common].sum()[None]]) for values in (seen, expected))
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    chi_square = float(((observed - wanted).square() / wanted).sum())
    degrees = len(wanted) - 1
    assert degrees > 5
    assert abs(chi_square - degrees) < 4 * (2 * degrees) ** 0.5
    other = (expected / count).pow(1.3)
    wrong = other / other.sum() * count
    assert float(((seen - wrong)[common].square() / wrong[common]).sum()) > chi_square + 50


def test_whoever_listens_hears_each_token_as_it_is_drawn(exact):
    heard: list[int] = []
    chosen = Distribution()
    sampler = TrunkSampler(exact, terminator=TERMINATOR, max_tokens=9, distribution=chosen, tokens=1000, on_token=heard.append)
    ((sample,),) = sampler([PROMPTS[0]], samples=1, seed=4)
    assert tuple(heard) == sample.ids


def test_a_recurrent_model_is_refused(lm_factory):
    with pytest.raises(UserError, match=r"^model\.path: a MambaForCausalLM keeps no keys and values .* Take a transformer\.$"):
        sampler_of(Backbone(lm_factory("mamba")))


def test_prompts_of_one_length_need_no_padding(exact, monkeypatch):
    masks: list[torch.Tensor] = []
    run = TrunkSampler._run

    def watched(self, ids, mask, positions, cache):
        masks.append(mask)
        return run(self, ids, mask, positions, cache)

    monkeypatch.setattr(TrunkSampler, "_run", watched)
    prompts: Sequence[tuple[int, ...]] = [(5, 6), (7, 8), (9, 10, 11), (12, 13, 14)]
    sampler_of(exact, max_tokens=2, tokens=24)(prompts, samples=2, seed=0)  # two prompts fit
    assert all(bool(mask.all()) for mask in masks)
