"""What a pipeline's command line means: the overrides of each stage, what it reads, and mistakes that cost one message."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest

from alignkit.command_line import precheck, read_flags
from alignkit.composition import Composer, composing
from alignkit.configuration import conf_dir
from alignkit.errors import UserError
from alignkit.pipelines.files import pipeline_files, read_pipeline
from alignkit.pipelines.placeholders import fill
from alignkit.pipelines.stage_kinds import STAGE_KINDS
from alignkit.pipelines.stages import PipelineCommand, Stage, StageReader, read_command

Compose: TypeAlias = Callable[..., tuple[Stage, ...]]

NAMES = sorted(file.stem for file in (conf_dir() / "pipeline").glob("*.yaml"))
PAPERS = {"dph_paper"}
"""Recipes with the sizes of their authors."""
THREE = """\
# A supervised run, a reward model and a second supervised run on another data set, in which nothing reads the reward model.
name: three
stages:
  sft:
    options: [loss=sft, optimizer.lr=0.002]
  reward:
    options: [loss=reward, optimizer.lr=0.004]
    from: ["model.path={sft}/model"]
  again:
    options: [loss=sft]
    from: ["model.path={sft}/model", dataset=local, "dataset.path={reward}/kept.jsonl", "dataset.columns={}"]
"""


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the pipeline `three` were packaged, and nothing else but `dpo`."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "three.yaml").write_text(THREE, encoding="utf-8")
    (tmp_path / "pipeline" / "dpo.yaml").write_text((conf_dir() / "pipeline" / "dpo.yaml").read_text(encoding="utf-8"))
    monkeypatch.setattr("alignkit.pipelines.files.conf_dir", lambda: tmp_path)


def read(*argv: str) -> PipelineCommand:
    return read_command(read_flags(argv))


@pytest.fixture(scope="module")
def only() -> Iterator[Compose]:
    """Composes the stages of one pipeline without checking what is on the machine; calls share a reading of the files."""
    with composing(None) as hydra:
        reader = StageReader(Composer(hydra), None)

        def compose(*argv: str) -> tuple[Stage, ...]:
            (typed,) = reader.split(argv, multirun=False)
            return reader.compose(typed, read_pipeline(typed.pipeline, None), "runs/x")

        yield compose


@pytest.mark.parametrize("name", NAMES)
def test_every_packaged_pipeline_composes_and_passes_all_checks(name: str) -> None:
    (pipeline,) = read(f"pipeline={name}").pipelines
    assert {stage.name for stage in pipeline.stages} == set(read_pipeline(name, None).stage_names)


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_stage_chooses_its_loss_and_all_but_the_first_read_an_earlier_one(name: str) -> None:
    for index, stage in enumerate(read_pipeline(name, None).stages):
        assert stage.command != "train" or any(line.startswith(("loss=", "experiment=")) for line in stage.options)
        # Labels of the data set's own completions need no earlier stage.
        if not any(line.startswith("candidates=") for line in stage.wiring):
            assert bool(index) == any("{" in line for line in stage.wiring)


def test_a_stage_composes_as_its_overrides_do_when_they_are_typed_for_its_command(only: Compose) -> None:
    sft, dpo = only("pipeline=dpo", "dataset.pairs=60", "stages.dpo.loss=hinge", "stages.dpo.loss.beta=0.3")
    assert "model.path={sft}/model" in dpo.overrides
    for stage in (sft, dpo):
        typed = [line.replace("{sft}/model", "builtin:tiny") for line in stage.overrides]
        (settings,) = precheck([*typed, "run_dir=runs/x"])
        assert settings == replace(stage.settings.run, model=settings.model)
    assert (dpo.settings.run.loss.name, dpo.settings.run.loss.options) == ("hinge", {"beta": 0.3})
    assert sft.settings.run.dataset.options["pairs"] == dpo.settings.run.dataset.options["pairs"] == 60


def rates(stages: Sequence[Stage]) -> list[float]:
    return [stage.settings.run.optimizer.lr for stage in stages]


def test_the_file_gives_way_to_common_overrides_and_these_to_those_of_a_stage(three: None, only: Compose) -> None:
    base = ["pipeline=three"]
    default = precheck([])[0].optimizer.lr
    assert rates(only(*base)) == [0.002, 0.004, default]
    assert rates(only(*base, "optimizer.lr=0.01")) == [0.01, 0.01, 0.01]
    assert rates(only(*base, "stages.reward.optimizer.lr=0.02", "optimizer.lr=0.01")) == [0.01, 0.02, 0.01]


def test_wiring_wins_over_common_overrides_and_gives_way_to_those_of_a_stage(three: None, only: Compose) -> None:
    base = ["pipeline=three", "model.path=builtin:tiny"]
    paths = [stage.settings.run.model.path for stage in only(*base)]
    assert paths == ["builtin:tiny", "@stage.sft@/model", "@stage.sft@/model"]
    stage = only(*base, "stages.again.model.path={reward}/model")[2]
    assert fill(stage.settings, {"reward": "/runs/x/reward"}).run.model.path == "/runs/x/reward/model"
    assert stage.overrides[-1] == "model.path={reward}/model"


def test_keys_of_a_data_set_end_where_the_wiring_brings_another(three: None, only: Compose) -> None:
    stages = only("pipeline=three", "dataset=reviews", "dataset.pairs=80", "dataset.max_length=64")
    first, _, last = (stage.settings.run.dataset for stage in stages)
    assert (first.source, first.options["pairs"], first.max_length) == ("reviews", 80, 64)
    assert (last.source, last.options, last.max_length) == ("local", {"columns": {}, "ratings": []}, 64)


def test_a_group_chosen_for_a_stage_takes_the_wiring_of_another_choice_with_it(three: None, only: Compose) -> None:
    stage = only("pipeline=three", "stages.again.dataset=reviews")[2]
    assert (stage.settings.run.dataset.source, stage.settings.run.dataset.path) == ("reviews", None)
    same = only("pipeline=three", "stages.again.dataset=local")[2]
    assert same.settings.run.dataset.path == "@stage.reward@/kept.jsonl"


def test_keys_of_the_files_loss_end_where_another_is_chosen(only: Compose) -> None:
    heads = only("pipeline=task_heads", "stages.heads.loss=reward")[0].settings.run.loss
    assert (heads.name, "dpo_weight" in heads.options, heads.options["head"]["pooler"]) == ("bradley_terry", False, "swiglu_bert")


def test_any_scorer_takes_the_place_of_the_reward_model(only: Compose) -> None:
    for pipeline, stage in (("rlhf", "ppo"), ("rso", "samples")):
        wired = {stage.name: stage.settings.run.scorer for stage in only(f"pipeline={pipeline}")}[stage]
        assert (wired.name, wired.options["path"]) == ("head", "@stage.reward@")
        typed = {stage.name: stage.settings.run.scorer for stage in only(f"pipeline={pipeline}", f"stages.{stage}.scorer=vader")}[stage]
        assert (typed.name, typed.options) == ("vader", {})


def identities(stages: Sequence[Stage]) -> list[str]:
    return [stage.identity for stage in stages]


def test_a_stage_is_another_one_when_it_or_what_it_reads_differs(three: None, only: Compose) -> None:
    base = ["pipeline=three"]
    plain = identities(only(*base))
    assert len(set(plain)) == 3
    assert identities(only(*base, "run_dir=elsewhere", "logger=jsonl", "callbacks.progress_bar=false")) == plain
    assert [a == b for a, b in zip(plain, identities(only(*base, "stages.reward.steps=90")), strict=True)] == [True, False, False]
    assert [a == b for a, b in zip(plain, identities(only(*base, "stages.again.steps=90")), strict=True)] == [True, True, False]
    assert not set(plain) & set(identities(only(*base, "stages.sft.steps=90")))


@pytest.mark.parametrize("name", ["sft", "reward", "dph"])
def test_packaged_pipelines_have_stages_in_common(only: Compose, name: str) -> None:
    others = {*PAPERS, "constitutional"}  # whose sft imitates revisions
    stages = [stage for pipeline in NAMES if pipeline not in others for stage in only(f"pipeline={pipeline}") if stage.name == name]
    assert len(stages) > 1
    assert len({stage.identity for stage in stages}) == 1


def test_a_sweep_is_every_combination() -> None:
    command = read("-m", "pipeline=dpo", "seed=0,1", "stages.dpo.loss.beta=0.1,0.5")
    assert [pipeline.changes for pipeline in command.pipelines] == [
        ("seed=0", "stages.dpo.loss.beta=0.1"),
        ("seed=0", "stages.dpo.loss.beta=0.5"),
        ("seed=1", "stages.dpo.loss.beta=0.1"),
        ("seed=1", "stages.dpo.loss.beta=0.5"),
    ]
    assert [pipeline.stages[1].settings.run.loss.options["beta"] for pipeline in command.pipelines] == [0.1, 0.5] * 2


def test_a_pipeline_without_the_stage_that_is_swept_over_runs_once(three: None) -> None:
    command = read("-m", "pipeline=three,dpo", "seed=0,1", "stages.reward.steps=20,30")
    assert [pipeline.changes for pipeline in command.pipelines] == [
        ("pipeline=three", "seed=0", "stages.reward.steps=20"),
        ("pipeline=three", "seed=0", "stages.reward.steps=30"),
        ("pipeline=three", "seed=1", "stages.reward.steps=20"),
        ("pipeline=three", "seed=1", "stages.reward.steps=30"),
        ("pipeline=dpo", "seed=0"),
        ("pipeline=dpo", "seed=1"),
    ]


def test_directories_are_named_after_pipeline_and_model() -> None:
    assert read("pipeline=dpo").folder.endswith("-dpo-tiny")
    assert read("-m", "pipeline=dpo", "seed=1,2").folder.endswith("-sweep")
    assert read("pipeline=dpo", "run_dir='a, b'").folder == "a, b"


MISTAKES = [
    ((), "pipeline is missing"),
    (("pipeline=dop",), "Did you mean 'dpo'?"),
    (("pipeline=dpo,rlhf",), "several values are a sweep: add -m"),
    (("pipeline=dpo", "loss=ipo"), "would be the loss of all stages. Type stages.STAGE.loss=ipo"),
    (("pipeline=task_heads", "evaluation=glue"), "would be the evaluation of all stages. Type stages.STAGE.evaluation=glue"),
    (("pipeline=dpo", "loss.beta=0.1"), "loss.beta: sft has no option 'beta'"),
    (("pipeline=dpo", "loss.beta=0.1"), "(Stage sft of dpo; nothing was started."),
    (("pipeline=dpo", "stages.dop.seed=1"), "stages.dop: dpo has no such stage. Did you mean 'dpo'?"),
    (("pipeline=dpo", "stages.dpo=1"), "say for which stage and what"),
    (("pipeline=dpo", "stages={dpo: 1}"), "say for which stage and what"),
    (("pipeline=dpo", "stages.dpo.loss=hinges"), "Did you mean 'hinge'?"),
    (("pipeline=dpo", "stages.dpo.loss.beta=0"), "(Stage dpo of dpo;"),
    (("pipeline=dpo", "stages.dpo.loss.beta=0.1,0.2"), "several values are a sweep: add -m"),
    (("pipeline=dpo", "stages.dpo.model.train=heads"), "this objective trains no head"),
    (("pipeline=dpo", "stages.dpo.model.path={reward}"), "unknown earlier stage 'reward'; sft exist."),
    (("pipeline=dpo", "model.path={sft}"), "unknown earlier stage 'sft'; none exist."),
    (("pipeline=dpo", "model.path=./nowhere"), "there is no such folder"),
    (("pipeline=dpo", "stages.dpo.dataset.path=nowhere.jsonl"), "there is no such file"),
    (("pipeline=dpo", "stages.dpo.run_dir=x"), "run_dir: cannot be set for one stage"),
    (("pipeline=dpo", "hydra.launcher.n_jobs=2"), "is closed here"),
    (("-m", "pipeline=dpo", "seed=1,2", "stages.dpo.steps=0"), "Job 1 of 2: seed=1"),
    (("-m", "pipeline=dpo", "run_dir=a,b"), "give one directory"),
]


@pytest.mark.parametrize(("argv", "answer"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_a_mistake_is_answered_with_what_to_type(argv: tuple[str, ...], answer: str) -> None:
    with pytest.raises(UserError) as caught:
        read(*argv)
    assert answer in str(caught.value)


BROKEN = [
    ("stages: {a: {options: [loss=sft]}}", "name = None; must be 'mine'"),
    ("name: mine", "must have a stage or more"),
    ("[1, 2]", "must hold keys with values"),
    ("{name: mine, stages: {Big: {}}}", "must be lower-case"),
    ("{name: mine, stages: {../a: {}}}", "must be lower-case"),
    ("{name: mine, stages: {a: {option: [loss=sft]}}}", "Did you mean 'options'?"),
    ("{name: mine, stages: {a: {options: loss=sft}}}", "must be a list of overrides"),
    ("{name: mine, stages: {a: 3}}", "must hold some of"),
    ("{name: mine, stages: {a: {command: trian}}}", "Did you mean 'train'?"),
    ("{name: mine, stages: {a: {options: ['seed=1,2']}}}", "several values are a sweep"),
    ("{name: mine, stages: {a: {options: [run_dir=x]}}}", "run_dir is for the command line alone"),
    ("{name: mine, stages: {a: {options: [hydra.job.chdir=true]}}}", "hydra.job.chdir: cannot be set for one stage"),
    ("{name: mine, stages: {a: {options: [loss._target_=os.system]}}}", "never code"),
    ("{name: mine, stages: {a: {}}, extra: 1}", "extra: no such key"),
]


@pytest.mark.parametrize(("text", "answer"), BROKEN)
def test_a_pipeline_of_a_users_own_is_checked(tmp_path: Path, text: str, answer: str) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read("-cd", str(tmp_path), "pipeline=mine")
    assert answer in str(caught.value)


def test_a_pipeline_of_a_users_own_comes_before_a_packaged_one(tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "dpo.yaml").write_text("{name: dpo, stages: {alone: {options: [loss=sft]}}}")
    assert set(pipeline_files(str(tmp_path))) == set(NAMES)
    assert read_pipeline("dpo", str(tmp_path)).stage_names == ("alone",)


def test_every_command_of_the_packaged_pipelines_exists() -> None:
    assert {stage.command for name in NAMES for stage in read_pipeline(name, None).stages} <= set(STAGE_KINDS)
