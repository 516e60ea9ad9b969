"""Which prompts are worth a label: known entropies, hand-made scores, and a function of its arguments."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from alignkit.errors import UserError
from alignkit.labelling.querying import Pool, choose, disagreement, entropy, uncertainty
from alignkit.scorers.scorer import Scores


def logit(chance: float) -> float:
    return math.log(chance / (1 - chance))


def pool(*gaps: float) -> Pool:
    """Prompts with two answers whose scores differ by so much."""
    return Pool(counts=(2,) * len(gaps), scores=Scores(total=torch.tensor([score for gap in gaps for score in (1.0 + gap, 1.0)])))


def voted(*members: tuple[float, ...]) -> Pool:
    """Prompts with two answers, the gaps that each member sees."""
    parts = {f"member_{n}": torch.tensor([score for gap in gaps for score in (gap, 0.0)]) for n, gaps in enumerate(members)}
    return Pool(counts=(2,) * len(members[0]), scores=Scores(total=torch.stack(list(parts.values())).mean(0), parts=parts))


def test_entropy_is_a_bit_for_a_fair_coin_and_nothing_for_what_is_certain():
    # -(0.25 * -2 + 0.75 * log2(0.75)) = 0.5 + 0.311278
    assert entropy(torch.tensor([0.5, 0.0, 1.0, 0.25], dtype=torch.float64)).tolist() == pytest.approx([1.0, 0.0, 0.0, 0.8112781245])


def test_disagreement_is_the_mutual_information_of_members_and_label():
    def of(*chances: float) -> float:
        return disagreement(torch.tensor([[logit(chance)] for chance in chances], dtype=torch.float64)).item()

    # H(0.5) - H(0.25): the members are 1/4 and 3/4 sure.
    assert of(0.25, 0.75) == pytest.approx(1 - 0.8112781245)
    # Members that are sure, one against one: a label tells which is right, a whole bit.
    assert of(1e-12, 1 - 1e-12) == pytest.approx(1.0, abs=1e-9)
    # Members who agree that nobody can tell learn nothing from a label, which is chance.
    assert of(0.5, 0.5) == pytest.approx(0.0, abs=1e-12)
    assert of(0.9, 0.9, 0.9) == pytest.approx(0.0, abs=1e-12)
    # Two of three: H(0.9 * 2/3 + 0.1 / 3) - H(0.1).
    mean = (0.9 + 0.9 + 0.1) / 3
    assert of(0.9, 0.9, 0.1) == pytest.approx(-(mean * math.log2(mean) + (1 - mean) * math.log2(1 - mean)) - 0.4689955936)


def test_disagreement_of_scores_that_saturate_is_finite():
    margins = torch.tensor([[1e4, -1e4], [-1e4, -1e4]], dtype=torch.float64)
    assert disagreement(margins).item() == pytest.approx(0.5)  # a bit and nothing


def test_the_margin_asks_for_the_smallest_gap_on_either_side():
    assert uncertainty(pool(0.5, -0.1, 3.0), "margin").tolist() == pytest.approx([-0.5, -0.1, -3.0], abs=1e-6)


def test_the_margin_of_several_answers_is_that_of_the_best_two():
    scores = Scores(total=torch.tensor([0.0, 5.0, 4.0, 1.0, 1.0 + 9, 0.0]))
    assert uncertainty(Pool(counts=(4, 2), scores=scores), "margin").tolist() == pytest.approx([-1.0, -10.0])


def test_an_ensemble_asks_where_members_differ_and_not_where_all_shrug():
    # All shrug; one says this and one that; both sure and right.
    assert choose(voted((0.0, 2.0, 3.0, 3.0), (0.0, -2.0, 3.0, 3.0)), "ensemble", 1, seed=0) == [1]
    assert choose(voted((0.0, 2.0, 3.0, 3.0), (0.0, -2.0, 3.0, 3.0)), "margin", 2, seed=0) == [0, 1]


def test_a_shift_of_a_member_of_all_answers_to_a_prompt_changes_nothing():
    scores = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    shifted = scores + torch.tensor([[1.0, 1.0, 1.0, -2.0, -2.0, -2.0]]) * torch.tensor([[1.0], [5.0], [0.0]])

    def of(said: Tensor) -> list[float]:
        parts = dict(zip("abc", said.unbind(), strict=True))
        return uncertainty(Pool(counts=(3, 3), scores=Scores(total=said.mean(0), parts=parts)), "ensemble").tolist()

    assert of(scores) == pytest.approx(of(shifted), rel=1e-5)


def test_a_choice_is_a_function_of_the_seed():
    many = pool(*(0.01 * place for place in range(200)))
    for query in ("random", "margin"):
        drawn = [choose(many, query, 10, seed=seed) for seed in (3, 3, 4)]
        assert drawn[0] == drawn[1] != drawn[2]
        assert drawn[0] == sorted(set(drawn[0]))
        assert len(drawn[0]) == 10


def test_a_batch_is_drawn_from_the_most_uncertain_of_the_pool():
    gaps = torch.randperm(400, generator=torch.Generator().manual_seed(1)).tolist()
    many = pool(*(0.01 * gap for gap in gaps))
    seen = {gaps[place] for seed in range(50) for place in choose(many, "margin", 10, seed=seed)}
    assert seen == set(range(40))  # four times as many as are asked for
    seen = {gaps[place] for seed in range(50) for place in choose(many, "margin", 80, seed=seed)}
    assert seen == set(range(100))  # and no more than a quarter
    assert sorted(gaps[place] for place in choose(many, "margin", 200, seed=0)) == list(range(200))


def test_equal_worth_is_drawn_by_chance():
    same = pool(*(0.0,) * 100)
    first = [choose(same, "margin", 5, seed=seed) for seed in range(40)]
    assert {place for places in first for place in places} > set(range(0, 100, 10))


def test_random_draws_evenly_and_needs_no_scores():
    unscored = Pool(counts=(1,) * 20, scores=None)
    counted = [0] * 20
    for seed in range(2000):
        for place in choose(unscored, "random", 5, seed=seed):
            counted[place] += 1
    # Binomial(2000, 1/4): standard deviation 19.4.
    assert all(abs(count - 500) < 100 for count in counted)


def test_a_budget_of_the_whole_pool_takes_it():
    assert choose(pool(1.0, 2.0, 3.0), "margin", 3, seed=0) == [0, 1, 2]
    assert choose(pool(1.0, 2.0, 3.0), "random", 99, seed=0) == [0, 1, 2]


@pytest.mark.parametrize(
    ("made", "query", "count", "words"),
    [
        (pool(1.0, 2.0), "random", 0, "count = 0; must be a number in [1"),
        (pool(1.0, 2.0), "margins", 1, "query = 'margins'; must be one of random, margin, ensemble. Did you mean 'margin'?"),
        (pool(1.0, 2.0), "ensemble", 1, "the scorer has 0. Type scorer=ensemble scorer.path=RUN"),
        (voted((1.0, 2.0)), "ensemble", 1, "the scorer has 1."),
        (pool(1.0, math.nan), "margin", 1, "the scorer says nan of an answer"),
        (voted((1.0, 2.0), (math.inf, 1.0)), "ensemble", 1, "the scorer says inf of an answer"),
        (Pool(counts=(2, 1), scores=Scores(total=torch.zeros(3))), "margin", 1, "prompt 1 of the pool has one answer"),
    ],
)
def test_what_cannot_be_chosen_is_refused_in_one_message(made: Pool, query: str, count: int, words: str):
    with pytest.raises(UserError) as refused:
        choose(made, query, count, seed=0)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
