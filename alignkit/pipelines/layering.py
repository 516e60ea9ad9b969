"""In which order a stage of a pipeline takes its overrides, and which of them it leaves to other stages."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from alignkit.command_line import check_one
from alignkit.composition import Composer
from alignkit.errors import UserError, check_choice
from alignkit.pipelines.choices import ChoiceFile
from alignkit.pipelines.chosen_options import choices, fits, inner_key, is_anothers
from alignkit.pipelines.files import PipelineFile
from alignkit.pipelines.placeholders import PLACE
from alignkit.pipelines.stage_file import StageFile
from alignkit.pipelines.stage_kinds import STAGE_KINDS
from alignkit.pipelines.stage_overrides import Typed, head_of, keys_of_commands, mark


def layers(composer: Composer, stage: StageFile, typed: Typed, file: PipelineFile) -> list[str]:
    """Overrides of a stage, the ones that count most last: the file's, those of its choices, the user's for all stages, the wiring, the
    user's for this one; of a repeated stage those for all rounds come before those for one.

    Of what is typed for all stages it takes what its command has: the pipeline's own keys mean the pipeline, and `judge=gold` only stages
    that judge.

    Where one of them chooses an option of a group, keys of another option give way: `stages.ppo.scorer=vader` has no use for the wiring's
    path of a reward model, `stages.dpo.loss=sft` none for the file's `loss.beta`, `judge=gold` none for the wiring's `judge.path`, and
    `dataset=local` of a wiring none for keys of the data set that all stages begin with.

    Raises:
        UserError: where a file or an override for a stage sets what the pipeline itself decides.
    """
    own = own_lines(composer, stage, typed)
    given = chosen_lines(composer, stage, typed, file.choices, own)
    options, wiring = [mark(line) for line in (*stage.options, *given)], [mark(line) for line in stage.wiring]
    for override in map(composer.parse, [*options, *wiring, *own]):
        check_one(override)
        if override.key_or_group == "run_dir" or override.is_hydra_override():
            raise UserError(f"{override.key_or_group}: cannot be set for one stage; each runs in a directory inside the pipeline's.")
    common = own_share(composer, stage, typed.common, file)
    wired, chosen = choices(composer, wiring), choices(composer, own)
    usual = {group: option for group, option in choices(composer, [*options, *common]).items() if group not in wired}
    wiring = [line for line in wiring if all(wired.get(group) == chosen[group] for group in chosen if inner_key(composer, line, group))]
    wiring = [line for line in wiring if not any(is_anothers(composer, line, group, usual[group]) for group in usual)]
    for_all = {group: option for group, option in choices(composer, common).items() if group not in chosen}
    options = [line for line in options if all(fits(composer, line, group, chosen[group]) for group in chosen)]
    options = [line for line in options if not any(is_anothers(composer, line, group, for_all[group]) for group in for_all)]
    before = [line for line in (*options, *common) if all(fits(composer, line, group, wired[group]) for group in wired)]
    return [meant(line, stage) for line in (*before, *wiring, *own)]


def own_lines(composer: Composer, stage: StageFile, typed: Typed) -> list[str]:
    """What was typed for a stage: for all of its rounds, then for this one."""
    *of_all, of_one = [typed.own.get(name, ()) for name in stage.names]
    chosen = choices(composer, of_one)
    kept = [line for lines in of_all for line in lines if all(fits(composer, line, group, chosen[group]) for group in chosen)]
    return [*kept, *of_one]


def chosen_lines(composer: Composer, stage: StageFile, typed: Typed, files: Sequence[ChoiceFile], own: Sequence[str]) -> list[str]:
    """What the pipeline's choices give to a stage.

    Raises:
        UserError: when an option was typed that there is not.
    """
    lines: list[str] = []
    for choice in files:
        if choice.name not in composer.groups(""):
            option = str(typed.values.get(choice.name, choice.default))
            check_choice(choice.name, option, choice.options)
            lines += choice.lines(option, stage)
        elif choice.concerns(stage):
            option = choices(composer, [*typed.common, *own]).get(choice.name, choice.default)
            lines += [f"{choice.name}={option}", *choice.lines(option, stage)]
    return lines


def own_share(composer: Composer, stage: StageFile, common: Collection[str], file: PipelineFile) -> list[str]:
    """What a stage takes of the overrides for all stages."""
    others = keys_of_commands(file.stages) - STAGE_KINDS[stage.command].own_keys
    others |= set(file.keys) - set(composer.groups(""))
    return [line for line in common if head_of(line) not in others]


def meant(line: str, stage: StageFile) -> str:
    """An override in which names of repeated stages are those of a round."""
    return PLACE.sub(lambda found: f"@stage.{stage.meanings.get(found[1], found[1])}@", line)
