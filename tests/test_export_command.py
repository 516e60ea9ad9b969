"""`python -m alignkit.export`: the folders that a run itself would have left, from its checkpoint alone, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict_saver import save

from alignkit import export
from alignkit.callbacks.checkpoint_files import CheckpointFiles
from alignkit.callbacks.sharded_checkpoints import apart, put_in_place
from alignkit.command_line import precheck
from alignkit.job import carry_out
from alignkit.manifests import step_checkpoints
from alignkit.models.export import load_aligned
from alignkit.run_dir import RunDir, read_jsonl
from alignkit.scorers.normalization import Normalization
from alignkit.scorers.saved_heads import saved_head

SHORT = (
    "steps=3",
    "schedule.warmup_steps=0",
    "validation.every=1",
    "validation.samples=0",
    "logger=jsonl",
    "hardware=cpu",
    "hardware.threads=1",
    "batch.pairs=2",
    "dataset.pairs=8",
    "dataset.validation_examples=2",
    "callbacks.progress_bar=false",
)
LORA = ("loss=dpo", "model.adapter=lora", "model.lora.rank=2")
SAMPLED = ("scorer=vader", "rollout.samples=2", "rollout.max_tokens=4", "loss.epochs=1")
MODEL = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
Command = Callable[..., int]
Trained = Callable[..., RunDir]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Calls the command in this process and returns its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["alignkit-export", *map(str, argv)])
        return export.main()

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A finished run of these overrides."""
    done: dict[tuple[str, ...], RunDir] = {}

    def of(*overrides: str) -> RunDir:
        if overrides not in done:
            (settings,) = precheck([*SHORT, *overrides])
            run = RunDir.create(tmp_path_factory.mktemp("trained") / "run")
            carry_out(settings, run)
            done[overrides] = run
        return done[overrides]

    return of


@pytest.fixture
def killed(trained: Trained, tmp_path: Path) -> Trained:
    """The same run, as one that was killed after its last checkpoint leaves it."""

    def of(*overrides: str) -> RunDir:
        run = RunDir(Path(shutil.copytree(trained(*overrides).path, tmp_path / "killed", symlinks=True)))
        shutil.rmtree(run.model)
        for file in (run.heads, run.heads_description, run.results):
            file.unlink(missing_ok=True)
        return run

    return of


def shard(run: RunDir) -> None:
    """Have the newest checkpoint be a folder, as several processes write it."""
    checkpoint = torch.load(run.last_checkpoint, weights_only=True)
    run.last_checkpoint.unlink()
    draft = run.checkpoints / ".part"
    tensors, others = apart({**checkpoint, "optimizer_states": []})
    with warnings.catch_warnings(action="ignore"):  # torch says that there is one process
        save(tensors, checkpoint_id=draft, no_dist=True)
    torch.save(others, draft / "meta.pt")
    put_in_place(draft, run.last_checkpoint)


def check_same(left: Path, right: Path, *names: str) -> None:
    for name in names:
        assert (left / name).read_bytes() == (right / name).read_bytes(), name


def step_back(run: RunDir) -> None:
    """Have the results say that they are of one step before."""
    run.write_results({**json.loads(run.results.read_text()), "steps": 2})


@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "folder of shards"])
def test_a_run_that_was_killed_gets_the_files_that_it_would_have_left(
    sharded: bool, trained: Trained, killed: Trained, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, run = trained("loss=con_dph"), killed("loss=con_dph")
    if sharded:
        shard(run)
    capsys.readouterr()
    assert command(run.path) == 0
    check_same(run.path, whole.path, "heads.json", "heads.safetensors", "texts.json", *(f"model/{name}" for name in MODEL))
    assert capsys.readouterr().out.splitlines() == ["export: step 3 of 3", f"model: {run.model}"]
    assert {path.name for path in run.path.iterdir()} == {path.name for path in whole.path.iterdir()} - {"results.json"}


def test_the_card_says_of_a_killed_run_what_its_own_card_says(trained: Trained, killed: Trained, command: Command) -> None:
    whole, run = trained("loss=con_dph"), killed("loss=con_dph")
    assert command(run.path) == 0
    ours, theirs = run.card.read_text(), whole.card.read_text()
    for section in ("## Heads", "## Objective", "## Results", "## Certificate"):
        parts = [text.partition(f"{section}\n")[2].partition("\n## ")[0] for text in (ours, theirs)]
        if section == "## Certificate":  # what was looked up is measured before training, and in no checkpoint
            parts = ["\n".join(line for line in part.splitlines() if "first_loss" in line) for part in parts]
        assert parts[0] == parts[1] != "", section


def test_adapters_are_merged_or_kept_apart(trained: Trained, command: Command, tmp_path: Path) -> None:
    run = trained(*LORA)
    assert command(run.path, f"out={tmp_path / 'merged'}", "export=merged") == 0
    check_same(tmp_path / "merged" / "model", run.model, *MODEL)
    assert command(run.path, f"out={tmp_path / 'apart'}", "export=adapter") == 0
    assert not (tmp_path / "apart" / "model" / "model.safetensors").exists()
    ids = torch.arange(3, 43).view(2, 20)
    merged, apart_ = (load_aligned(path).lm(ids).logits for path in (run.path, tmp_path / "apart"))
    assert (merged - apart_).abs().max() < 1e-4
    assert ModelCard.load(tmp_path / "apart" / "model" / "README.md").data.library_name == "peft"


def test_an_adapter_is_what_the_run_itself_exports(trained: Trained, killed: Trained, command: Command) -> None:
    overrides = (*LORA, "model.lora.export=adapter")
    whole, run = trained(*overrides), killed(*overrides)
    assert command(run.path) == 0
    check_same(run.model, whole.model, "adapter_model.safetensors", "tokenizer.json")
    ours, theirs = (json.loads((of.model / "adapter_config.json").read_text()) for of in (run, whole))
    for config in (ours, theirs):
        config["target_modules"] = sorted(config["target_modules"])
    assert ours == theirs


def test_a_value_head_is_exported_as_one_but_not_that_of_another_trunk(
    trained: Trained, killed: Trained, command: Command, tmp_path: Path
) -> None:
    whole, run = trained("loss=ppo", *SAMPLED), killed("loss=ppo", *SAMPLED)
    assert command(run.path) == 0
    check_same(run.path, whole.path, "heads.json", "heads.safetensors", "model/model.safetensors")
    separate = trained("loss=ppo", "loss.value_trunk=separate", *SAMPLED)
    assert command(separate.path, f"out={tmp_path / 'out'}") == 0
    check_same(tmp_path / "out", separate.path, "model/model.safetensors")
    assert not (tmp_path / "out" / "heads.json").exists()
    assert not separate.heads.exists()


def test_the_best_step_is_exported_with_what_was_measured_then(trained: Trained, command: Command, tmp_path: Path) -> None:
    run = RunDir(Path(shutil.copytree(trained("loss=con_dph").path, tmp_path / "copy")))
    best = torch.load(run.last_checkpoint, weights_only=True)
    best["alignkit/progress"]["steps_done"] = 1
    best["state_dict"]["heads.dph.score.weight"] += 1
    CheckpointFiles(run, print).save_checkpoint(best, run.checkpoints / "best.ckpt")
    (measured,) = (row["val/loss"] for row in read_jsonl(run.metrics) if row["step"] == 1 and "val/loss" in row)
    assert command(run.path, "checkpoint=best", f"out={tmp_path / 'best'}") == 0
    exported = load_file(tmp_path / "best" / "heads.safetensors")
    assert torch.equal(exported["dph.score.weight"], best["state_dict"]["heads.dph.score.weight"])
    text = (tmp_path / "best" / "model" / "README.md").read_text()
    assert "after step 1. The run was stopped before the last of its 3 steps." in text
    assert f"| {measured:.4g} | lower | the objective" in text


def test_a_finished_run_keeps_its_model_and_gets_a_new_card(trained: Trained, command: Command, tmp_path: Path) -> None:
    run = RunDir(Path(shutil.copytree(trained("loss=con_dph").path, tmp_path / "copy")))
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file() and file != run.card}
    written = run.card.read_text()
    assert command(run.path, "license=apache-2.0") == 0
    assert run.card.read_text() == written.replace("license: unknown", "license: apache-2.0") != written
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file() and file != run.card} == before


def test_a_model_that_is_older_than_the_checkpoint_is_replaced_and_no_other(
    trained: Trained, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(Path(shutil.copytree(trained("loss=con_dph").path, tmp_path / "copy")))
    assert command(run.path, "checkpoint=last") == 2
    assert "has a model/ of step 3, which is not written over. Type out=DIR" in capsys.readouterr().err
    step_back(run)
    (run.model / "model.safetensors").write_bytes(b"of step 2")
    assert command(run.path) == 0
    check_same(run.path, trained("loss=con_dph").path, *(f"model/{name}" for name in MODEL))


def test_an_export_that_fails_leaves_everything_as_it_was(
    trained: Trained, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(Path(shutil.copytree(trained("loss=con_dph").path, tmp_path / "copy")))
    step_back(run)
    run.texts.unlink()
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    assert command(run.path) == 2
    assert "holds no texts.json, which says how completions end" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before


def test_the_scale_of_a_normalised_head_goes_with_it_where_it_is_known(
    trained: Trained, killed: Trained, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("loss=con_dph", "loss.head.normalize=4", "validation.sample_tokens=4")
    whole = trained(*overrides)
    assert command(whole.path, f"out={tmp_path / 'out'}") == 0
    assert saved_head(tmp_path / "out", "dph").normalization == saved_head(whole.path, "dph").normalization != Normalization(1.0, 0.0)
    capsys.readouterr()
    assert command(killed(*overrides).path) == 0
    assert "scores of dph as they are" in capsys.readouterr().out
    assert saved_head(tmp_path / "killed", "dph").normalization == Normalization(1.0, 0.0)


def test_weights_of_another_model_are_refused(killed: Trained, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    run = killed("loss=con_dph")
    checkpoint = torch.load(run.last_checkpoint, weights_only=True)
    name = "backbone.lm.model.norm.weight"
    weight = checkpoint["state_dict"].pop(name)
    CheckpointFiles(run, print).save_checkpoint(checkpoint, run.last_checkpoint.resolve())
    assert command(run.path) == 2
    assert "the model of config.yaml and of the checkpoint differ, e.g. in lm.model.norm.weight" in capsys.readouterr().err
    checkpoint["state_dict"][name] = weight[:5]
    CheckpointFiles(run, print).save_checkpoint(checkpoint, run.last_checkpoint.resolve())
    assert command(run.path) == 2
    assert "size mismatch for lm.model.norm.weight" in capsys.readouterr().err
    for damaged in step_checkpoints(run.checkpoints):
        damaged.write_bytes(b"no checkpoint")
    assert command(run.path) == 2
    assert "step-000003.ckpt has 13 bytes instead of" in capsys.readouterr().err
    assert not run.model.exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "run is missing: which one?"),
        (("nowhere",), "there is no such directory"),
        (("RUN", "other"), "was typed before"),
        (("RUN", "pusch=a/b"), "pusch: no such key. Did you mean 'push'?"),
        (("RUN", "--push"), "--push: there is no such flag"),
        (("RUN", "checkpoint=newest"), "checkpoint = 'newest'; must be one of last, best."),
        (("RUN", "private=maybe"), "private = 'maybe'"),
        (("RUN", "private=false"), "private = false has no effect without push"),
        (("RUN", "license=My own"), "license = 'My own'; must be one of the hub's names"),
        (("RUN", "export=adapter"), "export = 'adapter': the run trained no adapter"),
        (("RUN", "out=RUN"), "holds something already"),
        (("RUN", "push=gpt2"), "push = 'gpt2': whose repository? It looks like owner/gpt2."),
        (("RUN", "push=a/b/c"), "push = 'a/b/c': cannot name a repository"),
        (("RUN", "push=a/b"), "push = 'a/b': HF_HUB_OFFLINE is set"),
        (("RUN", f"push=hf_{'a' * 34}"), "looks like an access token"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    argv: tuple[str, ...], message: str, trained: Trained, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained("loss=con_dph")
    before = sorted(file.stat().st_mtime_ns for file in run.path.rglob("*"))
    assert command(*(str(run.path).join(part.split("RUN")) for part in argv)) == 2
    assert message in capsys.readouterr().err
    assert sorted(file.stat().st_mtime_ns for file in run.path.rglob("*")) == before


def test_a_run_without_a_checkpoint_is_told_so(trained: Trained, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained("loss=sft", "callbacks.checkpoints=false")
    assert command(run.path) == 0
    assert command(run.path, "out=other") == 2
    assert "there is no checkpoints/last.ckpt" in capsys.readouterr().err


def test_an_adapter_goes_to_no_hub_while_its_base_model_is_on_this_machine_alone(
    trained: Trained, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(trained(*LORA).path, "export=adapter", "out=apart", "push=a/b") == 2
    assert "is on this machine alone, so that nobody could load it. Type export=merged" in capsys.readouterr().err


def test_help_names_every_key(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    page = capsys.readouterr().out
    for name in export.ExportSettings.__dataclass_fields__:
        assert f"\n  {name}=" in page
