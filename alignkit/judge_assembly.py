"""From `judge=` on a command line to a judge. No run that trains has one; commands that do hold its settings beside those of a run."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig

from alignkit.composition import JUDGE
from alignkit.config_checks import check_keys, check_name
from alignkit.configuration import check_values, packaged, scorer_settings
from alignkit.errors import UserError
from alignkit.judge_settings import JudgeSettings
from alignkit.models.location import locate
from alignkit.resolution import build, build_scorer, check_allowed, resolve, to_record
from alignkit.rollout_settings import ScorerSettings

if TYPE_CHECKING:  # it imports torch
    from alignkit.judges.judge import JudgeKind

JUDGES = "alignkit.judges"
SCORER = "scorer"
"""The option of a judge that is a scorer, whose options stand beside it."""
MEMBERS = "judges"
"""The option of a judge that is several."""
BY = "by"
"""The option of a judge that asks another one's language model."""
PROMPTS = ("asks", "system", "template", "lowest", "highest", "comparisons")
"""Options of a judge that is a language model which say what it is asked, and not who it is."""
PLACES = ("path", "model", "reference")
"""Options of judges that name models, runs or files; of each judge some."""
URL = "url"
"""The option of a judge, or scorer, that is elsewhere."""
LIKELIHOOD = "likelihood"
"""The scorer whose path may be that of any model."""
EXAMPLE = "'judge.judges={gold: {judge: gold}, head: {judge: head, path: RUN}}'"


def judge_of(node: DictConfig | None, allow_code: Sequence[str], *, command: str) -> JudgeSettings:
    """The settings that the node `judge` of a config means.

    Raises:
        UserError: when there is none, or a value is wrong.
    """
    if node is None:
        options = ", ".join(sorted(packaged(JUDGE)))
        raise UserError(f"judge is missing: who says which answers are better? {command} needs one. Type judge=NAME, one of {options}.")
    return judge_settings(check_values(JUDGE, node), allow_code)


def judge_settings(given: Mapping[str, Any], allow_code: Sequence[str], where: str = JUDGE) -> JudgeSettings:
    """`judge=`, or a member of one at `where`, with its options filled and its keys checked.

    Raises:
        UserError: on an unknown name, an option that the judge does not have, one that it lacks, or code that is not allowed.
    """
    name = str(given.get("name"))
    options = {key: value for key, value in given.items() if key != "name"}
    if SCORER in options:
        scorer = {**packaged(SCORER).get(str(options[SCORER]), {}), **options, "name": options.pop(SCORER)}
        scorer.pop(SCORER, None)
        checked = scorer_settings(scorer, allow_code, where)
        return JudgeSettings(name=name, options={SCORER: checked.name, **checked.options})
    known = {str(option["name"]): option for option in packaged(JUDGE).values() if SCORER not in option}
    if "." in name:
        check_allowed(name, allow_code)
    else:
        check_name(JUDGE, name, known)
        check_keys(where, given, known[name], known, name)
    for key, value in options.items():
        if value == MISSING:
            raise UserError(f"{where}.{key} is missing. Type {where}.{key}=VALUE.")
    if MEMBERS in options:
        options[MEMBERS] = members(options[MEMBERS], allow_code)
    if BY in options:
        options[BY] = asked(options[BY], allow_code)
    return to_record(JudgeSettings, {"name": name, "options": options}, where)


def members(given: object, allow_code: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`judge.judges`, each with the values of its own file where none was typed.

    Raises:
        UserError: when there are none, or one names no judge.
    """
    if not isinstance(given, Mapping) or not given:
        raise UserError(f"judge.judges = {given!r}; must name those who vote. Try {EXAMPLE}.")
    filled: dict[str, dict[str, Any]] = {}
    known = packaged(JUDGE)
    for name, own in given.items():
        where = f"judge.judges.{name}"
        if not isinstance(own, Mapping) or JUDGE not in own:
            raise UserError(f"{where} = {own!r}; must say which judge it is. Try {EXAMPLE}.")
        option = str(own[JUDGE])
        check_name(where, option, [label for label, values in known.items() if MEMBERS not in values])
        typed = {key: value for key, value in own.items() if key != JUDGE}
        checked = judge_settings({**known[option], **typed}, allow_code, where)
        filled[str(name)] = {"name": checked.name, **checked.options}
    return filled


def asked(given: object, allow_code: Sequence[str]) -> dict[str, Any]:
    """`judge.by`, with the values of its own file where none was typed.

    Raises:
        UserError: when it names no language model, or holds an option that has no effect.
    """
    where, example = f"{JUDGE}.{BY}", "'judge.by={judge: llm, model: DIR}'"
    if not isinstance(given, Mapping) or JUDGE not in given:
        raise UserError(f"{where} = {given!r}; must say who is asked. Try {example}.")
    known = {label: values for label, values in packaged(JUDGE).items() if "template" in values and BY not in values}
    option = str(given[JUDGE])
    check_name(where, option, known)
    typed = {key: value for key, value in given.items() if key != JUDGE}
    for key in PROMPTS:
        if key in typed and typed[key] != known[option].get(key):
            raise UserError(f"{where}.{key} has no effect: what is asked is judge.template. Leave it out.")
    checked = judge_settings({**known[option], **typed}, allow_code, where)
    return {JUDGE: option, **checked.options}


def build_judge(settings: JudgeSettings, allow_code: Sequence[str] = ()) -> JudgeKind:
    """The judge's settings as its class, which checks its own ranges; no model is loaded. Imports torch.

    Raises:
        UserError: naming the option that the judge refuses.
    """
    from alignkit.judges.judge import JudgeKind

    options = settings.options
    kind: object
    if SCORER in options:
        own = {key: value for key, value in options.items() if key != SCORER}
        kind = resolve(JUDGES, settings.name, allow_code)(
            scorer=build_scorer(ScorerSettings(name=str(options[SCORER]), options=own), allow_code)
        )
    elif MEMBERS in options:
        voters = {name: build_judge(member_settings(member), allow_code) for name, member in options[MEMBERS].items()}
        rest = {key: value for key, value in options.items() if key != MEMBERS}
        kind = resolve(JUDGES, settings.name, allow_code)(judges=voters, **rest)
    elif BY in options:
        kind = build_asking(resolve(JUDGES, settings.name, allow_code), options, allow_code)
    else:
        kind = build(JUDGES, settings.name, options, JUDGE, allow_code)
    if not isinstance(kind, JudgeKind):
        raise UserError(f"judge.name = {settings.name!r}: {type(kind).__name__} is no judge; derive it from JudgeKind.")
    return kind


def build_asking(kind: type, options: Mapping[str, Any], allow_code: Sequence[str]) -> object:
    """A judge that asks another one's language model.

    Raises:
        UserError: naming the option that it or the other one refuses.
    """
    member = dict(options[BY])
    name = str(packaged(JUDGE)[member.pop(JUDGE)]["name"])
    try:
        by = build_judge(JudgeSettings(name=name, options=member), allow_code)
    except UserError as error:
        # A judge names its fields `judge.url`, wherever it stands.
        raise UserError(f"{JUDGE}.{BY}: {error}") from None
    hints = [(key, hint) for key, hint in typing.get_type_hints(kind).items() if key != BY]
    rest: type[Any] = dataclasses.make_dataclass(kind.__name__, hints)
    own = to_record(rest, {key: options[key] for key in options if key != BY}, JUDGE)
    return kind(by=by, **vars(own))


def member_settings(filled: Mapping[str, Any]) -> JudgeSettings:
    """One of `members`, as its settings."""
    return JudgeSettings(name=str(filled["name"]), options={key: value for key, value in filled.items() if key != "name"})


def name_of(settings: JudgeSettings) -> str:
    """What a judge is called in results: a scorer by the scorer's name."""
    return str(settings.options.get(SCORER, settings.name))


def check_judge_places(settings: JudgeSettings, where: str = JUDGE) -> None:
    """Refuse a judge whose model, run or file is not there. Without torch.

    Raises:
        UserError: naming the key.
    """
    options = settings.options
    for name, member in options.get(MEMBERS, {}).items():
        check_judge_places(member_settings(member), f"{where}.{MEMBERS}.{name}")
    if BY in options:
        check_judge_places(JudgeSettings(name=str(options[BY][JUDGE]), options=options[BY]), f"{where}.{BY}")
    for key in PLACES:
        value = options.get(key)
        if not isinstance(value, str) or URL in options:  # a server's own name of a model
            continue
        if key != "path" or options.get(SCORER) == LIKELIHOOD:
            run = Path(value).expanduser() / "model"
            locate(f"{where}.{key}", str(run) if run.is_dir() else value)
        elif not Path(value).expanduser().exists():
            raise UserError(f"{where}.{key} = {value!r}; there is no such file or folder (looked at {Path(value).absolute()}).")


def judge_node(settings: JudgeSettings) -> dict[str, Any]:
    """The node `judge` of a `config.yaml`, in the shape in which it was typed."""
    return {"name": settings.name, **settings.options}
