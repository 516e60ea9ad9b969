"""Repeated stages of pipeline files, the keys that a pipeline has of its own, and what a command line makes of both."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from alignkit.composition import Composer, composing
from alignkit.errors import UserError
from alignkit.pipelines.files import read_pipeline
from alignkit.pipelines.stage_file import Stop
from alignkit.pipelines.stage_overrides import without_idle
from alignkit.pipelines.stages import Stage, StageReader

Compose: TypeAlias = Callable[..., dict[str, Stage]]

MINE = """\
name: mine
stages:
  sft: {options: [loss=sft, steps=40]}
  start: {options: [loss=dpo], from: ["model.path={sft}/model"]}
  rounds:
    repeat: 2
    begin: start
    policy: dpo
    seed_step: 100
    stages:
      samples:
        command: generate
        options: [rank_by=vader, keep=pairs]
        from: ["model.path={previous}/model", "prompts='dataset:train'"]
      dpo:
        options: [loss=dpo]
        from: ["model.path={previous}/model", dataset=local, "dataset.path={samples}/kept.jsonl", "dataset.columns={}"]
      win:
        command: evaluate
        options: [evaluation=win_rate, scorer=vader]
        from: ["model.path={dpo}/model", "reference.path={previous}/model"]
    stop: {after: win, result: win_rate, at_most: 0.5}
choices:
  anchor:
    moved: {}
    fixed: {dpo: ["reference.path={start}/model"]}
  scorer:
    vader: {win: []}
    head: {win: ["scorer.path={start}"]}
"""
PLAIN = MINE.replace("    stop: {after: win, result: win_rate, at_most: 0.5}\n", "")
AFTER = PLAIN.replace("choices:", "  last: {options: [loss=sft], from: ['model.path={dpo}/model']}\nchoices:")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A `--config-dir` with the pipeline `mine`."""
    return written(tmp_path, MINE)


def written(folder: Path, text: str, name: str = "mine") -> Path:
    (folder / "pipeline").mkdir(exist_ok=True)
    (folder / "pipeline" / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    """One for all tests: readings of files are shared."""
    with composing(None) as hydra:
        yield Composer(hydra)


@pytest.fixture(scope="module")
def reader(composer: Composer) -> StageReader:
    """One for all tests too: stages that are the same are composed once."""
    return StageReader(composer, None)


def composed(reader: StageReader, folder: Path, *argv: str, name: str = "mine") -> dict[str, Stage]:
    """The stages of one pipeline, without the checks of what is on the machine."""
    typed = reader.split([f"pipeline={name}", *argv], multirun=False)
    files = {name: read_pipeline(name, str(folder))}
    (job,) = without_idle(typed, files)
    return {stage.name: stage for stage in reader.compose(job, files[name], "runs/x")}


@pytest.fixture
def only(reader: StageReader, own: Path) -> Compose:
    """The same of `mine`."""
    return functools.partial(composed, reader, own)


def paths(stage: Stage) -> tuple[str | None, str | None, str | None]:
    run = stage.settings.run
    return run.model.path, run.dataset.path, run.reference.path


# Rounds


def test_rounds_follow_each_other_and_each_goes_on_from_the_one_before(only: Compose) -> None:
    stages = only()
    assert list(stages) == ["sft", "start", "samples_1", "dpo_1", "win_1", "samples_2", "dpo_2", "win_2"]
    assert paths(stages["samples_1"])[0] == "@stage.start@/model"
    assert paths(stages["dpo_1"])[:2] == ("@stage.start@/model", "@stage.samples_1@/kept.jsonl")
    assert paths(stages["dpo_2"])[:2] == ("@stage.dpo_1@/model", "@stage.samples_2@/kept.jsonl")
    assert [paths(stages["win_2"])[place] for place in (0, 2)] == ["@stage.dpo_2@/model", "@stage.dpo_1@/model"]
    assert "model.path={dpo_1}/model" in stages["dpo_2"].overrides


def test_the_number_of_rounds_is_typed_and_does_not_change_the_first_ones(only: Compose) -> None:
    two, three = only(), only("rounds=3")
    assert set(three) - set(two) == {"samples_3", "dpo_3", "win_3"}
    assert paths(three["dpo_3"])[0] == "@stage.dpo_2@/model"
    assert {name: stage.identity for name, stage in two.items()}.items() <= {name: stage.identity for name, stage in three.items()}.items()
    assert list(only("rounds=1"))[-1] == "win_1"


def test_what_is_typed_for_a_kind_of_stage_is_for_all_rounds_and_what_is_for_one_counts_more(only: Compose) -> None:
    stages = only("rounds=3", "stages.dpo_2.loss.beta=0.3", "stages.dpo.loss.beta=0.2", "stages.dpo_3.loss=sft")
    assert [stages[name].settings.run.loss.options.get("beta") for name in ("start", "dpo_1", "dpo_2", "dpo_3")] == [0.1, 0.2, 0.3, None]


def test_a_typed_previous_is_that_of_the_round(only: Compose) -> None:
    stages = only("stages.dpo.reference.path={previous}/model")
    assert [paths(stages[name])[2] for name in ("dpo_1", "dpo_2")] == ["@stage.start@/model", "@stage.dpo_1@/model"]


def test_each_round_draws_other_numbers_unless_its_own_seed_is_typed(only: Compose) -> None:
    def seeds(*argv: str) -> list[int]:
        return [stage.settings.run.seed for stage in only("rounds=3", *argv).values()]

    assert seeds() == [0, 0, 0, 0, 0, 100, 100, 100, 200, 200, 200]
    assert seeds("seed=7", "stages.dpo.seed=9", "stages.dpo_2.seed=1") == [7, 7, 7, 9, 7, 107, 1, 107, 207, 209, 207]


def test_a_stage_after_rounds_reads_the_last_one(reader: StageReader, tmp_path: Path) -> None:
    written(tmp_path, AFTER)
    for rounds in (1, 3):
        last = list(composed(reader, tmp_path, f"rounds={rounds}").values())[-1]
        assert (last.name, last.settings.run.model.path) == ("last", f"@stage.dpo_{rounds}@/model")


def test_a_stop_is_typed_as_a_number_or_never_and_leaves_stages_the_same(only: Compose) -> None:
    def stops(*argv: str) -> list[Stop | None]:
        return [stage.stop for name, stage in only(*argv).items() if name.startswith("win")]

    assert stops() == [Stop(result="win_rate", at_most=0.5)] * 2
    assert stops("stop=0.55") == [Stop(result="win_rate", at_most=0.55)] * 2
    assert stops("stop=never") == [None, None]
    assert [stage.stop for name, stage in only().items() if not name.startswith("win")] == [None] * 6
    assert [stage.identity for stage in only("stop=never").values()] == [stage.identity for stage in only().values()]


def test_a_result_that_is_missing_or_no_number_ends_nothing() -> None:
    stop = Stop(result="win_rate", at_most=0.5)
    ended = {value: stop.holds({"win_rate": value}) for value in (0.4, 0.5, 0.51, float("nan"), None, "0.1")}
    assert list(ended.values()) == [True, True, False, False, False, False]
    assert not stop.holds({})


# Choices


def test_a_choice_gives_stages_what_its_option_lists(only: Compose) -> None:
    assert [paths(stage)[2] for name, stage in only().items() if name.startswith("dpo")] == [None, None]
    assert only("anchor=moved")["dpo_2"].identity == only()["dpo_2"].identity
    fixed = only("anchor=fixed")
    assert [paths(stage)[2] for name, stage in fixed.items() if name.startswith("dpo")] == ["@stage.start@/model"] * 2
    assert fixed["start"].identity == only()["start"].identity


def test_a_choice_gives_way_to_what_is_typed(only: Compose) -> None:
    assert paths(only("anchor=fixed", "stages.dpo_1.reference.path=builtin:tiny")["dpo_1"])[2] == "builtin:tiny"
    assert (
        only("scorer=head", "scorer.path=/mine", "stages.samples.rank_by=null", "stages.samples.keep=all")[
            "win_1"
        ].settings.run.scorer.options["path"]
        == "/mine"
    )


def test_a_choice_that_is_a_group_brings_its_list_along_for_all_stages_or_one(only: Compose) -> None:
    without = ("stages.samples.rank_by=null", "stages.samples.keep=all")
    for argv, expected in (
        ((), ["vader", "vader"]),
        (("stages.win.scorer=head",), ["head", "head"]),
        (("stages.win_2.scorer=head",), ["vader", "head"]),
        (("scorer=length", "stages.win_2.scorer=head"), ["length", "head"]),
        (("stages.win.scorer=length",), ["length", "length"]),
    ):
        scorers = [only(*without, *argv)[name].settings.run.scorer for name in ("win_1", "win_2")]
        assert [scorer.name for scorer in scorers] == expected
        assert all(scorer.options["path"] == "@stage.start@" for scorer in scorers if scorer.name == "head")


# Keys that only some commands have


def test_what_only_some_commands_have_reaches_their_stages_alone(only: Compose) -> None:
    stages = only("samples=6", "max_tokens=9", "keep=rso", "count=3")
    assert [stages[name].settings.run.rollout.samples for name in ("samples_1", "dpo_1")] == [6, 4]
    assert [stages[name].settings.run.rollout.max_tokens for name in ("samples_2", "win_2", "dpo_2")] == [9, 9, 48]
    assert (stages["samples_1"].settings.own.keep, stages["samples_1"].settings.own.count) == ("rso", 3)
    assert stages["sft"].identity == only()["sft"].identity


@pytest.mark.parametrize("multirun", [False, True])
def test_what_follows_the_seed_is_the_same_in_all_rounds(reader: StageReader, own: Path, multirun: bool) -> None:
    (typed,) = reader.split(["pipeline=mine", "seed=3", "dataset=reviews", "dataset.world_seed=${seed}"], multirun=multirun)
    stages = {stage.name: stage.settings.run for stage in reader.compose(typed, read_pipeline("mine", str(own)), "runs/x")}
    runs = [stages[name] for name in ("sft", "samples_1", "samples_2", "win_2")]
    assert [(run.seed, run.dataset.options["world_seed"]) for run in runs] == [(3, 3), (3, 3), (103, 3), (103, 3)]


WIRED = """\
name: wired
stages:
  start: {options: [loss=con_dph]}
  labels: {command: label, options: [judge=head], from: ["model.path={start}/model", "judge.path={start}"]}
"""


@pytest.mark.parametrize("argv", [["judge=gold"], ["stages.labels.judge=gold"]])
def test_wiring_of_a_judge_gives_way_to_one_that_has_no_such_key(reader: StageReader, tmp_path: Path, argv: list[str]) -> None:
    written(tmp_path, WIRED, "wired")

    def judge(*typed: str) -> dict[str, object]:
        options: dict[str, object] = composed(reader, tmp_path, *typed, name="wired")["labels"].settings.own.judge.options
        return options

    assert judge()["path"] == "@stage.start@"
    assert judge(*argv) == {"scorer": "vader"}
    assert judge("judge=self")["path"] == "@stage.start@"
    with pytest.raises(UserError, match=r"judge\.pth: .*no such key|has no option 'pth'"):  # what nobody has is a mistake
        judge("judge.pth=x")


def test_keys_of_another_pipeline_of_a_sweep_are_left_out_where_nobody_has_them(reader: StageReader, own: Path) -> None:
    typed = reader.split(["pipeline=dpo,mine", "rounds=1,2", "samples=3", "stages.dpo.steps=5", "stages.dpo_2.steps=6"], multirun=True)
    files = {name: read_pipeline(name, str(own)) for name in ("dpo", "mine")}
    jobs = without_idle(typed, files)
    assert [(job.pipeline, job.changes, len(job.common)) for job in jobs] == [
        ("dpo", ("pipeline=dpo",), 0),
        ("mine", ("pipeline=mine", "rounds=1"), 2),
        ("mine", ("pipeline=mine", "rounds=2"), 2),
    ]
    assert [list(job.own) for job in jobs] == [["dpo"], ["dpo"], ["dpo", "dpo_2"]]
    assert [len(files[job.pipeline].unrolled(job.values)) for job in jobs] == [2, 5, 8]


# Mistakes


@pytest.mark.parametrize(
    ("argv", "answer"),
    [
        (("rounds=0",), "rounds = 0; must be a whole number, 1 to 99"),
        (("rounds=many",), "rounds = 'many'; must be a whole number"),
        (("stop=sometimes",), "stop = 'sometimes'; must be never, or the win_rate at which rounds end. Try stop=0.5."),
        (("anchor=fixd",), "anchor = 'fixd'; must be one of moved, fixed. Did you mean 'fixed'?"),
        (("round=3",), "round: no such key. Did you mean 'rounds'? mine has rounds, stop, anchor, scorer of its own."),
        (("smaples=3",), "smaples: no such key. Did you mean 'samples'?"),
        (("sead=3",), "sead: no such key. Did you mean 'seed'?"),
        (("stages.dpo_3.seed=1",), "stages.dpo_3: mine has no such stage. Did you mean 'dpo_2'?"),
        (("stages.rounds.seed=1",), "stages.rounds: mine has no such stage."),
        (("model.path={previous}/model",), "unknown earlier stage 'previous'"),
        (("stages.win.evaluation=gpt4all", "stages.win.scorer=logp_sum"), "rounds would end by 'win_rate', and what win_1 measures is"),
        (("rounds=1,2",), "several values are a sweep: add -m"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_answered_with_what_to_type(only: Compose, argv: tuple[str, ...], answer: str) -> None:
    with pytest.raises(UserError) as caught:
        only(*argv)
    assert answer in str(caught.value)


def test_a_pipeline_without_rounds_has_no_such_key(reader: StageReader, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rounds: no such key"):
        composed(reader, tmp_path, "rounds=2", name="dpo")


@pytest.mark.parametrize(
    ("before", "after", "answer"),
    [
        ("repeat: 2", "repeat: two", "repeat = 'two'; must be a whole number, 1 to 99"),
        ("repeat: 2", "repeat: 100", "repeat = 100; must be a whole number"),
        ("seed_step: 100", "seed_step: -1", "seed_step = -1; must be a whole number"),
        ("begin: start", "begin: strat", "Did you mean 'start'?"),
        ("begin: start", "begin: dpo", "unknown stage ("),
        ("    policy: dpo\n", "", "policy is missing: {previous} is stage `begin` in round 1"),
        ("policy: dpo", "policy: start", "unknown stage ("),
        ("policy: dpo", "plicy: dpo", "plicy: no such key. Did you mean 'policy'?"),
        ("after: win", "after: start", "unknown stage ("),
        ("at_most: 0.5", "at_least: 0.5", "must hold after, result, at_most"),
        ("at_most: 0.5", "at_most: never", "at_most = 'never'; must be a number"),
        ("result: win_rate", "result: accuracy", "rounds would end by 'accuracy'"),
        ("  sft: {", "  dpo: {", "two stages are called 'dpo'"),
        ("  sft: {", "  dpo_2: {", "dpo_2: a round has a stage of that name"),
        ("  sft: {", "  previous: {", "previous: a round has a stage of that name, or stands for one"),
        ("  rounds:\n", "  seed:\n", "'seed' would be a key of the pipeline, and is another one already"),
        ("  rounds:\n", "  anchor:\n", "'anchor' would be a key of the pipeline"),
        ("  anchor:\n", "  steps:\n", "'steps' would be a key of the pipeline"),
        ("  anchor:\n", "  Anchor:\n", "must be lower-case letters"),
        ("fixed: {dpo:", "fixed: {dop:", "Did you mean 'dpo'?"),
        ("fixed: {dpo:", "fixed: {dpo_1:", "Did you mean 'dpo'?"),
        ('fixed: {dpo: ["reference.path={start}/model"]}', "fixed: [a]", "must hold lists of overrides by stage"),
        ('["reference.path={start}/model"]', "steps=3", "must be a list of overrides"),
        ('["reference.path={start}/model"]', "[run_dir=x]", "run_dir is for the command line alone"),
        ("choices:\n", "choices: []\nextra:\n", "extra: no such key"),
        ("model.path={previous}/model", "model.path={nobody}/model", "unknown earlier stage 'nobody'"),
        ("model.path={previous}/model", "model.path={win}/model", "unknown earlier stage 'win_1'"),
    ],
)
def test_a_file_that_is_wrong_is_refused(reader: StageReader, tmp_path: Path, before: str, after: str, answer: str) -> None:
    assert before in MINE
    with pytest.raises(UserError) as caught:
        composed(reader, written(tmp_path, MINE.replace(before, after, 1)))
    assert answer in str(caught.value)


def test_rounds_that_may_end_early_come_last(tmp_path: Path) -> None:
    text = MINE.replace("choices:", "  last: {from: ['model.path={dpo}/model']}\nchoices:")
    with pytest.raises(UserError, match=r"stages\.rounds\.stop: rounds that may end early must come last"):
        read_pipeline("mine", str(written(tmp_path, text)))
