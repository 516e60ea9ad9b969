"""Experiments: what a file means in each size, what typing changes, and mistakes in one message before anything runs."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignkit.command_line import precheck, read_flags
from alignkit.composition import Composer, composing
from alignkit.configuration import conf_dir
from alignkit.errors import UserError
from alignkit.pipelines.experiment import Experiment, experiment_files, read_experiment, take_workers, unfold
from alignkit.pipelines.stage_overrides import without_idle
from alignkit.pipelines.stages import PipelineCommand, StageReader, files_of, read_command

MINE = """\
# Mine.
question: Does it?
common: ["seed=0,1", steps=50, logger=jsonl]
pipelines:
  direct: {policy: {options: [steps=60]}}
arms:
  ipo: [pipeline=direct, stages.policy.loss=ipo, "stages.policy.loss.beta=0.1,0.5"]
  dpo: [pipeline=dpo, steps=70]
sizes:
  small: {overrides: [steps=20, seed=0], arms: {ipo: [stages.policy.loss.beta=0.3], }}
answer: comparison
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A `--config-dir` with the experiment `mine`."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(MINE)
    return tmp_path


def typed(*overrides: str, config_dir: Path | None = None) -> Namespace:
    return Namespace(overrides=list(overrides), config_dir=config_dir and str(config_dir), multirun=False)


def command(own: Path, *overrides: str) -> PipelineCommand:
    return read_command(*unfold(read_flags(["-cd", str(own), "experiment=mine", *overrides])))


def asked(own: Path, *overrides: str) -> Experiment:
    experiment = unfold(typed("experiment=mine", *overrides, config_dir=own))[1]
    assert experiment is not None
    return experiment


def test_later_overrides_replace_earlier_ones_of_the_same_key(own: Path) -> None:
    full, small = asked(own), asked(own, "size=small")
    assert (full.question, full.size, small.size) == ("Does it?", "full", "small")
    direct = ("pipeline=direct", "stages.policy.loss=ipo")
    assert full.arms["ipo"] == ("seed=0,1", "steps=50", "logger=jsonl", *direct, "stages.policy.loss.beta=0.1,0.5")
    assert full.arms["dpo"] == ("seed=0,1", "logger=jsonl", "pipeline=dpo", "steps=70")
    assert dict(small.arms) == {"ipo": ("logger=jsonl", *direct, "steps=20", "seed=0", "stages.policy.loss.beta=0.3")}
    assert small.under(["+seed=7", "model=gpt2"])["ipo"][-3:] == ["stages.policy.loss.beta=0.3", "+seed=7", "model=gpt2"]


def test_jobs_are_the_arms_in_order_and_a_pipeline_of_its_own_may_have_one_stage(own: Path) -> None:
    jobs = command(own).pipelines
    assert [(job.arm, job.changes) for job in jobs] == [
        ("ipo", ("seed=0", "stages.policy.loss.beta=0.1")),
        ("ipo", ("seed=0", "stages.policy.loss.beta=0.5")),
        ("ipo", ("seed=1", "stages.policy.loss.beta=0.1")),
        ("ipo", ("seed=1", "stages.policy.loss.beta=0.5")),
        ("dpo", ("seed=0",)),
        ("dpo", ("seed=1",)),
    ]
    (policy,) = jobs[1].stages
    assert (policy.name, policy.settings.run.loss.name, policy.settings.run.loss.options["beta"]) == ("policy", "ipo", 0.5)
    assert policy.settings.run.steps == 50  # what is for all stages counts more than a stage's own options
    assert [stage.name for stage in jobs[4].stages] == ["sft", "dpo"]


def test_what_is_typed_counts_most(own: Path) -> None:
    jobs = command(own, "size=small", "seed=5,6", "stages.policy.loss.beta=0.7").pipelines
    assert [(job.changes, job.stages[0].settings.run.loss.options["beta"]) for job in jobs] == [(("seed=5",), 0.7), (("seed=6",), 0.7)]


def test_mistakes_name_the_arm(own: Path) -> None:
    with pytest.raises(UserError, match=r"loss\.beta = -1.*Job 1 of 4: ipo seed=0; none was started"):
        command(own, "stages.policy.loss.beta=-1")


@pytest.mark.parametrize("overrides", [["pipeline=dpo"], ["pipeline=dpo", "experiment=loss_grid"]])
def test_other_commands_stay_as_they_are(overrides: list[str]) -> None:
    flags = typed(*overrides)
    assert unfold(flags) == (flags, None)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("question: Does it?", "question: [1]", "must be a sentence"),
        ("question: Does it?", "question: a\nquestoin: b", r"questoin: no such key\. Did you mean 'question'"),
        ("[pipeline=dpo, steps=70]", "pipeline=dpo", "must be a list of overrides"),
        ("{ipo: [stages.policy.loss.beta=0.3], }", "{ip: }", r"sizes\.small\.arms.*Did you mean 'ipo'"),
        ("overrides: [steps=20, seed=0]", "override: []", "override: no such key"),
        ("answer: comparison", "answer: cost", r"nothing answers it\. Write alignkit/analysis/answers/cost\.py, or `answer: comparison`"),
        ("{policy: {options: [steps=60]}}", "{}", "must have a stage or more"),
        ("{policy: {options: [steps=60]}}", "{policy: {option: []}}", "option: no such key"),
        ("arms:", "rest:", "rest: no such key"),
        ("question: Does it?", "question: [", "is no YAML"),
    ],
)
def test_a_file_that_is_none_is_refused(before: str, after: str, message: str, own: Path) -> None:
    file = own / "experiment" / "mine.yaml"
    assert before in MINE
    file.write_text(MINE.replace(before, after))
    with pytest.raises(UserError, match=message):
        read_experiment(file, "small")


def test_a_size_that_there_is_not_is_refused(own: Path) -> None:
    with pytest.raises(UserError, match=r"size.*'smal'.*Did you mean 'small'"):
        asked(own, "size=smal")
    with pytest.raises(UserError, match=r"size=small: only experiments have sizes"):
        unfold(typed("pipeline=dpo", "size=small"))


def test_workers_are_a_whole_number_of_one_or_more() -> None:
    flags, workers = take_workers(typed("a=1", "workers=3", "b=2"))
    assert (flags.overrides, workers) == (["a=1", "b=2"], 3)
    assert take_workers(typed("a=1"))[1] == 1
    for wrong in ("0", "-1", "two", "1.5", ""):
        with pytest.raises(UserError, match="must be a whole number, 1 or more"):
            take_workers(typed(f"workers={wrong}"))


def test_training_says_what_to_type_for_an_experiment_of_a_users_own(own: Path) -> None:
    with pytest.raises(UserError, match=r"python -m alignkit\.pipeline experiment=mine"):
        precheck(["-cd", str(own), "experiment=mine"])


PACKAGED = experiment_files(None)


@pytest.fixture(scope="module")
def reader() -> Iterator[StageReader]:
    """Calls share a reading of the files."""
    with composing(None) as hydra:
        yield StageReader(Composer(hydra), None)


@pytest.mark.parametrize("size", ["full", "small"])
@pytest.mark.parametrize("name", PACKAGED)
def test_every_packaged_experiment_has_both_sizes_three_seeds_and_an_answer(name: str, size: str, reader: StageReader) -> None:
    experiment = read_experiment(PACKAGED[name], size)
    assert experiment.answer == name
    assert experiment.question.endswith("?")
    for lines in experiment.arms.values():
        (seeds,) = [line.partition("=")[2] for line in lines if line.startswith("seed=")]
        assert len(seeds.split(",")) >= 3
    typed = [job for arm, lines in experiment.arms.items() for job in reader.split(lines, multirun=True, arm=arm)]
    files = files_of({job.pipeline for job in typed}, experiment, None)
    last = {(job.arm, job.pipeline): job for job in without_idle(typed, files)}  # the others differ in values
    for job in last.values():
        stages = reader.compose(job, files[job.pipeline], "runs/x")
        assert [stage.name for stage in stages] == list(files[job.pipeline].stage_names)
        for stage in stages:
            stage.kind.check_values(stage.settings)


def test_the_files_lie_where_others_look_for_them() -> None:
    assert all(file.parent == conf_dir() / "experiment" for file in PACKAGED.values())
