"""From `loss=` to the objective of a run: its terms, the heads that they read, and whether the rest of the settings fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from alignkit.data.preparation import PreparedData
from alignkit.errors import UserError
from alignkit.loss_settings import HeadSettings, LossSettings
from alignkit.modules.objective import Objective
from alignkit.modules.term import Place
from alignkit.modules.term_kinds import build_term, reads_head, reads_rating
from alignkit.resolution import build_losses
from alignkit.settings import RunSettings


def build_objective(settings: LossSettings, allow_code: Sequence[str]) -> tuple[Objective, dict[str, HeadSettings]]:
    """The weighted terms of an objective and the heads that they read.

    Raises:
        UserError: when a loss refuses its options, lacks a head or a rating, or two parts want the same head built differently.
    """
    heads: dict[str, HeadSettings] = {}
    terms = []
    for part, loss in build_losses(settings, allow_code):
        if reads_head(type(loss)) and part.head is None:
            raise UserError(f"{part.where}.head is missing: {part.loss} reads a head. See conf/loss/reward.yaml for what it holds.")
        if reads_rating(type(loss)) and part.place.attribute is None:
            raise UserError(f"{part.where}.attribute is missing: {part.loss} learns a rating. Type {part.where}.attribute=overall.")
        if part.head is not None and heads.setdefault(part.head.name, part.head) != part.head:
            raise UserError(f"{part.where}.head: there is another head {part.head.name!r} with other settings. Give it a name of its own.")
        head = None if part.head is None else part.head.name
        place = Place(name=part.name, weight=part.place.weight, head=head, source=part.place.source, attribute=part.place.attribute or "")
        terms.append(build_term(loss, place))
    return Objective(terms), heads


def check_combination(settings: RunSettings, objective: Objective) -> None:
    """Refuse settings that would silently do nothing.

    Raises:
        UserError: for a frozen trunk under an objective that trains it, and for a reference that nobody asks.
    """
    if settings.model.train == "heads":
        idle = [term.place.name for term in objective.terms if term.needs_trunk]
        if len(idle) == len(objective.terms):
            raise UserError(f"model.train = 'heads' with loss={settings.loss.name}: this objective trains no head. Type model.train=all.")
        if idle:
            without = "loss.dpo_weight=0" if "dpo_weight" in settings.loss.options else f"no part {idle[0]}"
            raise UserError(
                f"model.train = 'heads': the term {idle[0]!r} trains the trunk, which is frozen. Type {without}, or model.train=all."
            )
    if objective.needs_reference:
        if settings.reference.source == "moving" and settings.model.quantize is not None:
            raise UserError("reference.source = 'moving' with model.quantize: weights of 4 bits cannot be mixed. Type reference=cache.")
        return
    if settings.reference.path is not None:
        raise UserError(f"reference.path = {settings.reference.path!r} has no effect: loss={settings.loss.name} needs no reference.")
    if settings.reference.source == "moving":
        raise UserError(f"reference.source = 'moving' has no effect: loss={settings.loss.name} needs no reference. Leave it out.")


def check_sources(objective: Objective, prepared: PreparedData) -> None:
    """Refuse a term that would never see an example.

    Raises:
        UserError: naming the parts that there are.
    """
    there = sorted({example.source for example in prepared.train} - {""})
    for source in sorted(objective.sources - set(there)):
        kinds = f"{', '.join(there)} are there" if there else "the data are no mixture; see dataset=mixture"
        raise UserError(f"loss.parts: no training example is of source {source!r}; {kinds}.")


def formula(name: str, objective: Objective) -> str:
    """The objective in use, as one line for the user and `results.json`."""
    parts = []
    for term in objective.terms:
        values = ", ".join(f"{field.name} {getattr(term.loss, field.name)}" for field in dataclasses.fields(term.loss))
        parts.append(f"{term.place.name}: {term.loss.formula}{'; ' * bool(values)}{values}")
    if len(parts) > 1:
        parts.insert(0, f"{name}: L = {' + '.join(f'{term.place.weight:g} * {term.place.name}' for term in objective.terms)}")
    return " | ".join(parts)
