"""Stages that evaluate: what may be typed for them before the model is there, and the pipelines that have some."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest
import yaml

from alignkit.command_line import read_flags
from alignkit.composition import Composer, composing
from alignkit.errors import UserError
from alignkit.evaluating.scorers import scorers_of
from alignkit.evaluation_settings import ANSWERS, EvaluateSettings, QuestionsSettings, WinRateSettings
from alignkit.generation.config import run_at
from alignkit.pipelines.files import read_pipeline
from alignkit.pipelines.placeholders import fill, rehearsal
from alignkit.pipelines.stage_kind import StageSettings
from alignkit.pipelines.stage_kinds import EvaluateStage
from alignkit.pipelines.stages import Pipeline, Stage, StageReader, read_command
from alignkit.run_dir import RunDir

Compose: TypeAlias = Callable[..., dict[str, Stage]]
KIND = EvaluateStage()


@pytest.fixture(scope="module")
def only() -> Iterator[Compose]:
    """Composes the stages of one pipeline without checking what is on the machine; calls share a reading of the files."""
    with composing(None) as hydra:
        reader = StageReader(Composer(hydra), None)

        def compose(*argv: str) -> dict[str, Stage]:
            (typed,) = reader.split(argv, multirun=False)
            return {stage.name: stage for stage in reader.compose(typed, read_pipeline(typed.pipeline, None), "runs/x")}

        yield compose


def checked(*argv: str) -> Pipeline:
    """With every check that there is before the first stage runs."""
    (pipeline,) = read_command(read_flags(argv)).pipelines
    return pipeline


def own(stage: Stage) -> tuple[EvaluateSettings, QuestionsSettings]:
    settings = stage.settings.own
    assert isinstance(settings, EvaluateSettings)
    assert isinstance(settings.evaluation, QuestionsSettings)
    return settings, settings.evaluation


# What may be typed


def test_it_measures_the_model_of_the_stage_before_on_the_data_of_the_pipeline(only: Compose) -> None:
    stages = only("pipeline=task_heads", "dataset.path=/data")
    settings, evaluation = own(stages["evaluation"])
    assert stages["evaluation"].settings.run.model.path == "@stage.heads@/model"
    assert (evaluation.name, evaluation.path, settings.scorers) == ("dph_paper", "/data", ())
    assert own(only("pipeline=task_heads")["evaluation"])[1].path is None


def test_another_evaluation_and_its_keys_take_the_place_of_the_files(only: Compose) -> None:
    typed = ["stages.evaluation.evaluation=gpt4all", "stages.evaluation.evaluation.limit=7", "stages.evaluation.scorer=[logp_sum,dph]"]
    stage = only("pipeline=task_heads", *typed)["evaluation"]
    settings, evaluation = own(stage)
    assert (evaluation.name, evaluation.limit, settings.scorers) == ("gpt4all", 7, ("logp_sum", "dph"))
    assert KIND.label(stage.settings) == "gpt4all"
    assert KIND.headline(stage.settings) == ("gpt4all/dph/average", "gpt4all/logp_mean/average")
    assert stage.overrides[-3:] == tuple(line.removeprefix("stages.evaluation.") for line in typed)


def test_what_was_typed_last_scores(only: Compose) -> None:
    stage = only("pipeline=task_heads", "stages.evaluation.scorer=vader", "stages.evaluation.scorer=logp_sum")["evaluation"]
    assert (own(stage)[0].scorers, stage.settings.run.scorer.name) == (("logp_sum",), "none")


def test_a_stage_is_another_one_when_it_asks_something_else(only: Compose) -> None:
    plain = only("pipeline=task_heads")
    for typed in ("evaluation=gpt4all", "evaluation.limit=9", "scorer=dph", "against={heads}"):
        other = only("pipeline=task_heads", f"stages.evaluation.{typed}")
        assert other["heads"].identity == plain["heads"].identity
        assert other["evaluation"].identity != plain["evaluation"].identity, typed
    assert only("pipeline=task_heads", "stages.evaluation.logger=jsonl")["evaluation"].identity == plain["evaluation"].identity


def test_its_config_says_what_it_is(only: Compose) -> None:
    stage = only("pipeline=task_heads", "stages.evaluation.scorer=dph")["evaluation"]
    saved = yaml.safe_load(KIND.config_yaml(fill(stage.settings, {"heads": "/runs/heads"})))
    assert (saved["model"]["path"], saved["scorers"], saved["evaluation"]["kind"]) == ("/runs/heads/model", ["dph"], "questions")


def test_keys_of_the_file_end_where_another_kind_is_chosen(only: Compose) -> None:
    judge = ["stages.evaluation.scorer=head", "stages.evaluation.scorer.path={heads}", "stages.evaluation.evaluation.opponent=chosen"]
    stage = only("pipeline=task_heads", "stages.evaluation.evaluation=win_rate", *judge)["evaluation"]
    assert stage.settings.own.evaluation == WinRateSettings(
        name="win_rate", opponent="chosen", prompts="dataset", limit=None, resamples=1000
    )
    assert stage.settings.run.scorer.options["path"] == "@stage.heads@"


# What is known only later


def test_a_head_is_looked_for_when_its_stage_has_run(only: Compose, tmp_path: Path) -> None:
    stage = only("pipeline=task_heads", "stages.evaluation.scorer=[dph,logp_mean]")["evaluation"]
    KIND.check_values(stage.settings)
    run = RunDir.create(tmp_path / "heads")
    run.model.mkdir()
    settings = fill(stage.settings, {"heads": str(run.path)})
    run.heads_description.write_text('{"other": {}}')
    with pytest.raises(UserError, match=r"^scorer = 'dph' \(.*heads has no head of that name\); must be one of .* other, "):
        scorers_of(settings.own, run_at(settings.run.model.path), with_reference=False)
    run.heads_description.write_text('{"dph": {}}')
    assert scorers_of(settings.own, run_at(settings.run.model.path), with_reference=False) == ("dph", "logp_mean")


def test_places_of_stages_that_have_not_run_are_not_looked_at_and_others_are(only: Compose, tmp_path: Path) -> None:
    typed = ["stages.dph_measured.against={dpo_measured}", "stages.dph_measured.evaluation.path={sft}/rows.jsonl"]
    stage = only("pipeline=dph_paper", *typed)["dph_measured"]
    settings, evaluation = own(stage)
    assert (settings.against, evaluation.path) == ("@stage.dpo_measured@", "@stage.sft@/rows.jsonl")
    rehearsed = rehearsal(stage.settings, "builtin:tiny")
    KIND.check_places(rehearsed)
    assert (rehearsed.own.against, rehearsed.own.evaluation.path, rehearsed.run.model.path) == (None, None, "builtin:tiny")
    ready = fill(stage.settings, {name: str(tmp_path / name) for name in ("sft", "dph", "dpo_measured")})
    assert (ready.own.against, ready.own.evaluation.path) == (str(tmp_path / "dpo_measured"), str(tmp_path / "sft" / "rows.jsonl"))
    known = StageSettings(run=rehearsed.run, own=replace(rehearsed.own, against=str(tmp_path)))
    with pytest.raises(UserError, match=f"holds no {ANSWERS}"):
        KIND.check_places(known)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("stages.evaluation.evaluation=gpt5",), "Did you mean 'gpt4all'? (Stage evaluation of task_heads; nothing was started."),
        (("stages.evaluation.evaluation.tasks=[colla]",), "Did you mean 'cola'? (Stage evaluation of task_heads;"),
        (("stages.evaluation.scorer=[dph,vader]",), "vader is no part of the model and scores alone."),
        (("stages.evaluation.scorer=regex",), "scorer.pattern is missing"),
        (("stages.evaluation.against={evaluation}",), "unknown earlier stage 'evaluation'; heads exist."),
        (("stages.evaluation.evaluation=cost",), "reference.path is missing: the cost is that of a model against what it was."),
        (("stages.heads.evaluation=glue",), "measures a model that is there."),
    ],
)
def test_a_mistake_is_answered_before_anything_runs(only: Compose, argv: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError) as caught:
        only("pipeline=task_heads", *argv)
    assert words in str(caught.value)


def test_a_folder_that_is_not_there_is_answered_before_anything_runs() -> None:
    with pytest.raises(
        UserError, match=r"^evaluation\.path = 'nowhere'; there is no such file or folder .* \(Stage evaluation of task_heads;"
    ):
        checked("pipeline=task_heads", "stages.evaluation.evaluation.path=nowhere")


# The recipe of a paper


def test_the_papers_recipe_composes_for_its_own_kind_of_model_and_passes_all_checks() -> None:
    stages = {stage.name: stage.settings.run for stage in checked("pipeline=dph_paper", "model=gpt2", "model.path=builtin:tiny").stages}
    vocab, sft, dpo, dph = (stages[name] for name in ("vocab", "sft", "dpo", "dph"))
    assert [stage.loss.name for stage in (vocab, sft, dpo, dph)] == ["sft", "sft", "cdpo", "sep_dph"]
    assert [stage.model.train for stage in (vocab, sft, dpo, dph)] == ["embeddings", "all", "all", "all"]
    assert {stage.dataset.source for stage in (vocab, sft, dpo, dph)} == {"tasks"}
    assert {stage.dataset.max_length for stage in (vocab, sft, dpo, dph)} == {1024}, "GPT-2 has no more positions"
    assert (vocab.optimizer.lr, sft.optimizer.lr, vocab.batch.pairs, sft.batch.pairs) == (6e-5, 3e-5, 64, 128)
    # DPO differs from DPH in its objective alone, and that objective is DPH's joint term.
    assert (dpo.steps, dpo.batch, dpo.schedule, dpo.validation) == (dph.steps, dph.batch, dph.schedule, dph.validation)
    assert replace(dpo.optimizer, head_weight_decay=0.1) == dph.optimizer
    assert dpo.loss.options == {"beta": dph.loss.options["beta"], "epsilon": dph.loss.options["dpo_epsilon"]}
    assert dph.loss.options["dpo_weight"] == 1.0


def test_every_trained_model_of_the_paper_is_measured(only: Compose) -> None:
    stages = only("pipeline=dph_paper", "dataset.path=/data")
    for name in ("sft", "dpo", "dph"):
        measured = stages[f"{name}_measured"]
        assert measured.settings.run.model.path == f"@stage.{name}@/model"
        assert own(measured)[1].path == "/data"
    assert [stages[name].settings.run.model.path for name in ("sft", "dpo", "dph")] == [
        "@stage.vocab@/model", "@stage.sft@/model", "@stage.sft@/model",
    ]  # fmt: skip
