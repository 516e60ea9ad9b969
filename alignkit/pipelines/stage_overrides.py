"""The overrides of a pipeline's command line: which are the pipeline's own, which for all stages, which for one."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from alignkit.composition import EVALUATION, PIPELINE, Composer
from alignkit.configuration import run_fields
from alignkit.errors import UserError, did_you_mean
from alignkit.pipelines.chosen_options import choices
from alignkit.pipelines.files import PipelineFile
from alignkit.pipelines.placeholders import PLACE
from alignkit.pipelines.stage_file import StageFile
from alignkit.pipelines.stage_kinds import STAGE_KINDS

OWN = "stages."
"""Before a stage's name and an override for it alone: `stages.ppo.loss.kl_coefficient=0.05`."""


OF_ONE_STAGE = ("loss", EVALUATION)
"""Groups of which no two stages have the same option."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Typed:
    """The overrides of one job, apart."""

    pipeline: str
    arm: str
    """Of an experiment; empty where there is none."""
    changes: tuple[str, ...]
    """Those that set it apart from the other jobs of its sweep."""
    common: tuple[str, ...]
    values: Mapping[str, object]
    """Of the keys in `common` that have no dot: those that the pipeline may have of its own are among them."""
    own: Mapping[str, tuple[str, ...]]
    """By stage, without `stages.<stage>.`."""


def mark(line: str) -> str:
    """An override with a stand-in for `{sft}`, which Hydra would take for a mapping."""
    return re.sub(r"(?<!\$)\{([a-z]\w*)\}", r"@stage.\1@", line, flags=re.ASCII)


def unmark(line: str) -> str:
    """The override that `mark` was given."""
    return PLACE.sub(r"{\1}", line)


def apart(composer: Composer, lines: Sequence[str], changes: Sequence[str], arm: str = "") -> Typed:
    """The overrides of one job: which pipeline, for all stages, for single ones.

    Raises:
        UserError: when no pipeline is named, what follows `stages.` is no override of a stage, or all stages would get one loss.
    """
    pipeline, common = None, []
    own: dict[str, list[str]] = {}
    values: dict[str, object] = {}
    for line in lines:
        override = composer.parse(line)
        key = override.key_or_group
        if key == PIPELINE:
            pipeline = str(override.value())
        elif key.startswith(OWN) or key == OWN.rstrip("."):
            stage, rest = own_override(line)
            own.setdefault(stage, []).append(rest)
        else:
            common.append(line)
            if "." not in key and not override.is_delete():
                values[key] = override.value()
    for group in OF_ONE_STAGE:
        if option := choices(composer, common).get(group):
            raise UserError(f"{group} = {option!r}: would be the {group} of all stages. Type {OWN}STAGE.{group}={option} for one of them.")
    if pipeline is None:
        raise UserError("pipeline is missing: it names the stages. Type pipeline=rlhf; --help lists what there is.")
    stages = {stage: tuple(rest) for stage, rest in own.items()}
    return Typed(pipeline=pipeline, arm=arm, changes=tuple(changes), common=tuple(common), values=values, own=stages)


def own_override(line: str) -> tuple[str, str]:
    """The stage that `stages.ppo.loss.beta=0.1` is for, and what it is there: `loss.beta=0.1`.

    Raises:
        UserError: when it is for none, or nothing follows.
    """
    body = line.lstrip("+~")
    key = body.partition("=")[0]
    stage, dot, rest = key.removeprefix(OWN).partition(".")
    if not key.startswith(OWN) or not dot or not rest:
        raise UserError(f"{key}: say for which stage and what: {OWN}STAGE.KEY=VALUE, e.g. {OWN}ppo.loss.kl_coefficient=0.05.")
    return stage, line[: len(line) - len(body)] + body.removeprefix(f"{OWN}{stage}.")


def head_of(line: str) -> str:
    """The first part of the key of an override: `judge` of `+judge.path=x`."""
    return line.lstrip("+~").partition("=")[0].partition(".")[0]


def without_idle(jobs: Sequence[Typed], files: Mapping[str, PipelineFile]) -> list[Typed]:
    """Jobs without overrides for stages and keys that another pipeline of the sweep has and their own has not; one of those that are the
    same then.

    Raises:
        UserError: on a stage or a key that no pipeline has.
    """
    known = list(dict.fromkeys(name for job in jobs for name in names_of(files[job.pipeline].unrolled(kept_values(job, files)))))
    known += [name for file in files.values() for name in names_of(file.stages) if name not in known]
    keys = {name: {*file.keys, *keys_of_commands(file.stages)} for name, file in files.items()}
    kept: dict[tuple[str, ...], Typed] = {}
    for job in jobs:
        file, idle = files[job.pipeline], set[str]().union(*keys.values()) - keys[job.pipeline]
        names = names_of(file.unrolled(kept_values(job, files)))
        for stage in job.own:
            if stage not in known:
                raise UserError(
                    f"{OWN}{stage}: {'/'.join(files)} has no such stage.{did_you_mean(stage, known)} It has {', '.join(known)}."
                )
        check_near(job, file, keys[job.pipeline] | idle)
        own = {stage: lines for stage, lines in job.own.items() if stage in names}
        common = tuple(line for line in job.common if head_of(line) not in idle)
        changes = tuple(
            line for line in job.changes if (own_override(line)[0] in own if line.startswith(OWN) else head_of(line) not in idle)
        )
        key = (job.arm, job.pipeline, *common, *(f"{stage} {line}" for stage, lines in own.items() for line in lines))
        kept.setdefault(key, replace(job, own=own, changes=changes, common=common, values=kept_values(job, files)))
    return list(kept.values())


def kept_values(job: Typed, files: Mapping[str, PipelineFile]) -> dict[str, object]:
    """What was typed for the own keys of a job's pipeline."""
    return {key: value for key, value in job.values.items() if key in files[job.pipeline].keys}


def names_of(stages: Sequence[StageFile]) -> list[str]:
    """What stages are called on a command line: `dpo dpo_1 dpo_2` of rounds."""
    return list(dict.fromkeys(name for stage in stages for name in stage.names))


def keys_of_commands(stages: Sequence[StageFile]) -> frozenset[str]:
    """The keys that commands of stages have beside those of a run."""
    return frozenset[str]().union(*(STAGE_KINDS[stage.command].own_keys for stage in stages if stage.command in STAGE_KINDS))


def check_near(job: Typed, file: PipelineFile, known: Collection[str]) -> None:
    """Refuse a key that is nobody's and looks more like one of `known` than like one of a run, whose own checks answer the others.

    Raises:
        UserError: naming the key that was meant.
    """
    groups, scalars = run_fields()
    for head in map(head_of, job.common):
        near = did_you_mean(head, known)
        if head not in (*known, *groups, *scalars) and near and near == did_you_mean(head, [*known, *groups, *scalars]):
            own = f" {file.name} has {', '.join(file.keys)} of its own." if file.keys else ""
            raise UserError(f"{head}: no such key.{near}{own}")
