"""The overrides of a pipeline's command line: which are for all stages, which for one, and in which order a stage takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from alignkit.command_line import check_one
from alignkit.composition import EVALUATION, PIPELINE, Composer
from alignkit.configuration import packaged
from alignkit.errors import UserError, did_you_mean
from alignkit.pipelines.files import PipelineFile, StageFile
from alignkit.pipelines.stage_kinds import PLACE

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
    for group in OF_ONE_STAGE:
        if option := choices(composer, common).get(group):
            raise UserError(f"{group} = {option!r}: would be the {group} of all stages. Type {OWN}STAGE.{group}={option} for one of them.")
    if pipeline is None:
        raise UserError("pipeline is missing: it names the stages. Type pipeline=rlhf; --help lists what there is.")
    stages = {stage: tuple(rest) for stage, rest in own.items()}
    return Typed(pipeline=pipeline, arm=arm, changes=tuple(changes), common=tuple(common), own=stages)


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


def without_idle(jobs: Sequence[Typed], files: Mapping[str, PipelineFile]) -> list[Typed]:
    """Jobs without overrides for stages that another pipeline of the sweep has and their own has not; one of those that are the same then.

    Raises:
        UserError: on a stage that no pipeline has.
    """
    known = list(dict.fromkeys(stage for file in files.values() for stage in file.stage_names))
    kept: dict[tuple[str, ...], Typed] = {}
    for job in jobs:
        for stage in job.own:
            if stage not in known:
                raise UserError(
                    f"{OWN}{stage}: {'/'.join(files)} has no such stage.{did_you_mean(stage, known)} It has {', '.join(known)}."
                )
        own = {stage: lines for stage, lines in job.own.items() if stage in files[job.pipeline].stage_names}
        changes = tuple(line for line in job.changes if not line.startswith(OWN) or own_override(line)[0] in own)
        key = (job.arm, job.pipeline, *job.common, *(f"{stage} {line}" for stage, lines in own.items() for line in lines))
        kept.setdefault(key, replace(job, own=own, changes=changes))
    return list(kept.values())


def layers(composer: Composer, stage: StageFile, typed: Typed) -> list[str]:
    """Overrides of a stage, the ones that count most last: the file's, the user's for all stages, the wiring, the user's for this one.

    Where one of them chooses an option of a group, keys of another option give way: `stages.ppo.scorer=vader` has no use for the wiring's
    path of a reward model, `stages.dpo.loss=sft` none for the file's `loss.beta`, and `dataset=local` of a wiring none for keys of the data
    set that all stages begin with.

    Raises:
        UserError: where a file or an override for a stage sets what the pipeline itself decides.
    """
    options, wiring = ([mark(line) for line in lines] for lines in (stage.options, stage.wiring))
    own = typed.own.get(stage.name, ())
    for override in map(composer.parse, [*options, *wiring, *own]):
        check_one(override)
        if override.key_or_group == "run_dir" or override.is_hydra_override():
            raise UserError(f"{override.key_or_group}: cannot be set for one stage; each runs in a directory inside the pipeline's.")
    wired, chosen = choices(composer, wiring), choices(composer, own)
    wiring = [line for line in wiring if all(wired.get(group) == chosen[group] for group in chosen if inner_key(composer, line, group))]
    options = [line for line in options if all(fits(composer, line, group, chosen[group]) for group in chosen)]
    given = [line for line in (*options, *typed.common) if all(fits(composer, line, group, wired[group]) for group in wired)]
    return [*given, *wiring, *own]


def choices(composer: Composer, lines: Sequence[str]) -> dict[str, str]:
    """The options that overrides choose, by group."""
    overrides = [override for override in map(composer.parse, lines) if not override.is_delete() and override.package is None]
    return {
        override.key_or_group: str(override.value())
        for override in overrides
        if not override.is_sweep_override() and composer.is_choice(override)
    }


def inner_key(composer: Composer, line: str, group: str) -> str:
    """The key of a group that an override sets, `beta` for `loss.beta=0.1`; empty for one that sets none."""
    head, _, key = composer.parse(line).key_or_group.partition(".")
    return key.partition(".")[0] if head == group else ""


def fits(composer: Composer, line: str, group: str, option: str) -> bool:
    """Whether an option of a group has the key that an override sets there, if it sets one there."""
    key, options = inner_key(composer, line, group), packaged(group)
    # An option that is another name for one has that one's keys.
    names = (option, *map(str, options.get(option, {}).get("defaults", ())))
    return not key or any(key in options.get(name, (key,)) for name in names)
