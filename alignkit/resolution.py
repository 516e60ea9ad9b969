"""From names to classes and from plain values to records. A config holds names and values; this is where they get their meaning."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from alignkit.errors import LARGEST_WHOLE, UserError, check_range, did_you_mean
from alignkit.loss_settings import EnsembleSettings, HeadSettings, JointSettings, LossSettings, PartPlace, PartSettings
from alignkit.rollout_settings import ScorerSettings
from alignkit.scorers.parts import OF_THE_PART
from alignkit.settings import DatasetSettings

Record = TypeVar("Record")

LOSSES = "alignkit.losses"
MODULES = "alignkit.modules"
SOURCES = "alignkit.data.sources"
SCORERS = "alignkit.scorers"

ENSEMBLES: Mapping[str, str] = {"reward_ensemble": "bradley_terry"}
"""Options of `loss=` that train several heads alike, and the loss of each of them."""
ENSEMBLE_KEYS = frozenset(field.name for field in dataclasses.fields(EnsembleSettings))
JOINT_KEYS = frozenset(field.name for field in dataclasses.fields(JointSettings))
PART_KEYS = frozenset(("loss", "head", *(field.name for field in dataclasses.fields(PartPlace))))
"""What a part of an objective has beside the options of its loss."""
PARTS = "parts"
"""The option that makes an objective, or a scorer, a sum."""
CODE = "callable"
"""The option of a scorer that names code of the user's own."""

EXPECTED: Mapping[Any, str] = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "text",
    list: "a list, e.g. [a,b]",
    dict: "a mapping, e.g. {a: b}",
}


def resolve(kind_package: str, name: str, allow_code: Sequence[str] = ()) -> type:
    """The one public class of module `<kind_package>.<name>`, or of the module that a dotted name of an `allow_code` package names.

    `resolve("alignkit.losses", "con_dph")` is `ConDPH`.

    Raises:
        UserError: when there is no such module, it is not allowed, or it does not define exactly one public class.
    """
    if "." in name:
        check_allowed(name, allow_code)
        module_name = name
    else:
        module_name = f"{kind_package}.{name}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise UserError(f"{name!r}: there is no module {error.name}. Check the name and that the package can be imported.") from None
        raise
    classes = [
        member
        for label, member in inspect.getmembers(module, inspect.isclass)
        if member.__module__ == module.__name__ and not label.startswith("_")
    ]
    if len(classes) != 1:
        found = ", ".join(member.__name__ for member in classes) or "none"
        raise UserError(f"{module_name}: must define exactly one public class; found: {found}.")
    return classes[0]


def check_allowed(name: str, allow_code: Sequence[str]) -> None:
    """Refuse a dotted name that lies outside the packages whose code the user allowed.

    Raises:
        UserError: with what to type when the code is trusted.
    """
    if not any(name.startswith(f"{package}.") for package in allow_code):
        package = name.partition(".")[0]
        raise UserError(f"{name!r} names code outside alignkit. If you trust it, type allow_code=[{package}].")


def check_code(options: Mapping[str, Any], allow_code: Sequence[str]) -> None:
    """Refuse options of a scorer that name code which the user did not allow, before it is imported.

    Raises:
        UserError: with what to type when the code is trusted.
    """
    named = options.get(CODE)
    if isinstance(named, str) and "." in named:
        check_allowed(named, allow_code)


def to_record(record: type[Record], values: Mapping[str, Any], where: str) -> Record:
    """A dataclass from plain values, converted to its fields' types and checked by its own `__post_init__`.

    `where` is the dotted path of the record as a user types it, `loss.head`.

    Raises:
        UserError: naming the dotted path, the value that came and what is allowed.
    """
    prefix = f"{where}." if where else ""
    fields = [field.name for field in dataclasses.fields(record)]  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise UserError(f"{prefix}{key}: no such key.{did_you_mean(key, fields)} {where} has {', '.join(fields) or 'none'}.")
    hints = typing.get_type_hints(record)
    if inner := {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}:
        # Record by record, so that each names its own keys; OmegaConf cannot fill a frozen one inside another.
        flat = dataclasses.make_dataclass(record.__name__, [(name, hints[name]) for name in fields if name not in inner])
        own: Any = to_record(flat, {key: values[key] for key in values if key not in inner}, where)
        return record(**vars(own), **{name: inner_record(hint, values.get(name), f"{prefix}{name}") for name, hint in inner.items()})
    for name, value in values.items():
        if is_misread(hints[name], value):
            quoted = " Write text in quotes of its own." if accepts(hints[name], str) or typing.get_origin(hints[name]) is list else ""
            raise UserError(f"{prefix}{name} = {value!r}; must be {expected(hints[name])}.{quoted}")
    try:
        built = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(record), dict(values)))
    except MissingMandatoryValue as error:
        raise UserError(f"{prefix}{error.full_key} is missing. Type {prefix}{error.full_key}=VALUE.") from None
    except OmegaConfBaseException as error:
        path = str(error.full_key or "")
        field = path.partition(".")[0].partition("[")[0]
        hint = typing.get_type_hints(record).get(field)
        raise UserError(f"{prefix}{field} = {values.get(field)!r}; must be {expected(hint)}.") from None
    return typing.cast(Record, built)


def is_misread(hint: Any, value: object) -> bool:
    """Whether OmegaConf would take a value for a field of this type which a user meant otherwise: `no` or `1.10`, which are false and 1.1
    by now, as text; 2 as true; a number that no float can hold."""
    if typing.get_origin(hint) is list and isinstance(value, list):
        return any(is_misread(typing.get_args(hint)[0], element) for element in value)
    if accepts(hint, str):
        return isinstance(value, (bool, float))
    if accepts(hint, bool):
        return isinstance(value, int) and value not in (0, 1)
    return accepts(hint, float) and isinstance(value, int) and abs(value) > LARGEST_WHOLE


def accepts(hint: Any, kind: type) -> bool:
    """Whether a field of this type holds values of a kind."""
    return hint is kind or (kind in typing.get_args(hint) and typing.get_origin(hint) in (types.UnionType, typing.Union))


def inner_record(record: Any, values: object, where: str) -> Any:
    """A record inside another. Raises what `to_record` raises, and UserError where there are no keys at all."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where} = {values!r}; must be {expected(dict)}.")
    return to_record(record, values, where)


def expected(hint: Any) -> str:
    """What a field of this type takes, in words."""
    kinds = [hint]
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        kinds = list(typing.get_args(hint))
    words = [EXPECTED.get(typing.get_origin(kind) or kind, str(kind)) for kind in kinds if kind is not type(None)]
    return " or ".join([*words, "null"] if type(None) in kinds else words)


def loss_parts(settings: LossSettings) -> tuple[PartSettings, ...]:
    """The weighted parts of an objective: those under `loss.parts`, the members of an ensemble, a head's loss with its joint cDPO term, or
    the loss alone.

    Raises:
        UserError: when a value is out of range or of the wrong type.
    """
    options = settings.options
    if PARTS in options:
        return tuple(part_settings(name, f"loss.parts.{name}", values) for name, values in options[PARTS].items())
    if settings.name in ENSEMBLES:
        return member_parts(ENSEMBLES[settings.name], options)
    label = settings.name.rpartition(".")[2]
    if not options.keys() >= JOINT_KEYS:
        return (part_settings(label, "loss", {"loss": settings.name, **options}),)
    joint = to_record(JointSettings, {key: options[key] for key in JOINT_KEYS}, "loss")
    own = {key: value for key, value in options.items() if key not in JOINT_KEYS}
    if joint.beta is None:
        return (part_settings(label, "loss", {"loss": settings.name, **own}),)
    cdpo = {"loss": "cdpo", "weight": joint.dpo_weight, "beta": joint.beta, "epsilon": joint.dpo_epsilon}
    return (part_settings("head", "loss", {"loss": settings.name, **own}), part_settings("dpo", "loss", cdpo))


def member_parts(loss: str, options: Mapping[str, Any]) -> tuple[PartSettings, ...]:
    """A head that learns from all pairs, under the name that was typed, and members of an ensemble, numbered from 1. The objective is the
    mean of their losses.

    Raises:
        UserError: when a value is out of range or of the wrong type.
    """
    own = to_record(EnsembleSettings, {key: options[key] for key in ENSEMBLE_KEYS if key in options}, "loss")
    shared = {key: value for key, value in options.items() if key not in ENSEMBLE_KEYS} | {"loss": loss, "weight": 1 / (1 + own.members)}
    whole = part_settings("whole", "loss", shared)
    assert whole.head is not None, "an ensemble is of heads"
    members = []
    for number in range(1, own.members + 1):
        head = {**dataclasses.asdict(whole.head), "name": f"{whole.head.name}_{number}"}
        members.append(part_settings(f"member_{number}", "loss", {**shared, "head": head, "bootstrap": own.bootstrap}))
    return (whole, *members)


def part_settings(name: str, where: str, values: Mapping[str, Any]) -> PartSettings:
    """One part; what is no key of every part is an option of its loss.

    Raises:
        UserError: when a value is out of range or of the wrong type.
    """
    given = {"weight": 1.0, "head": None, "source": None, "attribute": None, "bootstrap": None} | dict(values)
    head = given["head"]
    if head is not None:
        if not isinstance(head, Mapping):
            raise UserError(f"{where}.head = {head!r}; must be {expected(dict)}.")
        head = to_record(HeadSettings, head, f"{where}.head")
    options = {key: value for key, value in given.items() if key not in PART_KEYS}
    place = to_record(PartPlace, {field.name: given[field.name] for field in dataclasses.fields(PartPlace)}, where)
    check_range(f"{where}.weight", place.weight, above=0.0, hint="Leave a part out that is to have none.")
    return PartSettings(name=name, where=where, loss=str(given["loss"]), head=head, place=place, options=options)


def loss_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a loss's file that belong to its class."""
    elsewhere = PART_KEYS | (JOINT_KEYS if options.keys() >= JOINT_KEYS else frozenset())
    return {key: value for key, value in options.items() if key not in elsewhere}


def build_losses(settings: LossSettings, allow_code: Sequence[str] = ()) -> tuple[tuple[PartSettings, Any], ...]:
    """The objective's parts with their losses, which check their own ranges. Imports torch, and nothing heavier.

    Raises:
        UserError: naming the option that a loss refuses.
    """
    return tuple((part, build_part(part, allow_code)) for part in loss_parts(settings))


def build_part(part: PartSettings, allow_code: Sequence[str] = ()) -> object:
    """The loss of one part.

    Raises:
        UserError: naming the option that the loss refuses.
    """
    try:
        return build(LOSSES, part.loss, part.options, "loss", allow_code)
    except UserError as error:
        # A loss names its fields `loss.beta`, wherever it stands.
        raise UserError(str(error) if part.where == "loss" else f"{part.where}: {error}") from None


def build_source(settings: DatasetSettings, allow_code: Sequence[str] = ()) -> object:
    """The data set's source, which checks its own ranges; nothing is read or fetched.

    Raises:
        UserError: naming the option that the source refuses.
    """
    return build(SOURCES, settings.source, settings.options, "dataset", allow_code)


def build_scorer(settings: ScorerSettings, allow_code: Sequence[str] = ()) -> object:
    """The scorer's settings, which check their own ranges; no model is loaded. Code of the user's own that they name is imported.

    Raises:
        UserError: naming the option that the scorer refuses, or code that is not allowed.
    """
    options = settings.options
    check_code(options, allow_code)
    if PARTS not in options:
        return build(SCORERS, settings.name, options, "scorer", allow_code)
    return resolve(SCORERS, settings.name)(
        parts={name: (part["weight"], build_scorer_part(name, part, allow_code)) for name, part in options[PARTS].items()}
    )


def build_scorer_part(name: str, part: Mapping[str, Any], allow_code: Sequence[str]) -> object:
    """The scorer of one part of a sum, which `configuration.scorer_settings` has filled.

    Raises:
        UserError: naming the part and the option that its scorer refuses.
    """
    options = {key: value for key, value in part.items() if key not in OF_THE_PART}
    try:
        return build_scorer(ScorerSettings(name=part["scorer"], options=options), allow_code)
    except UserError as error:
        # A scorer names its fields `scorer.path`, wherever it stands.
        raise UserError(f"scorer.parts.{name}: {error}") from None


def build(kind_package: str, name: str, options: Mapping[str, Any], where: str, allow_code: Sequence[str]) -> object:
    """An instance of the class that `name` resolves to, its fields filled from `options`."""
    kind = resolve(kind_package, name, allow_code)
    if not dataclasses.is_dataclass(kind):
        raise UserError(f"{where}: {kind.__name__} of {name!r} is no dataclass, so its options are not known.")
    return to_record(kind, options, where)
