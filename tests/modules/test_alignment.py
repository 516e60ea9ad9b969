"""What every objective shares: cuts change nothing, step 0 is known, a frozen trunk is frozen, and what is logged is true."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from alignkit.batches import PackedBatch, StepBatch
from alignkit.callbacks.metrics_log import MetricsLog
from alignkit.data.collate import collate, micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.data.steps import count_by_source
from alignkit.errors import DivergedError, UserError
from alignkit.metrics import GRADIENT_NORM, LEARNING_RATE, LOSS, PADDING_FRACTION, TOKENS_PER_SECOND
from alignkit.models.reference import LiveReference, MovingReference, fingerprint, frozen_copy
from alignkit.modules.alignment import AlignmentModule
from alignkit.modules.term import TermOutput
from alignkit.optimizer_settings import LaPropSettings, RMSpropSettings, ScheduleSettings
from alignkit.run_dir import RunDir, read_jsonl


def disturb(module: AlignmentModule) -> AlignmentModule:
    """Move the policy away from its reference, so that no log-ratio is 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.backbone.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=0.05)
    return module


def step_of(batches: Sequence[PackedBatch], examples: Sequence[EncodedExample]) -> StepBatch:
    return StepBatch(micro_batches=list(batches), global_counts=count_by_source(examples), tokens=0, filled=0, mismatched=[])


def loss_and_gradients(module: AlignmentModule, step: StepBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """What `training_step` computes of a step: the mean over the global batch, forward and backward per micro-batch."""
    module.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for batch in step.micro_batches:
        loss = module.objective.loss(module.evaluate(batch), step)
        loss.backward()
        total += loss.detach()
    return total, {name: parameter.grad.clone() for name, parameter in module.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("architecture_name", ["gpt2", "llama"])
def test_eight_examples_give_one_loss_and_gradient_however_they_are_cut_and_packed(
    architecture_name, objective, lm_factory, examples_factory, module_factory
):
    module = disturb(module_factory(objective, lm_factory(architecture_name, dtype=torch.float64)))
    examples = examples_factory(8, completions=module.objective.form().completions, seed=3)
    lengths = [len(ids) for example in examples for ids in example.completion_ids]
    assert len(set(lengths)) > 3
    shuffled = [examples[n] for n in (5, 2, 7, 0, 3, 6, 1, 4)]
    cuts = {
        "four micro-batches": [collate([examples[n : n + 2]], "packed") for n in (0, 2, 4, 6)],
        "one row": [collate([shuffled], "packed")],
        "three uneven rows": [collate([shuffled[:1], shuffled[1:6], shuffled[6:]], "packed")],
        "packed by length": micro_batches(shuffled, Packing(layout="packed", tokens=60, row_tokens=40)),
        "rows": micro_batches(examples, Packing(layout="rows", tokens=10_000, row_tokens=10_000)),
        "rows in small micro-batches": micro_batches(shuffled, Packing(layout="rows", tokens=50, row_tokens=10)),
    }
    for seed in range(3):
        cuts[f"random {seed}"] = random_cut(examples, seed)
    assert len(cuts["packed by length"]) > 2
    assert len(cuts["rows in small micro-batches"]) > 2
    loss, gradients = loss_and_gradients(module, step_of([collate([[example] for example in examples], "packed")], examples))
    assert gradients.keys() == {
        name for name, parameter in module.named_parameters() if parameter.requires_grad and trained(objective, name)
    }
    for cut, batches in cuts.items():
        other, others = loss_and_gradients(module, step_of(batches, examples))
        assert abs(loss - other) < 1e-6, cut
        assert others.keys() == gradients.keys(), cut
        for name, gradient in gradients.items():
            assert (gradient - others[name]).abs().max() < 1e-6 * max(1.0, float(gradient.abs().max())), (cut, name)


def random_cut(examples: Sequence[EncodedExample], seed: int) -> list[PackedBatch]:
    """The examples in a random order, cut into rows and the rows into micro-batches at random places."""
    generator = torch.Generator().manual_seed(seed)
    rows: list[list[EncodedExample]] = []
    for n in torch.randperm(len(examples), generator=generator).tolist():
        if not rows or torch.rand((), generator=generator) < 0.5:
            rows.append([])
        rows[-1].append(examples[n])
    middle = len(rows) // 2
    return [collate(part, "packed") for part in (rows[:middle], rows[middle:]) if part]


def trained(objective: str, name: str) -> bool:
    """Heads alone do not reach the output embedding."""
    reaches_vocabulary = objective not in ("bradley_terry", "con_dph", "sep_dph")
    return reaches_vocabulary or not name.startswith("backbone.lm.lm_head")


def test_the_loss_of_sft_is_the_mean_over_tokens_and_not_over_completions(lm_factory, module_factory):
    module = module_factory("sft", lm_factory("gpt2", dtype=torch.float64))
    examples = [EncodedExample(key=n, prompt_ids=(3,), completion_ids=(ids,)) for n, ids in enumerate([(4, 2), (5, 6, 7, 8, 9, 2)])]
    loss, _ = loss_and_gradients(module, step_of(micro_batches(examples, Packing(layout="packed", tokens=8, row_tokens=8)), examples))
    sums = []
    for example in examples:
        ids = torch.tensor([[*example.prompt_ids, *example.completion_ids[0]]])
        logps = module.backbone.lm(ids).logits[0].log_softmax(-1)
        sums.append(-logps[:-1].gather(1, ids[0, 1:, None]).sum())
    assert loss.item() == pytest.approx(((sums[0] + sums[1]) / 8).item(), abs=1e-9)
    assert abs(loss.item() - ((sums[0] / 2 + sums[1] / 6) / 2).item()) > 1e-3


@pytest.mark.parametrize("layout", ["packed", "rows"])
@pytest.mark.parametrize(
    ("objective_name", "expected"),
    # ln 2 at a margin of 0 whatever epsilon is, and 1 / (4 beta^2) = 1 / (4 * .01)
    [("dpo", 0.6931471806), ("cdpo", 0.6931471806), ("ipo", 25.0), ("ipo_avg", 25.0)],
)
def test_at_step_0_the_loss_is_its_closed_form_and_every_implicit_reward_is_0(
    layout, objective_name, expected, architecture, lm_factory, examples_factory, module_factory
):
    # OPT asks for dropout 0.1, by a function call
    module = module_factory(objective_name, lm_factory(architecture)).train()
    objective = module.evaluate(collate([examples_factory(4), examples_factory(2)], layout))
    assert objective.outputs[objective_name].losses.tolist() == pytest.approx([expected] * 6, abs=1e-6)
    assert module.objective.values_at_reference() == {objective_name: pytest.approx(expected, abs=1e-9)}
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
        assert torch.equal(objective.metrics[name], torch.zeros(6))
    assert torch.equal(objective.metrics["rewards/accuracies"], torch.full((6,), 0.5))


def test_the_implicit_rewards_of_a_joint_term_start_at_0_too(architecture, lm_factory, examples_factory, module_factory):
    module = module_factory("joint_con_dph", lm_factory(architecture)).train()
    metrics = module.evaluate(collate([examples_factory(4)], "packed")).metrics
    assert metrics["loss/dpo"].tolist() == pytest.approx([math.log(2)] * 4, abs=1e-6)
    assert torch.equal(metrics["implicit_rewards/margins"], torch.zeros(4))


@pytest.mark.parametrize("objective_name", ["bradley_terry", "con_dph", "sep_dph"])
def test_with_a_frozen_trunk_the_logits_are_the_same_to_the_bit(
    objective_name, architecture, lm_factory, examples_factory, module_factory, fit
):
    module = module_factory(objective_name, lm_factory(architecture), frozen_trunk=True)
    ids = torch.arange(3, 33).view(1, 30)
    logits, trunk, heads = module.backbone.lm(ids).logits, fingerprint(module.backbone), fingerprint(module.heads)
    fit(module, examples_factory(12), validation=examples_factory(3, seed=1), validate_every=2)
    assert torch.equal(module.backbone.lm(ids).logits, logits)
    assert fingerprint(module.backbone) == trunk
    assert fingerprint(module.heads) != heads


def test_without_freezing_the_logits_move(objective, lm_factory, examples_factory, module_factory, fit):
    module = module_factory(objective, lm_factory("llama"))
    ids = torch.arange(3, 33).view(1, 30)
    logits = module.backbone.lm(ids).logits
    fit(module, examples_factory(12, completions=module.objective.form().completions))
    assert not torch.equal(module.backbone.lm(ids).logits, logits)


def test_training_lowers_the_loss(losses_of, objective, lm_factory, examples_factory, module_factory, fit):
    module = module_factory(objective, lm_factory("llama"), steps=8)
    examples = examples_factory(4, completions=module.objective.form().completions)
    batch = collate([examples], "packed")
    before = losses_of(module, batch).mean().item()
    fit(module, examples)
    assert losses_of(module, batch).mean().item() < before


def test_the_trunk_stays_in_evaluation_mode_through_training_and_validation(lm_factory, examples_factory, module_factory, fit):
    modes = []

    module = module_factory("joint_con_dph", lm_factory("opt", dropout=0.5), dropout=0.1)
    original = module.evaluate

    def spy(batch: PackedBatch):
        modes.append((module.training, module.heads.training, module.backbone.lm.training, module.reference.backbone.lm.training))
        return original(batch)

    module.evaluate = spy
    fit(module, examples_factory(8), validation=examples_factory(2), validate_every=2)
    # heads alone change their mode: training, two steps; validation; ...
    assert modes == [(True, True, False, False)] * 2 + [(False, False, False, False)] + modes[3:]
    assert modes[3:] == modes[:3]


def test_steps_cut_into_small_micro_batches_train_the_same_weights(lm_factory, examples_factory, module_factory, fit, adamw):
    trained = []
    for layout, tokens in [("packed", 1000), ("packed", 40), ("rows", 60)]:
        module = module_factory("joint_sep_dph", lm_factory("gpt2", dtype=torch.float64), optimizer=dataclasses.replace(adamw, lr=1e-3))
        fit(module, examples_factory(10), layout=layout, tokens=tokens)
        trained.append({name: parameter.detach() for name, parameter in module.named_parameters()})
    for other in trained[1:]:
        for name, parameter in trained[0].items():
            assert (parameter - other[name]).abs().max() < 1e-6, name


@pytest.mark.parametrize("name", ["laprop", "rmsprop"])
def test_the_other_optimizers_train_inside_lightning_too(name, lm_factory, examples_factory, module_factory, fit, adamw):
    shared = {key: value for key, value in dataclasses.asdict(adamw).items() if key not in ("beta1", "beta2")} | {"lr": 1e-3, "name": name}
    settings = LaPropSettings(**shared, beta1=0.9, beta2=0.95) if name == "laprop" else RMSpropSettings(**shared, alpha=0.99)
    module = module_factory("dpo", lm_factory("llama"), optimizer=settings)
    before = fingerprint(module.backbone)
    fit(module, examples_factory(8))
    assert fingerprint(module.backbone) != before


@pytest.mark.parametrize("culprit", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_training_before_it_reaches_the_weights(
    culprit, lm_factory, examples_factory, module_factory, fit, monkeypatch
):
    module = module_factory("dpo", lm_factory("llama"))
    original, weights = module.evaluate, []

    def poisoned(batch: PackedBatch):
        evaluation = original(batch)
        if module.steps_done < 2:
            return evaluation
        weights.append(fingerprint(module.backbone))
        losses = evaluation.outputs["dpo"].losses
        if culprit == "loss":
            return dataclasses.replace(evaluation, outputs={"dpo": TermOutput(losses=losses * torch.tensor(math.nan))})
        losses.register_hook(lambda gradient: gradient * math.inf)
        return evaluation

    module.evaluate = poisoned
    with pytest.raises(DivergedError, match=r"step 3: .* The weights are those of step 2. Try a smaller learning rate: optimizer.lr=0.001"):
        fit(module, examples_factory(8))
    assert module.steps_done == 2
    assert fingerprint(module.backbone) == weights[0]
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def gradient_norm(module: AlignmentModule) -> float:
    return math.sqrt(sum(float(p.grad.square().sum()) for p in module.parameters() if p.grad is not None))


@pytest.mark.parametrize(("clip_norm", "after"), [(0.25, 0.25), (0.0, None), (1e9, None)])
def test_clipping_bounds_the_global_norm_and_0_leaves_it_alone(clip_norm, after, lm_factory, examples_factory, module_factory, adamw):
    module = module_factory("joint_con_dph", lm_factory("llama"), optimizer=dataclasses.replace(adamw, clip_norm=clip_norm))
    examples = examples_factory(4)
    loss_and_gradients(module, step_of([collate([examples], "packed")], examples))
    before = gradient_norm(module)
    assert before > 1
    assert module.clip_gradients_by_norm() == pytest.approx(before, rel=1e-5)
    assert gradient_norm(module) == pytest.approx(before if after is None else after, rel=1e-4)


def rows_of(module: AlignmentModule, examples: Sequence[EncodedExample], fit, folder, **changes) -> list[dict[str, object]]:
    """The rows of metrics.jsonl of a training."""
    run = RunDir.create(folder)
    fit(module, examples, logger=MetricsLog(run, steps_per_epoch=2), **changes)
    return list(read_jsonl(run.metrics))


def test_training_rows_come_every_so_many_steps_and_after_the_last(lm_factory, examples_factory, module_factory, fit, tmp_path):
    module = module_factory("dpo", lm_factory("llama"), steps=5, log_every=2)
    rows = rows_of(module, examples_factory(8), fit, tmp_path, validation=examples_factory(3, seed=1), validate_every=3)
    assert [(row["step"], row["epoch"]) for row in rows if "train/loss" in row] == [(2, 1.0), (4, 2.0), (5, 2.5)]
    assert [row["step"] for row in rows if "val/loss" in row] == [3]
    assert module.last_validated == 3
    assert (module.steps_done, module.examples_done) == (5, 20)
    assert module.tokens_done == sum(module.trainer.datamodule.steps[step].tokens for step in range(5))


def test_logged_means_are_over_all_pairs_of_the_window(lm_factory, examples_factory, module_factory, fit, tmp_path, adamw):
    # batches of 4 and 2 in two micro-batches or more each; a learning rate so small that the weights stay
    module = module_factory("bradley_terry", lm_factory("llama"), steps=2, log_every=2, optimizer=dataclasses.replace(adamw, lr=1e-12))
    examples = examples_factory(6)
    (row,) = rows_of(module, examples, fit, tmp_path, tokens=50)
    evaluation = module.evaluate(collate([examples], "packed"))
    assert row["train/loss"] == pytest.approx(evaluation.outputs["bradley_terry"].losses.mean().item(), abs=1e-5)
    assert row["train/rewards/margins"] == pytest.approx(evaluation.metrics["rewards/margins"].mean().item(), abs=1e-5)


def test_each_window_of_training_rows_begins_anew(losses_of, lm_factory, examples_factory, module_factory, fit, tmp_path, adamw):
    module = module_factory("con_dph", lm_factory("llama"), steps=4, log_every=2, optimizer=dataclasses.replace(adamw, lr=1e-12))
    examples = examples_factory(8)
    rows = rows_of(module, examples, fit, tmp_path, pairs=2)
    steps = module.trainer.datamodule.steps
    for row, window in zip(rows, [(0, 1), (2, 3)], strict=True):
        seen = [examples[n] for step in window for n in steps.global_batch(step)]
        assert row["train/loss"] == pytest.approx(losses_of(module, collate([seen], "packed")).mean().item(), abs=1e-5)
    assert abs(rows[0]["train/loss"] - rows[1]["train/loss"]) > 1e-3


@pytest.mark.parametrize("objective_name", ["sft", "joint_con_dph"])
def test_training_is_a_plain_loop_with_clipping_and_a_schedule(
    losses_of, objective_name, lm_factory, examples_factory, module_factory, fit, tmp_path
):
    module, twin = (module_factory(objective_name, lm_factory("gpt2", dtype=torch.float64), steps=5) for _ in range(2))
    schedule = ScheduleSettings(name="linear", warmup_steps=2, final_ratio=0.5)
    module.recipe = dataclasses.replace(module.recipe, schedule=schedule)
    examples = examples_factory(10, completions=module.objective.form().completions)
    rows = rows_of(module, examples, fit, tmp_path, tokens=50)
    # warm-up 1/3, 2/3, 1, then a line to 1/2 in the last step
    rates = [1e-2 * factor for factor in (1 / 3, 2 / 3, 1, 0.75, 0.5)]
    assert [row["train/learning_rate"] for row in rows] == pytest.approx(rates, abs=1e-12)
    parameters = [*twin.backbone.parameters(), *twin.heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    for step, rate in enumerate(rates):
        batch = collate([[examples[n] for n in module.trainer.datamodule.steps.global_batch(step)]], "packed")
        optimizer.zero_grad()
        losses_of(twin, batch).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    for (name, ours), theirs in zip(module.named_parameters(), twin.parameters(), strict=True):
        assert (ours - theirs).abs().max() < 1e-6, name


def test_validation_means_are_over_all_held_out_pairs(losses_of, lm_factory, examples_factory, module_factory, fit, tmp_path):
    # two validations; the weights of the second are those that the module is left with
    module = module_factory("sep_dph", lm_factory("llama"))
    held_out = examples_factory(7, seed=5)
    rows = rows_of(module, examples_factory(8), fit, tmp_path, validation=held_out, tokens=50, validate_every=2)
    assert len([row for row in rows if "val/loss" in row]) == 2
    expected = losses_of(module, collate([held_out], "packed")).mean().item()
    assert rows[-1]["val/loss"] == pytest.approx(expected, abs=1e-5)


def test_the_trainers_numbers_are_those_of_the_step(lm_factory, examples_factory, module_factory, fit, tmp_path, adamw):
    module = module_factory("dpo", lm_factory("llama"), steps=1, optimizer=dataclasses.replace(adamw, clip_norm=1e-3))
    examples = examples_factory(4)
    expected = module_factory("dpo", lm_factory("llama"))
    loss_and_gradients(expected, step_of([collate([examples], "packed")], examples))
    (row,) = rows_of(module, examples, fit, tmp_path)
    assert row["train/" + GRADIENT_NORM] == pytest.approx(gradient_norm(expected), rel=1e-4)
    assert row["train/" + LEARNING_RATE] == 1e-2
    assert row["train/" + LOSS] == pytest.approx(math.log(2), abs=1e-6)
    assert row["train/" + TOKENS_PER_SECOND] > 0


def uniform(count: int) -> list[EncodedExample]:
    """Pairs of 6 prompt tokens and completions of 2 tokens."""
    return [EncodedExample(key=n, prompt_ids=(3, 4, 5, 6, 7, 8), completion_ids=((9, 2), (10 + n, 2))) for n in range(count)]


def test_packed_rows_of_one_length_have_no_padding(lm_factory, module_factory, fit, tmp_path):
    (row,) = rows_of(module_factory("dpo", lm_factory("llama"), steps=1), uniform(4), fit, tmp_path)
    assert row["train/" + PADDING_FRACTION] == 0.0


def test_separate_rows_of_one_length_have_no_padding(lm_factory, module_factory, fit, tmp_path):
    (row,) = rows_of(module_factory("dpo", lm_factory("llama"), steps=1), uniform(4), fit, tmp_path, layout="rows")
    assert row["train/" + PADDING_FRACTION] == 0.0


def test_the_padding_fraction_counts_positions_without_a_token(lm_factory, module_factory, fit, tmp_path):
    # one micro-batch: a row of 90 tokens and one of 10 padded to 90, so 80 of 180 positions
    long = EncodedExample(key=0, prompt_ids=(3,) * 80, completion_ids=((4,) * 4 + (2,), (5,) * 4 + (2,)))
    short = EncodedExample(key=1, prompt_ids=(3,) * 6, completion_ids=((4, 2), (5, 2)))
    long_too = dataclasses.replace(short, key=2, prompt_ids=(3,) * 7)
    assert (long.packed_tokens, short.packed_tokens, long_too.packed_tokens) == (90, 10, 11)
    (row,) = rows_of(module_factory("dpo", lm_factory("llama"), steps=1), [long, long_too], fit, tmp_path)
    # 90 + 11 does not fit into a row of 100
    assert row["train/" + PADDING_FRACTION] == pytest.approx(79 / 180, abs=1e-6)


def test_backbones_and_heads_are_the_only_weights_that_are_trained(lm_factory, module_factory):
    module = module_factory("joint_con_dph", lm_factory("llama"))
    optimizer = module.configure_optimizers()["optimizer"]
    ours = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert ours == {id(parameter) for part in (module.backbone, module.heads) for parameter in part.parameters()}
    assert isinstance(module.reference, LiveReference)
    assert not ours & {id(parameter) for parameter in module.reference.parameters()}


def test_a_checkpoint_of_a_run_against_another_reference_is_refused(lm_factory, examples_factory, module_factory, fit):
    module = module_factory("dpo", lm_factory("llama"), steps=1)
    module.reference_fingerprint = "a" * 16
    trainer = fit(module, examples_factory(4))
    checkpoint = trainer._checkpoint_connector.dump_checkpoint()
    assert not any(name.startswith("reference.") for name in checkpoint["state_dict"])
    module.on_load_checkpoint(dict(checkpoint))
    module.reference_fingerprint = "b" * 16
    with pytest.raises(UserError, match=r"^reference: the run began against weights a{16}, and now there are b{16}"):
        module.on_load_checkpoint(dict(checkpoint))


def test_a_checkpoint_holds_a_reference_that_moves(lm_factory, examples_factory, module_factory, fit):
    module = module_factory("dpo", lm_factory("llama"), steps=2)
    del module.reference
    module.reference = MovingReference(frozen_copy(module.backbone), mix=0.5, every=1)
    start = fingerprint(module.reference)
    trainer = fit(module, examples_factory(4))
    moved = fingerprint(module.reference)
    assert moved != start
    checkpoint = trainer._checkpoint_connector.dump_checkpoint()
    again = module_factory("dpo", lm_factory("llama"), steps=2)
    del again.reference
    again.reference = MovingReference(frozen_copy(again.backbone), mix=0.5, every=1)
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"])
    assert fingerprint(again.reference) == moved
