"""Experiments: `conf/experiment/frontier.yaml` is a question, a sweep over pipelines, and an answer in a table, a figure and sentences.

To add one, write two files.

`conf/experiment/NAME.yaml`, data alone:

    # One line for --help.
    question: Does it?                       # one sentence, which is printed, kept and answered
    common: [model=tiny, "seed=0,1,2"]       # overrides of every job; YAML wants quotes around commas, or a line for each
    pipelines:                               # optional: pipelines of its own, written like `stages` of conf/pipeline/dpo.yaml
      policy: {sft: {options: [loss=sft]}, policy: {from: ["model.path={sft}/model"]}}
    arms:                                    # each is a sweep over pipelines, as `alignkit.pipeline -m` reads it
      dpo: [pipeline=policy, stages.policy.loss=dpo, "stages.policy.loss.beta=0.1,0.5"]
      ppo: [pipeline=rlhf, "stages.ppo.loss.kl_coefficient=0.05,0.2"]
    sizes:                                   # `full` is what stands above; others change it
      small: {overrides: [dataset.validation_examples=32], arms: {dpo: [stages.policy.loss.beta=0.1], ppo: []}}

A size runs its `arms` alone, all where it names none, with its own overrides of each; its `overrides` are for all of them. Later ones
replace earlier ones of the same key: common, the arm, the size's for all, the size's for the arm, and what is typed.

`alignkit/analysis/answers/NAME.py`: one public function `answer(runs: Runs) -> Answer`; `alignkit.analysis.answer.stages(runs)` says
which run was which stage of which arm.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import yaml

from alignkit.composition import EXPERIMENT, PIPELINE, QUESTION
from alignkit.config_checks import check_keys, check_line, check_name
from alignkit.configuration import LABEL, conf_dir
from alignkit.errors import UserError
from alignkit.pipelines.files import PipelineFile, pipeline_of

KEYS = (QUESTION, "common", "pipelines", "arms", "sizes", "answer")
SIZE = "size"
FULL = "full"
WORKERS = "workers"
RECORD = "experiment.json"
ANSWERS = "alignkit.analysis.answers"
OWN_ARM = "arms"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """A question and the sweep that answers it, in one of its sizes."""

    name: str
    question: str
    size: str
    arms: Mapping[str, tuple[str, ...]]
    """By name the overrides, each key once, which give way to what is typed."""
    pipelines: Mapping[str, PipelineFile]
    """Of its own, by name."""
    every_pipeline: tuple[str, ...]
    """Names of those of all arms, also of such as this size leaves out: overrides may be for their stages."""
    answer: str
    """The module of `alignkit.analysis.answers` that answers it."""

    def under(self, typed: Sequence[str]) -> dict[str, list[str]]:
        """The overrides of each arm together with what was typed, which counts more."""
        return {arm: merged(lines, typed) for arm, lines in self.arms.items()}


def experiment_files(config_dir: str | None) -> dict[str, Path]:
    """The files by name; those of a `--config-dir` come before packaged ones of the same name."""
    folders = [conf_dir(), *([Path(config_dir)] if config_dir is not None else [])]
    files = {file.stem: file for folder in folders for file in sorted((folder / EXPERIMENT).glob("*.yaml"))}
    return {name: file for name, file in files.items() if QUESTION in (read_yaml(file) or {})}


def read_yaml(file: Path) -> Any:
    """What a file holds.

    Raises:
        UserError: when it is no YAML.
    """
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except yaml.YAMLError as error:
        raise UserError(f"{file}: is no YAML ({' '.join(str(error).split())}).") from None


def unfold(flags: Namespace) -> tuple[Namespace, Experiment | None]:
    """What was typed, without the choice of an experiment and its size, and that experiment; None where none of pipelines was chosen.

    Raises:
        UserError: for a size where there is no experiment that has sizes, and on a file that is none.
    """
    known = experiment_files(flags.config_dir)
    chosen, sizes = (last_value(flags.overrides, key) for key in (EXPERIMENT, SIZE))
    if chosen not in known:
        if chosen is not None and last_value(flags.overrides, PIPELINE) is None:
            check_name("experiment of pipelines", chosen, known)
        if sizes is not None:
            raise UserError(f"size={sizes}: only experiments have sizes. Type experiment=NAME; there is {', '.join(sorted(known))}.")
        return flags, None
    typed = [line for line in flags.overrides if key_of(line) not in (EXPERIMENT, SIZE)]
    return Namespace(**{**vars(flags), "overrides": typed}), read_experiment(known[chosen], sizes or FULL)


def read_experiment(file: Path, size: str = FULL) -> Experiment:
    """One such file, in one of its sizes.

    Raises:
        UserError: when it holds something else, or has no such size.
    """
    given = read_yaml(file)
    check_keys(str(file), given, KEYS)
    if not isinstance(given[QUESTION], str):
        raise UserError(f"{file}: question = {given[QUESTION]!r}; must be a sentence.")
    sizes = mapping(f"{file}: sizes", given.get("sizes"))
    check_name(SIZE, size, {FULL, *sizes})
    changes = mapping(f"{file}: sizes.{size}", sizes.get(size))
    check_keys(f"{file}: sizes.{size}", changes, ("overrides", OWN_ARM))
    arms = {str(arm): lines_of(f"{file}: arms.{arm}", own) for arm, own in mapping(f"{file}: arms", given.get(OWN_ARM)).items()}
    if not arms:
        raise UserError(f"{file}: arms is missing: it holds the sweeps by name, e.g. {{dpo: ['pipeline=dpo', 'seed=0,1,2']}}.")
    common, overrides = lines_of(f"{file}: common", given.get("common")), lines_of(f"{file}: sizes.{size}", changes.get("overrides"))
    for arm in arms:
        if not LABEL.fullmatch(arm):
            raise UserError(f"{file}: arms.{arm}: becomes part of directories; must be letters, digits, '.', '_', '+' or '-', at most 100.")
    own = mapping(f"{file}: sizes.{size}.arms", changes.get(OWN_ARM)) or dict.fromkeys(arms)
    lines = {}
    for arm, own_lines in own.items():
        check_name(f"sizes.{size}.arms", str(arm), arms)
        layers = (arms[arm], overrides, lines_of(f"{file}: sizes.{size}.arms.{arm}", own_lines))
        lines[str(arm)] = functools.reduce(merged, layers, common)
    pipelines = mapping(f"{file}: pipelines", given.get("pipelines"))
    answer = str(given.get("answer", file.stem))
    if not answer.isidentifier() or importlib.util.find_spec(f"{ANSWERS}.{answer}") is None:
        raise UserError(f"{file}: nothing answers it. Write alignkit/analysis/answers/{answer}.py, or `answer: comparison`.")
    return Experiment(
        name=file.stem,
        question=given[QUESTION].strip(),
        size=size,
        arms={arm: tuple(of_arm) for arm, of_arm in lines.items()},
        pipelines={name: pipeline_of(f"{file}: pipelines.{name}", name, stages) for name, stages in pipelines.items()},
        every_pipeline=tuple(dict.fromkeys(name for of_arm in [common, *arms.values()] for name in pipelines_in(of_arm))),
        answer=answer,
    )


def keep(experiment: Experiment, folder: Path) -> None:
    """`experiment.json`: what was asked, for those who find the directory."""
    told = {"experiment": experiment.name, "question": experiment.question, "size": experiment.size, "arms": list(experiment.arms)}
    (folder / RECORD).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def take_workers(flags: Namespace) -> tuple[Namespace, int]:
    """What was typed, without `workers=`, and how many stages are to run at a time.

    Raises:
        UserError: when that is no whole number of 1 or more.
    """
    typed = last_value(flags.overrides, WORKERS)
    if typed is None:
        return flags, 1
    if not typed.isascii() or not typed.isdecimal() or int(typed) < 1:
        raise UserError(f"workers = {typed!r}; must be a whole number, 1 or more: stages that run at a time. Try the number of cores.")
    return Namespace(**{**vars(flags), "overrides": [line for line in flags.overrides if key_of(line) != WORKERS]}), int(typed)


def merged(earlier: Sequence[str], later: Sequence[str]) -> list[str]:
    """Overrides of which the later ones replace those of the same key."""
    keys = {key_of(line) for line in later}
    return [*(line for line in earlier if key_of(line) not in keys), *later]


def key_of(line: str) -> str:
    """What an override sets: `loss.beta` of `+loss.beta=0.1`."""
    return line.lstrip("+~").partition("=")[0]


def pipelines_in(lines: Sequence[str]) -> list[str]:
    """Names of the pipelines that overrides choose."""
    return [name for line in lines if key_of(line) == PIPELINE for name in line.partition("=")[2].split(",")]


def last_value(lines: Sequence[str], key: str) -> str | None:
    """What the last override of a key says; None where there is none."""
    return next((line.partition("=")[2] for line in reversed(lines) if key_of(line) == key), None)


def mapping(where: str, given: Any) -> Mapping[str, Any]:
    """A node that holds others by name; an empty one where nothing is given.

    Raises:
        UserError: when it is something else.
    """
    if given is not None and not isinstance(given, Mapping):
        raise UserError(f"{where} = {given!r}; must hold names with what they stand for.")
    return given or {}


def lines_of(where: str, given: Any) -> list[str]:
    """A list of overrides; none where nothing is given.

    Raises:
        UserError: when it is something else.
    """
    lines = given or []
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise UserError(f"{where} = {given!r}; must be a list of overrides, e.g. ['pipeline=rlhf,dpo', 'seed=0,1,2'].")
    for line in lines:
        check_line(where, line)
    return lines
