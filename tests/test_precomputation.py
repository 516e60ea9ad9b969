"""Before training: what the run will visit is looked up or computed, and training is then the same as without."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignkit import training
from alignkit.assembly import Job, assemble
from alignkit.callbacks.checkpoint_files import CheckpointFiles
from alignkit.callbacks.samples import Samples
from alignkit.command_line import precheck
from alignkit.data.packing import Packing
from alignkit.data.steps import Steps
from alignkit.errors import UserError
from alignkit.job import carry_out
from alignkit.models.backbone import Backbone
from alignkit.models.reference import CachedReference, LiveReference, backbone_logps, fingerprint
from alignkit.models.terminal_states import CachedStates
from alignkit.modules.datamodule import PreferenceDataModule
from alignkit.precomputation import Precomputation, visited
from alignkit.run_dir import RunDir, read_jsonl
from alignkit.scorers.saved_heads import saved_head

TINY = Path(__file__).parents[1] / "alignkit/lab/pretrained/tiny"
SHORT = [
    "steps=6",
    "schedule.warmup_steps=1",
    "validation.every=3",
    "validation.samples=2",
    "validation.sample_tokens=8",
    "logger.every=1",
    "logger=jsonl",
    "dataset.pairs=40",
    "dataset.validation_examples=12",
    "batch.pairs=8",
    "callbacks.progress_bar=false",
    "callbacks.checkpoints=false",
]
HEADS = ("loss=con_dph", "loss.dpo_weight=0", "model.train=heads")

Train = Callable[..., tuple[RunDir, dict[str, Any]]]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Runs in this process, with a cache of the test's own."""
    monkeypatch.setenv("ALIGNKIT_CACHE", str(tmp_path / "cache"))

    def run(*overrides: str) -> tuple[RunDir, dict[str, Any]]:
        (settings,) = precheck([*SHORT, *overrides])
        directory = RunDir.create(tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}")
        return directory, carry_out(settings, directory)

    return run


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A model near tiny, as a folder."""
    lm = AutoModelForCausalLM.from_pretrained(TINY)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.mul_(1.05)
    lm.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(TINY).save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def trace(run: RunDir, *names: str) -> list[float]:
    return [float(row[name]) for row in read_jsonl(run.metrics) for name in names if name in row]  # type: ignore[arg-type]


def steps_of(examples: list[Any], *, pairs: int, steps: int) -> Steps:
    return Steps(examples, pairs=pairs, steps=steps, seed=3, packing=Packing(layout="packed", tokens=100, row_tokens=40))


@pytest.mark.parametrize(("pairs", "steps"), [(4, 1), (4, 2), (4, 3), (4, 9), (10, 1), (3, 3)])
def test_what_is_computed_is_just_what_the_steps_visit(pairs, steps, examples_factory):
    examples = examples_factory(10)
    data = steps_of(examples, pairs=pairs, steps=steps)
    expected = {key for step in range(steps) for batch in data[step].micro_batches for key in batch.example_keys}
    assert [example.key for example in visited(data)] == sorted(expected)


@pytest.mark.parametrize("layout", ["packed", "rows"])
@pytest.mark.parametrize("loss", ["dpo", "con_dph", "ipo"])
def test_training_with_cached_log_probs_is_training_with_the_model_in_memory(loss, layout, train):
    traces = {}
    for source in ("memory", "cache"):
        run, results = train(f"loss={loss}", "loss.beta=0.5", f"reference={source}", f"batch.layout={layout}")
        traces[source] = trace(run, "train/loss", "train/gradient_norm", "val/loss")
        assert results["reference_fingerprint"] == fingerprint(Backbone(AutoModelForCausalLM.from_pretrained(TINY)))
    assert len(traces["cache"]) == 6 + 6 + 3
    assert traces["cache"] == pytest.approx(traces["memory"], abs=1e-5, rel=1e-5)
    assert len(set(traces["cache"])) > 10


def test_counts_say_what_was_computed_and_what_was_reused(train, capsys, tmp_path):
    _, first = train("loss=dpo")
    assert (first["reference/computed"], first["reference/reused"]) == (40 + 12, 0)
    out = capsys.readouterr().out
    assert "reference: 52 log-probs computed in " in out
    assert f"kept in {tmp_path / 'cache' / 'token_logps'}" in out
    _, second = train("loss=cdpo", "loss.beta=0.3", "optimizer.lr=1e-4", "seed=5")
    assert (second["reference/computed"], second["reference/reused"]) == (0, 52)
    _, third = train("loss=ipo", "optimizer.lr=1e-4", "batch.layout=rows", "batch.pairs=5")
    assert third["reference/reused"] == 30 + 12  # 6 steps of 5
    assert third["reference/computed"] == 0
    assert "reference: 42 of 42 log-probs reused from " in capsys.readouterr().out


def test_another_precision_is_computed_anew(train):
    train("loss=dpo")
    _, results = train("loss=dpo", "precision=bf16")
    assert results["reference/reused"] == 0


def test_a_loss_without_a_reference_computes_none(train, tmp_path):
    _, results = train("loss=sft")
    assert not [name for name in results if name.startswith("reference/")]
    assert not (tmp_path / "cache").exists()


def test_the_typed_folder_is_used(train, tmp_path):
    train("loss=dpo", f"cache_dir={tmp_path / 'mine'}")
    assert list((tmp_path / "mine").rglob("*.safetensors"))
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written_costs_a_line_and_no_run(train, capsys, tmp_path):
    (tmp_path / "file").touch()
    _, results = train("loss=dpo", f"cache_dir={tmp_path / 'file'}")
    out = capsys.readouterr().out
    assert out.count("cannot be written") == 1
    assert "reference: 52 log-probs computed in " in out
    assert "not kept" in out
    assert results["val/loss"] < results["start/val/loss"]


def test_a_damaged_file_is_computed_again_and_the_run_is_the_same(train, capsys, tmp_path):
    first, _ = train("loss=dpo")
    (file,) = (tmp_path / "cache").rglob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-3] ^= 16
    file.write_bytes(content)
    second, results = train("loss=dpo")
    assert results["reference/computed"] == 52
    assert "is damaged" in capsys.readouterr().out
    assert trace(second, "train/loss") == trace(first, "train/loss")


def prepared(*overrides: str) -> tuple[Job, Precomputation, Samples]:
    """A job up to the moment before its first validation."""
    (settings,) = precheck([*SHORT, *overrides])
    job = assemble(settings)
    run = RunDir(Path(settings.run_dir))
    samples = training.build_samples(settings, run, job)
    trainer = training.build_trainer(settings, run, [], [], CheckpointFiles(run, print))
    return job, Precomputation(settings, job, trainer), samples


def test_the_policy_is_its_own_reference_without_a_second_model(tmp_path):
    job, precomputation, samples = prepared("loss=dpo", f"cache_dir={tmp_path}")
    assert isinstance(job.module.reference, CachedReference)
    assert job.module.reference.backbone is job.module.backbone
    precomputation.run(samples)
    assert job.module.reference.backbone is None
    assert all(parameter.requires_grad for parameter in job.module.backbone.parameters())
    assert {name.partition(".")[0] for name, _ in job.module.named_modules()} >= {"backbone", "heads"}
    assert "reference" not in dict(job.module.named_children())
    assert not [name for name in job.module.state_dict() if name.startswith("reference")]


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_another_model_is_asked_once_and_freed(layout, other, tmp_path):
    overrides = ("loss=dpo", f"reference.path={other}", f"cache_dir={tmp_path / 'cache'}", f"batch.layout={layout}")
    plain = Backbone(AutoModelForCausalLM.from_pretrained(other))
    for turn in ("computed", "reused"):
        job, precomputation, samples = prepared(*overrides)
        model = weakref.ref(job.module.reference.backbone)
        assert job.models.reference_fingerprint == fingerprint(plain) != job.models.policy_fingerprint
        precomputation.run(samples)
        gc.collect()
        assert model() is None
        assert precomputation.results[f"reference/{turn}"] == 52
        batches = [*job.data.steps[0].micro_batches, *job.data.validation_batches]
        with torch.no_grad():
            for batch in batches:
                assert (job.module.reference.token_logps(batch) - backbone_logps(plain, batch)).abs().max() < 1e-4


@pytest.mark.parametrize("source", ["cache", "memory"])
def test_samples_of_another_reference_are_its_own(source, other, train):
    run, _ = train("loss=dpo", f"reference={source}", f"reference.path={other}")
    rows = list(read_jsonl(run.samples))
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(other), AutoTokenizer.from_pretrained(other)
    for row in rows[:2]:
        ids = tokenizer(row["prompt"], return_tensors="pt", add_special_tokens=True)["input_ids"]
        told = lm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
        assert row["reference"] == tokenizer.decode(told, skip_special_tokens=True)
    # one column for the whole run
    assert {(row["prompt"], row["reference"]) for row in rows} == {(row["prompt"], row["reference"]) for row in rows[:2]}


def test_without_a_path_the_sampled_reference_is_the_policy_before_its_first_update(train):
    run, _ = train("loss=dpo", "optimizer.lr=1e-2")
    rows = list(read_jsonl(run.samples))
    assert [row["policy"] for row in rows[:2]] == [row["reference"] for row in rows[:2]]
    assert [row["reference"] for row in rows[-2:]] == [row["reference"] for row in rows[:2]]
    assert [row["policy"] for row in rows[-2:]] != [row["reference"] for row in rows[-2:]]


def test_a_model_that_runs_in_every_step_is_a_module_of_its_own(other):
    job, precomputation, samples = prepared("loss=dpo", "reference=memory", f"reference.path={other}")
    assert isinstance(job.module.reference, LiveReference)
    precomputation.run(samples)
    assert precomputation.results == {}
    assert "reference" in dict(job.module.named_children())


def test_a_path_that_a_loss_does_not_use_is_refused_for_both_sources(other):
    for source in ("cache", "memory"):
        (settings,) = precheck([*SHORT, "loss=sft", f"reference={source}", f"reference.path={other}"])
        with pytest.raises(UserError, match="has no effect"):
            assemble(settings)


STANDARDIZED = ("loss=con_dph", *HEADS[1:], "loss.head.standardize=30")


@pytest.mark.parametrize(
    "overrides",
    [HEADS, ("loss=sep_dph", *HEADS[1:]), ("loss=reward", "model.train=heads"), STANDARDIZED],
    ids=lambda o: o[0] + "-standardized" * (o is STANDARDIZED),
)
def test_a_head_on_cached_states_is_trained_as_one_on_the_trunk(overrides, train, monkeypatch):
    pooler = ("loss.head.pooler=bert", "optimizer.lr=1e-2")
    cached, results = train(*overrides, *pooler)
    assert (results["trunk/computed"], results["trunk/reused"]) == (52, 0)
    again, results = train(*overrides, *pooler)
    assert (results["trunk/computed"], results["trunk/reused"]) == (0, 52)
    monkeypatch.setattr("alignkit.assembly.CachedStates", lambda: None)
    run, results = train(*overrides, *pooler)
    assert "trunk/computed" not in results
    names = ("train/loss", "train/gradient_norm", "val/loss", "val/rewards/margins")
    assert trace(cached, *names) == pytest.approx(trace(run, *names), abs=1e-5)
    assert trace(again, *names) == trace(cached, *names)
    assert len(set(trace(run, *names))) > 12


@pytest.mark.parametrize(
    "trunk", [(), ("model.train=all", "model.adapter=lora"), ("loss.head.layers=[2,-1]",)], ids=["cached", "lora", "layers"]
)
def test_a_head_takes_mean_and_deviation_of_the_first_states_that_it_will_be_trained_on(trunk, train):
    run, _ = train(*STANDARDIZED, *trunk)
    saved = saved_head(run.path, "dph").load().head("dph")
    (settings,) = precheck([*SHORT, *STANDARDIZED, *trunk])
    job = assemble(settings)
    examples = visited(job.data.steps)[:15]  # two completions each
    backbone = Backbone(AutoModelForCausalLM.from_pretrained(TINY))
    layers = saved.settings.layers
    with torch.no_grad():
        states = [
            torch.stack(
                [
                    layer[0, -1]
                    for layer in backbone.lm.base_model(torch.tensor([[*e.prompt_ids, *ids]]), output_hidden_states=True)["hidden_states"]
                ]
            )
            for e in examples
            for ids in e.completion_ids
        ]
    read = torch.stack(states)[:, layers].double()  # [30, L, D]
    assert torch.allclose(saved.get_buffer("shift").double(), read.mean(0), atol=1e-4)
    assert torch.allclose(saved.get_buffer("scale").double(), read.std(0, correction=0), rtol=1e-3, atol=1e-4)


def test_a_value_head_is_not_standardised():
    (settings,) = precheck([*SHORT, "loss=ppo", "scorer=vader", "loss.head.standardize=8"])
    with pytest.raises(UserError, match=r"loss\.head\.standardize = 8"):
        assemble(settings)


def test_with_cached_states_no_step_runs_the_trunk(tmp_path, monkeypatch):
    job, precomputation, samples = prepared(*HEADS, f"cache_dir={tmp_path}")
    assert isinstance(job.module.states, CachedStates)
    precomputation.run(samples)

    def refuse(self: Backbone, batch: object) -> None:
        raise AssertionError("the trunk was run")

    monkeypatch.setattr(Backbone, "hidden_states", refuse)
    for step in range(6):
        for batch in job.data.steps[step].micro_batches:
            job.module.evaluate(batch).sum().backward()
    for batch in job.data.validation_batches:
        job.module.evaluate(batch)


def test_states_of_a_trunk_in_bf16_are_kept_in_bf16(train, tmp_path):
    _, results = train(*HEADS, "precision=bf16_true")
    (file,) = (tmp_path / "cache" / "terminal_states").rglob("*.safetensors")
    assert b'"dtype":"BF16"' in file.read_bytes()[:1000]
    assert results["certificate/states_error"] < 0.1
    _, results = train(*HEADS, "precision=bf16_true", "loss=sep_dph", "loss.epsilon=0.2")
    assert results["trunk/reused"] == 52


def test_keys_are_unique_over_training_and_validation(tmp_path):
    job, _, _ = prepared("loss=dpo", f"cache_dir={tmp_path}")
    data: PreferenceDataModule = job.data
    train_keys = {example.key for example in data.steps.examples}
    validation_keys = {key for batch in data.validation_batches for key in batch.example_keys}
    assert train_keys == set(range(40))
    assert validation_keys == set(range(40, 52))
