"""How each family of losses reads a batch: cuts change nothing, levels are the whole step's, sums are sums."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from alignkit.batches import PackedBatch, StepBatch
from alignkit.data.collate import collate, empty_batch, micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.data.steps import count_by_source, mismatch
from alignkit.losses.aot import AOT
from alignkit.losses.bco import BCO
from alignkit.losses.contrastive import Contrastive
from alignkit.losses.dpo import DPO
from alignkit.losses.families import Loss
from alignkit.losses.forward_kl import ForwardKL
from alignkit.losses.kto import KTO
from alignkit.losses.l2_rewards import L2Rewards
from alignkit.losses.plackett_luce import PlackettLuce
from alignkit.losses.plackett_luce_dpo import PlackettLuceDPO
from alignkit.losses.re_po import RePO
from alignkit.losses.regression import Regression
from alignkit.losses.sft import SFT
from alignkit.losses.simpo import SimPO
from alignkit.models.reference import backbone_logps
from alignkit.modules.alignment import AlignmentModule
from alignkit.modules.term import Place, Term
from alignkit.modules.term_kinds import build_term

WIDE = Packing(layout="packed", tokens=100_000)
LOSSES: dict[str, tuple[Loss, int]] = {
    "simpo": (SimPO(beta=2.0, gamma_beta_ratio=0.5), 2),
    "re_po": (RePO(beta=0.5, start=0.9, decay=0.5), 2),
    "kto": (KTO(beta=0.5, desirable_weight=1.0, undesirable_weight=1.2), 2),
    "bco": (BCO(beta=0.5, decay=0.5), 2),
    "aot": (AOT(beta=0.5, epsilon=0.1), 2),
    "plackett_luce": (PlackettLuce(), 3),
    "plackett_luce_dpo": (PlackettLuceDPO(beta=0.5), 3),
    "regression": (Regression(), 3),
    "l2_rewards": (L2Rewards(), 2),
    "contrastive": (Contrastive(temperature=0.5), 3),
    "forward_kl": (ForwardKL(), 2),
}
"""A loss of each family that `test_alignment.py` does not train, and the completions of an example."""
HEADS = ("plackett_luce", "regression", "l2_rewards")


def term(name: str, loss: Loss | None = None, **place: object) -> Term:
    return build_term(loss or LOSSES[name][0], Place(name=name, head="dph" if name in HEADS else None, **place))  # type: ignore[arg-type]


def disturbed(module: AlignmentModule, size: float = 0.05) -> AlignmentModule:
    """Away from the reference, so that no log-ratio is 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.backbone.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=size)
    return module


def rated(examples: Sequence[EncodedExample]) -> list[EncodedExample]:
    """With a rating a completion, of which one is missing."""
    scores = [tuple(0.1 * (place + example.key) for place in range(len(example.completion_ids))) for example in examples]
    scores[0] = (math.nan, *scores[0][1:])
    return [dataclasses.replace(example, ratings={"overall": score}) for example, score in zip(examples, scores, strict=True)]


def mismatched(examples: Sequence[EncodedExample]) -> list[EncodedExample]:
    others = [*examples[1:], examples[0]]
    return [mismatch(one, other, key=-1 - n, longest=1000) for n, (one, other) in enumerate(zip(examples, others, strict=True))]


def step_of(batches: list[PackedBatch], examples: Sequence[EncodedExample]) -> StepBatch:
    extra = [collate([[example]], "packed") for example in mismatched(examples)]
    return StepBatch(micro_batches=batches, global_counts=count_by_source(examples), mismatched=extra, tokens=0, filled=0)


def loss_and_gradients(module: AlignmentModule, step: StepBatch) -> tuple[Tensor, dict[str, Tensor]]:
    module.zero_grad()
    module.objective.before_step(step, module.forward_of)
    total = torch.zeros((), dtype=torch.float64)
    for batch in step.micro_batches:
        loss = module.objective.loss(module.evaluate(batch), step)
        loss.backward()
        total += loss.detach()
    return total, {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_gives_one_loss_and_gradient_however_it_is_cut(name, lm_factory, examples_factory, module_factory):
    place = {"attribute": "overall"} if name == "regression" else {}
    module = disturbed(module_factory([term(name, **place)], lm_factory("llama", dtype=torch.float64)))
    examples = rated(examples_factory(6, completions=LOSSES[name][1], seed=3))
    whole, gradients = loss_and_gradients(module, step_of([collate([examples], "packed")], examples))
    assert gradients
    for cut in ([examples[:1], examples[1:3], examples[3:]], [examples[4:], examples[:4]]):
        batches = [*(collate([part], "packed") for part in cut), empty_batch(WIDE)]  # as a rank that has fewer than another one
        loss, others = loss_and_gradients(module, step_of(batches, examples))
        assert abs(loss - whole) < 1e-9
        assert others.keys() == gradients.keys()
        for parameter, gradient in gradients.items():
            assert (gradient - others[parameter]).abs().max() < 1e-9 * max(1.0, float(gradient.abs().max())), parameter


def ratios(module: AlignmentModule, examples: Sequence[EncodedExample]) -> Tensor:
    """Log-ratio of each completion, from plain sequences of both models."""
    values = []
    for example in examples:
        for completion in example.completion_ids:
            ids = torch.tensor([[*example.prompt_ids, *completion]])
            both = []
            for lm in (module.backbone.lm, module.reference.backbone.lm):
                logps = lm(ids).logits[0].log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
                both.append(logps[len(example.prompt_ids) - 1 :].sum())
            values.append(both[0] - both[1])
    return torch.stack(values)


@torch.no_grad()
def test_the_level_of_kto_is_the_mean_log_ratio_of_mismatched_completions(lm_factory, examples_factory, module_factory):
    loss = KTO(beta=0.5, desirable_weight=1.0, undesirable_weight=1.0)
    module = disturbed(module_factory([term("kto", loss)], lm_factory("llama", dtype=torch.float64)))
    examples = examples_factory(5)
    step = step_of(micro_batches(examples, WIDE), examples)
    for direction in (1.0, -1.0):
        with torch.no_grad():
            for parameter, kept in zip(module.backbone.parameters(), module.reference.backbone.parameters(), strict=True):
                parameter.copy_(kept + direction * (parameter - kept))
        module.objective.before_step(step, module.forward_of)
        level = max(0.0, ratios(module, mismatched(examples)).mean().item())
        own = ratios(module, examples).view(-1, 2)
        expected = torch.stack([1 - torch.sigmoid(0.5 * (own[:, 0] - level)), 1 - torch.sigmoid(0.5 * (level - own[:, 1]))], dim=1)
        evaluation = module.evaluate(collate([examples], "packed"))
        assert torch.allclose(evaluation.outputs["kto"].losses, expected.flatten(), atol=1e-9)


def test_data_of_one_class_have_a_finite_loss_and_no_margin(lm_factory, examples_factory, module_factory):
    module = disturbed(module_factory([term("kto")], lm_factory("llama")))
    examples = [dataclasses.replace(example, desirable=(False,)) for example in examples_factory(3, completions=1)]
    loss, gradients = loss_and_gradients(module, step_of([collate([examples], "packed")], examples))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    metrics = module.evaluate(collate([examples], "packed")).metrics
    assert [len(metrics[name]) for name in ("rewards/chosen", "rewards/rejected", "rewards/accuracies")] == [0, 3, 0]


def test_labels_of_one_prompt_are_compared_as_pairs(lm_factory, examples_factory, module_factory):
    module = disturbed(module_factory([term("bco")], lm_factory("llama", dtype=torch.float64)))
    (example,) = examples_factory(1, completions=3)
    example = dataclasses.replace(example, desirable=(False, True, False))
    metrics = module.evaluate(collate([[example]], "packed")).metrics
    first, second, third = (0.5 * ratios(module, [example])).tolist()
    assert metrics["rewards/margins"].tolist() == pytest.approx([second - first, second - third], abs=1e-9)


def test_the_shift_of_bco_is_the_midpoint_of_the_classes_of_earlier_steps(lm_factory, examples_factory, module_factory):
    module = disturbed(module_factory([term("bco", BCO(beta=0.5, decay=0.25))], lm_factory("llama", dtype=torch.float64)))
    examples = [dataclasses.replace(example, desirable=(example.key != 0,)) for example in examples_factory(4, completions=1)]
    rewards = 0.5 * ratios(module, examples)
    good, bad = rewards[1:].mean().item(), rewards[0].item()
    (only,) = module.objective.terms
    expected = 0.0
    for _ in range(3):
        assert only.level(rewards).item() == pytest.approx(expected, abs=1e-9)
        loss_and_gradients(module, step_of([collate([[example]], "packed") for example in examples], examples))
        module.objective.after_step()
        expected = 0.25 * expected + 0.75 * (good + bad) / 2
    # one class alone moves its own mean only
    loss_and_gradients(module, step_of([collate([examples[1:]], "packed")], examples[1:]))
    state = module.objective.state()
    assert set(state) == {"bco"}
    again = module_factory([term("bco", BCO(beta=0.5, decay=0.25))], lm_factory("llama", dtype=torch.float64))
    again.objective.load_state(state)
    assert again.objective.terms[0].level(rewards).item() == pytest.approx(expected, abs=1e-9)


def test_validation_does_not_move_a_level(lm_factory, examples_factory, module_factory):
    module = disturbed(module_factory([term("re_po")], lm_factory("llama")))
    with torch.no_grad():
        module.evaluate(collate([examples_factory(4)], "packed"))
    module.objective.after_step()
    assert module.objective.state() == {"re_po": {"level": pytest.approx(0.9)}}


def test_aot_is_the_loss_of_sorted_log_ratios(lm_factory, examples_factory, module_factory):
    module = disturbed(module_factory([term("aot", AOT(beta=0.5, epsilon=0.0))], lm_factory("llama", dtype=torch.float64)))
    examples = examples_factory(6)
    loss, gradients = loss_and_gradients(module, step_of([collate([examples[:2]], "packed"), collate([examples[2:]], "packed")], examples))
    module.zero_grad()
    chosen, rejected = ratios(module, examples).view(-1, 2).unbind(1)
    assert chosen.argsort().tolist() != rejected.argsort().tolist()
    direct = -torch.nn.functional.logsigmoid(0.5 * (chosen.sort().values - rejected.sort().values)).mean()
    direct.backward()
    assert loss.item() == pytest.approx(direct.item(), abs=1e-9)
    for name, parameter in module.backbone.named_parameters():
        assert (gradients[f"backbone.{name}"] - parameter.grad).abs().max() < 1e-6, name


def test_a_ranking_is_right_pair_by_pair(lm_factory, examples_factory, module_factory):
    module = module_factory([term("plackett_luce")], lm_factory("llama", dtype=torch.float64))
    (example,) = examples_factory(1, completions=4)
    example = dataclasses.replace(example, ranks=(0, 1, 1, 2))
    forward = module.forward_of(collate([[example]], "packed"))
    s = forward.scores("dph").tolist()
    metrics = module.objective(forward).metrics
    pairs = [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]  # the tie is no pair
    assert metrics["rewards/accuracies"].mean().item() == pytest.approx(sum(s[a] > s[b] for a, b in pairs) / 5)
    assert metrics["rewards/margins"].mean().item() == pytest.approx(sum(s[a] - s[b] for a, b in pairs) / 5)
    assert (metrics["rewards/chosen"].item(), metrics["rewards/rejected"].item()) == (s[0], s[3])


def test_a_sum_of_terms_is_the_sum_of_their_losses_each_with_its_own_mean(lm_factory, examples_factory, module_factory):
    # Facts 4.7 (a): DPO + 0.005 * the mean over the chosen tokens of the batch; not the mean of the completions' means.
    terms = [term("dpo", DPO(beta=0.1)), term("nll", SFT(), weight=0.005)]
    module = disturbed(module_factory(terms, lm_factory("llama", dtype=torch.float64)), size=0.01)
    examples = examples_factory(4)
    loss, _ = loss_and_gradients(module, step_of([collate([examples[:1]], "packed"), collate([examples[1:]], "packed")], examples))
    log_ratios = ratios(module, examples).view(-1, 2)
    dpo = -torch.nn.functional.logsigmoid(0.1 * (log_ratios[:, 0] - log_ratios[:, 1])).mean()
    batch = collate([[dataclasses.replace(example, completion_ids=example.completion_ids[:1]) for example in examples]], "packed")
    nll = -backbone_logps(module.backbone, batch).mean()
    assert loss.item() == pytest.approx((dpo + 0.005 * nll).item(), abs=1e-9)


def test_a_term_of_one_data_set_reads_no_other(lm_factory, examples_factory, module_factory):
    examples = [dataclasses.replace(example, source="ab"[example.key % 2]) for example in examples_factory(5)]
    of_a = [example for example in examples if example.source == "a"]
    lm = lm_factory("llama", dtype=torch.float64)
    terms = [term("helpful", DPO(beta=0.1), source="a", weight=2.0), term("harmless", DPO(beta=0.5), source="b", weight=3.0)]
    module = disturbed(module_factory(terms, lm))
    loss, _ = loss_and_gradients(module, step_of([collate([examples[:2]], "packed"), collate([examples[2:]], "packed")], examples))
    h = (ratios(module, examples).view(-1, 2) @ torch.tensor([1.0, -1.0], dtype=torch.float64)).detach()
    a, b = h[[0, 2, 4]], h[[1, 3]]
    expected = 2 * -torch.nn.functional.logsigmoid(0.1 * a).mean() + 3 * -torch.nn.functional.logsigmoid(0.5 * b).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    # a step without one of them trains the other
    alone, _ = loss_and_gradients(module, step_of([collate([of_a], "packed")], of_a))
    assert alone.item() == pytest.approx(2 * -torch.nn.functional.logsigmoid(0.1 * a).mean().item(), abs=1e-9)
    assert set(module.objective.metric_names) >= {"loss/helpful", "loss/harmless", "rewards/margins", "harmless/rewards/margins"}


def test_the_mean_of_a_sum_is_the_weighted_sum_of_what_its_terms_have_seen(lm_factory, module_factory):
    terms = [term("a", DPO(beta=0.1), weight=2.0), term("b", SFT(), weight=0.5)]
    objective = module_factory(terms, lm_factory("llama")).objective
    assert objective.with_total({"loss/a": 3.0, "loss/b": 4.0, "rewards/margins": 1.0})["loss"] == 8.0
    assert objective.with_total({"loss/a": 3.0})["loss"] == 6.0


def test_a_divergence_is_0_at_the_reference_and_grows_with_the_distance(lm_factory, examples_factory, module_factory):
    module = module_factory([term("forward_kl")], lm_factory("llama", dtype=torch.float64))
    batch = collate([examples_factory(3)], "packed")
    assert module.evaluate(batch).outputs["forward_kl"].losses.abs().max() < 1e-12
    small = disturbed(module, 0.01).evaluate(batch).outputs["forward_kl"].losses
    assert small.shape == (6,)
    assert (small > 0).all()
    assert (disturbed(module, 0.05).evaluate(batch).outputs["forward_kl"].losses > small).all()


def test_what_a_later_term_would_say_again_is_logged_once_and_what_differs_under_its_name(lm_factory, module_factory):
    terms = [term("dpo", DPO(beta=0.1)), term("simpo"), term("plackett_luce"), term("l2_rewards"), term("nll", SFT(), weight=0.1)]
    names = module_factory(terms, lm_factory("llama")).objective.metric_names
    assert len(names) == len(set(names))
    assert {"rewards/margins", "implicit_rewards/margins", "simpo/implicit_rewards/margins", "logps/chosen"} <= set(names)
    assert {"loss/l2_rewards", "loss/nll"} <= set(names)
    assert not {"simpo/logps/chosen", "l2_rewards/rewards/margins"} & set(names)


def test_scores_that_learn_ratings_are_compared_within_their_prompts(lm_factory, examples_factory, module_factory):
    module = module_factory([term("regression", attribute="overall")], lm_factory("llama", dtype=torch.float64))
    first, second = examples_factory(2, completions=3)
    examples = [
        dataclasses.replace(first, ratings={"overall": (1.0, 3.0, 3.0)}),
        dataclasses.replace(second, ratings={"overall": (math.nan, 2.0, 5.0)}),
    ]
    forward = module.forward_of(collate([examples], "packed"))
    s = forward.scores("dph").tolist()
    metrics = module.objective(forward).metrics
    assert metrics["rewards/margins"].tolist() == pytest.approx([s[1] - s[0], s[2] - s[0], s[5] - s[4]])
    assert metrics["ratings/error"].tolist() == pytest.approx([abs(a - b) for a, b in zip(s[:3] + s[4:], (1, 3, 3, 2, 5), strict=True)])
    assert metrics["loss"].tolist() == pytest.approx([(a - b) ** 2 for a, b in zip(s[:3] + s[4:], (1, 3, 3, 2, 5), strict=True)])
