"""Scores of candidates out of one packed pass: equal to what the language model says of each text by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from transformers import PreTrainedModel

from alignkit.batches import Layout
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.data.question_encoding import EncodedQuestion
from alignkit.evaluation.scoring import QuestionScorer, ScoredQuestion
from alignkit.loss_settings import HeadSettings
from alignkit.models.backbone import Backbone
from alignkit.models.heads import Heads

END = 2
PROMPTS = [((5, 6, 7, 8), [(9, 10, END), (11, END), (12, 13, 14, END)], [0, 0, 1]), ((20, 21), [(22, END), (23, 24, END)], [0, 0])]
"""Prompt, candidates, and how many tokens of each are given."""


def questions() -> list[EncodedQuestion]:
    return [
        EncodedQuestion(
            key=key,
            examples=(EncodedExample(key=key, prompt_ids=prompt, completion_ids=tuple(candidates)),),
            spans=tuple((start, len(ids) - 1) for ids, start in zip(candidates, given, strict=True)),
            characters=tuple(3 * len(ids) for ids in candidates),
            terminator=END,
        )
        for key, (prompt, candidates, given) in enumerate(PROMPTS)
    ]


def scorer(
    lm: PreTrainedModel, *, layout: Layout = "packed", reference: PreTrainedModel | None = None, beta: float = 1.0
) -> QuestionScorer:
    backbone = Backbone(lm)
    packing = Packing(layout=layout, tokens=64, row_tokens=32)
    torch.manual_seed(3)
    heads = Heads(backbone.hidden_width, {"dph": HeadSettings(name="dph", pooler="identity", dropout=0.0, init_std=0.3)}).eval()
    other = None if reference is None else (Backbone(reference), packing)
    return QuestionScorer(
        backbone=backbone, heads=heads, packing=packing, device=torch.device("cpu"), normalizations={}, reference=other, beta=beta
    )


@torch.no_grad()
def by_itself(lm: PreTrainedModel, prompt: Sequence[int], ids: Sequence[int], start: int) -> list[float]:
    """Log-probs of the tokens from `start` on, without the terminator, by transformers alone, in float64."""
    whole = torch.tensor([[*prompt, *ids]])
    logps = lm(input_ids=whole).logits[0].double().log_softmax(-1)
    return [float(logps[len(prompt) + place - 1, ids[place]]) for place in range(start, len(ids) - 1)]


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_log_probs_are_those_of_each_text_by_itself(lm_factory, architecture: str, layout: Layout) -> None:
    lm = lm_factory(architecture).eval()
    for said, (prompt, candidates, given) in zip(scorer(lm, layout=layout)(questions()), PROMPTS, strict=True):
        alone = [by_itself(lm, prompt, ids, start) for ids, start in zip(candidates, given, strict=True)]
        assert said.lengths == tuple(map(len, alone))
        assert said.scores["logp_sum"] == pytest.approx([sum(own) for own in alone], abs=2e-5)
        assert said.scores["logp_mean"] == pytest.approx([sum(own) / len(own) for own in alone], abs=2e-5)
        assert said.scores["logp_characters"] == pytest.approx(
            [sum(own) / (3 * len(ids)) for own, ids in zip(alone, candidates, strict=True)], abs=2e-5
        )


def test_a_head_reads_the_state_of_the_last_token(lm_factory) -> None:
    lm = lm_factory("llama").eval()
    model = scorer(lm)
    for said, (prompt, candidates, _) in zip(model(questions()), PROMPTS, strict=True):
        for score, ids in zip(said.scores["dph"], candidates, strict=True):
            with torch.no_grad():
                state = lm.base_model(input_ids=torch.tensor([[*prompt, *ids]])).last_hidden_state[0, -1:]
                assert score == pytest.approx(float(model.heads.scores("dph", state)), abs=2e-5)


def test_the_implicit_reward_is_beta_times_the_log_ratio_of_what_counts(lm_factory) -> None:
    policy, reference = lm_factory("llama").eval(), lm_factory("llama", num_hidden_layers=1).eval()
    for said, (prompt, candidates, given) in zip(scorer(policy, reference=reference, beta=0.5)(questions()), PROMPTS, strict=True):
        ratios = [
            sum(by_itself(policy, prompt, ids, start)) - sum(by_itself(reference, prompt, ids, start))
            for ids, start in zip(candidates, given, strict=True)
        ]
        assert said.scores["implicit"] == pytest.approx([0.5 * ratio for ratio in ratios], abs=2e-5)


def test_a_question_whose_candidates_share_nothing_is_scored_all_the_same(lm_factory) -> None:
    lm = lm_factory("llama").eval()
    (shared, _) = questions()
    (example,) = shared.examples
    apart = dataclasses.replace(
        shared,
        examples=tuple(EncodedExample(key=0, prompt_ids=example.prompt_ids, completion_ids=(ids,)) for ids in example.completion_ids),
    )
    said: list[ScoredQuestion] = [next(scorer(lm)([one])) for one in (shared, apart)]
    for name, scores in said[0].scores.items():
        assert said[1].scores[name] == pytest.approx(scores, abs=2e-5)


def test_many_questions_come_out_in_their_order(lm_factory) -> None:
    lm = lm_factory("gpt2").eval()
    model, few = scorer(lm), questions()
    many = [dataclasses.replace(few[place % 2], key=place) for place in range(301)]
    told: list[int] = []
    said = list(model(many, told.append))
    assert [one.key for one in said] == list(range(301))
    assert told == [256, 301]
    once = list(model(few))
    for one in said:
        assert one.scores["logp_sum"] == pytest.approx(once[one.key % 2].scores["logp_sum"], abs=2e-5)
