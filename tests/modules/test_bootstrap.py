"""A bootstrap is one draw of the examples for each member, whatever the step is cut into; held-out losses know nothing of it."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from alignkit.batches import StepBatch
from alignkit.data.collate import collate
from alignkit.data.steps import count_by_source
from alignkit.errors import UserError
from alignkit.loss_settings import LossSettings
from alignkit.losses.bradley_terry import BradleyTerry
from alignkit.modules.bootstrap import bootstrap_weights
from alignkit.modules.term import Place
from alignkit.modules.term_kinds import build_term
from alignkit.objectives import build_objective, formula

HEAD = {"name": "reward", "pooler": "identity", "dropout": 0.0, "init_std": None}
KEYS = range(20_000)


def ensemble(**changes: object) -> LossSettings:
    options = {"members": 3, "bootstrap": 5, "use_margin": False, "centering": 0.0, "head": HEAD, **changes}
    return LossSettings(name="reward_ensemble", module="alignment", monitor="val/rewards/accuracies", options=options)


def test_weights_are_poisson_with_mean_1():
    counts = Counter(bootstrap_weights(KEYS, seed=0, member="member_1"))
    for weight in range(6):
        chance = math.exp(-1) / math.factorial(weight)
        assert abs(counts[weight] / len(KEYS) - chance) < 4 * math.sqrt(chance / len(KEYS)), weight
    assert sum(weight * count for weight, count in counts.items()) / len(KEYS) == pytest.approx(1.0, abs=0.03)


def test_members_and_seeds_draw_for_themselves():
    draws = [
        torch.tensor(bootstrap_weights(KEYS, seed=seed, member=member), dtype=torch.float64)
        for seed, member in ((0, "member_1"), (0, "member_2"), (1, "member_1"))
    ]
    correlations = torch.corrcoef(torch.stack(draws))
    assert (correlations - torch.eye(3)).abs().max() < 4 / math.sqrt(len(KEYS))


def test_a_weight_is_that_of_its_example_alone():
    assert bootstrap_weights([9, 4], seed=0, member="a") == [
        bootstrap_weights([9], seed=0, member="a")[0],
        bootstrap_weights(range(5), seed=0, member="a")[4],
    ]


def test_the_gradient_is_that_of_the_resampled_pairs_however_the_step_is_cut(lm_factory, examples_factory, module_factory):
    examples = examples_factory(8, seed=3)
    weights = bootstrap_weights([example.key for example in examples], seed=1, member="member")
    assert set(weights) > {0, 1}
    copies = [example for example, weight in zip(examples, weights, strict=True) for _ in range(weight)]

    def gradients(place: Place, cut: list[list], counted: list) -> dict[str, torch.Tensor]:
        loss = BradleyTerry(use_margin=False, centering=0.0)
        module = module_factory([build_term(loss, place)], lm_factory("llama", dtype=torch.float64))
        step = StepBatch(
            micro_batches=[collate([part], "packed") for part in cut],
            global_counts=count_by_source(counted),
            mismatched=[],
            tokens=0,
            filled=0,
        )
        for batch in step.micro_batches:
            module.objective.loss(module.evaluate(batch), step).backward()
        return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}

    plain = gradients(Place(name="plain", head="dph"), [copies], examples)  # the mean over as many as there were before the draw
    place = Place(name="member", head="dph", bootstrap=1)
    for cut in ([examples], [examples[5:], examples[:2], examples[2:5]]):
        drawn = gradients(place, cut, examples)
        assert drawn.keys() == plain.keys()
        for name, gradient in drawn.items():
            torch.testing.assert_close(gradient, plain[name], rtol=1e-9, atol=1e-12)


def test_held_out_losses_are_those_of_all_examples(lm_factory, examples_factory, module_factory):
    loss = BradleyTerry(use_margin=False, centering=0.0)
    terms = [build_term(loss, Place(name=name, head="dph", bootstrap=seed)) for name, seed in (("whole", None), ("member", 1))]
    module = module_factory(terms, lm_factory("llama"))
    batch = collate([examples_factory(8, seed=3)], "packed")
    with torch.no_grad():
        metrics = module.evaluate(batch).metrics
    assert torch.equal(metrics["loss/member"], metrics["loss/whole"])
    assert not torch.equal((trained := module.evaluate(batch).metrics)["loss/member"], trained["loss/whole"])


def test_an_ensemble_is_a_head_on_all_pairs_and_members_on_bootstraps():
    objective, heads = build_objective(ensemble(), ())
    assert list(heads) == ["reward", "reward_1", "reward_2", "reward_3"]
    assert [(term.place.name, term.place.head, term.place.bootstrap) for term in objective.terms] == [
        ("whole", "reward", None),
        *((f"member_{number}", f"reward_{number}", 5) for number in (1, 2, 3)),
    ]
    assert [term.place.weight for term in objective.terms] == [0.25] * 4
    assert {name for name in objective.metric_names if "accuracies" in name} == {
        "rewards/accuracies",
        *(f"member_{number}/rewards/accuracies" for number in (1, 2, 3)),
    }
    assert formula("reward_ensemble", objective).count("L = -log sigmoid") == 1


def test_an_ensemble_without_a_bootstrap_differs_by_its_weights_alone():
    objective, _ = build_objective(ensemble(bootstrap=None), ())
    assert {term.place.bootstrap for term in objective.terms} == {None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"members": 1}, "loss.members = 1; must be a number in [2"),
        ({"members": 2.5}, "loss.members = 2.5; must be a whole number"),
        ({"bootstrap": "yes"}, "loss.bootstrap = 'yes'; must be a whole number or null"),
        ({"centering": -1.0}, "loss.centering = -1.0"),
        ({"head": {**HEAD, "pooler": "none"}}, "loss.head.pooler = 'none'"),
    ],
)
def test_an_ensemble_that_cannot_be_is_refused(changes: dict, words: str):
    with pytest.raises(UserError) as refused:
        build_objective(ensemble(**changes), ())
    assert words in str(refused.value)


def test_a_part_of_a_sum_may_have_a_bootstrap_unless_it_counts_something_else():
    def of(**part: object) -> LossSettings:
        return LossSettings(name="composite", module="alignment", monitor="val/loss", options={"parts": {"one": part}})

    objective, _ = build_objective(of(loss="simpo", beta=2.0, gamma_beta_ratio=0.5, bootstrap=3), ())
    assert objective.terms[0].place.bootstrap == 3
    with pytest.raises(UserError, match=r"loss\.parts\.one\.bootstrap: sft counts chosen_tokens, and a bootstrap draws examples"):
        build_objective(of(loss="sft", bootstrap=3), ())
