"""Prompts that are shared out get the answers that one process gives them."""

from __future__ import annotations

from alignkit.models.backbone import Backbone
from alignkit.sampling.sampler import Distribution
from alignkit.sampling.together import draw_together, own_places
from alignkit.sampling.trunk_sampler import TrunkSampler

PROMPTS = [(5, 6, 7), (8,), (9, 10, 11, 12, 13), (16, 17), (18, 19, 20, 21)]


def sampler_of(lm_factory) -> TrunkSampler:
    return TrunkSampler(Backbone(lm_factory("llama")), terminator=2, max_tokens=6, distribution=Distribution(), tokens=1000)


def test_random_numbers_belong_to_a_place_whoever_answers_it(lm_factory) -> None:
    sampler = sampler_of(lm_factory)
    every = sampler(PROMPTS, samples=2, seed=3)
    shares = [sampler(PROMPTS, samples=2, seed=3, only=places) for places in ([0, 2, 4], [1, 3])]
    assert [[sample.ids for sample in own] for own in shares[0]] == [[sample.ids for sample in every[place]] for place in (0, 2, 4)]
    assert [[sample.ids for sample in own] for own in shares[1]] == [[sample.ids for sample in every[place]] for place in (1, 3)]


def test_a_process_without_a_share_draws_nothing(lm_factory) -> None:
    assert sampler_of(lm_factory)(PROMPTS, samples=2, seed=3, only=[]) == []


def test_one_process_answers_all(lm_factory) -> None:
    sampler = sampler_of(lm_factory)
    assert own_places(5) == [0, 1, 2, 3, 4]
    assert draw_together(sampler, PROMPTS, samples=1, seed=0) == sampler(PROMPTS, samples=1, seed=0)
