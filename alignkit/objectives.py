"""From `loss=` to the objective of a run: its terms, the heads that they read, and whether the rest of the settings fits."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import Any, TypeAlias

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from alignkit.data.measured import source_counts
from alignkit.data.preparation import PreparedData
from alignkit.errors import UserError
from alignkit.loss_settings import HeadSettings, LossSettings
from alignkit.losses.rollout_families import SampledLoss
from alignkit.metrics import CHOSEN_REWARDS, IMPLICIT_CHOSEN_REWARDS
from alignkit.models.loading import check_fit, load_config, load_tokenizer
from alignkit.models.location import locate
from alignkit.models.soundness import check_same_tokens
from alignkit.modules.objective import Objective
from alignkit.modules.rollout_module import VALUE
from alignkit.modules.rollout_objective import RolloutObjective
from alignkit.modules.term import Place
from alignkit.modules.term_kinds import build_term, reads_head, reads_rating
from alignkit.resolution import build_losses
from alignkit.rollout_settings import NO_SCORER, UNUSED_REWARD, UNUSED_ROLLOUT
from alignkit.settings import RunSettings

AnyObjective: TypeAlias = Objective | RolloutObjective


def build_objective(settings: LossSettings, allow_code: Sequence[str]) -> tuple[AnyObjective, dict[str, HeadSettings]]:
    """The weighted terms of an objective, or its loss on samples, and the heads that they read.

    Raises:
        UserError: when a loss refuses its options, lacks a head or a rating, or two parts want the same head built differently.
    """
    heads: dict[str, HeadSettings] = {}
    terms = []
    parts = build_losses(settings, allow_code)
    if len(parts) == 1 and isinstance(parts[0][1], SampledLoss):
        part, loss = parts[0]
        return RolloutObjective(name=part.name, loss=loss), value_head(part.head, loss)
    for part, loss in parts:
        if reads_head(type(loss)) and part.head is None:
            raise UserError(f"{part.where}.head is missing: {part.loss} reads a head. See conf/loss/reward.yaml for what it holds.")
        if reads_rating(type(loss)) and part.place.attribute is None:
            raise UserError(f"{part.where}.attribute is missing: {part.loss} learns a rating. Type {part.where}.attribute=overall.")
        if part.head is not None and heads.setdefault(part.head.name, part.head) != part.head:
            raise UserError(f"{part.where}.head: there is another head {part.head.name!r} with other settings. Give it a name of its own.")
        place = Place(
            name=part.name,
            weight=part.place.weight,
            head=None if part.head is None else part.head.name,
            source=part.place.source,
            attribute=part.place.attribute or "",
            bootstrap=part.place.bootstrap,
        )
        terms.append(build_term(loss, place))
        if place.bootstrap is not None and terms[-1].unit != "examples":
            raise UserError(f"{part.where}.bootstrap: {part.loss} counts {terms[-1].unit}, and a bootstrap draws examples. Leave it out.")
    return Objective(terms), heads


def value_head(head: HeadSettings | None, loss: SampledLoss) -> dict[str, HeadSettings]:
    """The head that predicts returns, under the name by which modules know it; none for a loss that needs none.

    Raises:
        UserError: when a loss that needs it has none, or it reads more than the state that predicts a token.
    """
    if not loss.needs_values:
        return {}
    if head is None:
        raise UserError("loss.head is missing: it predicts returns. See conf/loss/ppo.yaml for what it holds.")
    if not head.reads_terminal_states:
        raise UserError("loss.head: a value is read from the last state of each token. Type loss.head.layers=[-1] loss.head.tokens=last.")
    if head.standardize > 0:
        raise UserError(f"loss.head.standardize = {head.standardize}: values are read at all tokens. Type loss.head.standardize=0.")
    if head.dropout > 0:
        raise UserError(
            f"loss.head.dropout = {head.dropout:g}: values are stored when samples are drawn and compared with later ones, which dropout "
            "would make differ at once. Type loss.head.dropout=0."
        )
    return {VALUE: dataclasses.replace(head, name=VALUE)}


def check_combination(settings: RunSettings, objective: AnyObjective) -> None:
    """Refuse settings that would silently do nothing.

    Raises:
        UserError: for a frozen trunk under an objective that trains it, for a reference that nobody asks, and for settings of samples
            where nothing is sampled or that change what is sampled behind the objective's back.
    """
    if isinstance(objective, RolloutObjective):
        check_rollouts(settings, objective.loss)
        return
    check_no_rollouts(settings)
    if settings.callbacks.ledger and not {CHOSEN_REWARDS, IMPLICIT_CHOSEN_REWARDS} & objective.reward_names:
        raise UserError(
            f"callbacks.ledger = true with loss={settings.loss.name}: it has no margins of pairs. Leave it out, or choose a loss that has."
        )
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
        check_moving(settings)
        return
    if settings.reference.path is not None:
        raise UserError(f"reference.path = {settings.reference.path!r} has no effect: loss={settings.loss.name} needs no reference.")
    if settings.reference.source == "moving":
        raise UserError(f"reference.source = 'moving' has no effect: loss={settings.loss.name} needs no reference. Leave it out.")


def check_rollouts(settings: RunSettings, loss: SampledLoss) -> None:
    """Refuse settings under which an objective cannot learn from its samples.

    Raises:
        UserError: naming the setting.
    """
    name, rollout = settings.loss.name, settings.rollout
    if settings.scorer.name == NO_SCORER:
        raise UserError(f"scorer = 'none' with loss={name}: somebody must say how good samples are. Type scorer=vader, or see --help.")
    if settings.model.train == "heads":
        raise UserError(f"model.train = 'heads' with loss={name}: the policy is the trunk. Type model.train=all, or model.adapter=lora.")
    if settings.model.lora.dropout > 0:
        raise UserError(
            f"model.lora.dropout = {settings.model.lora.dropout:g} with loss={name}: the policy that is trained must be the one that was "
            "sampled, which dropout makes two. Type model.lora.dropout=0."
        )
    if rollout.top_k > 0 or rollout.top_p < 1:
        raise UserError(
            f"rollout.top_k = {rollout.top_k}, rollout.top_p = {rollout.top_p:g} with loss={name}: tokens that are cut off have no "
            "log-probability, so that samples would not come from the policy that is trained. Type rollout.top_k=0 rollout.top_p=1."
        )
    if loss.needs_groups and rollout.samples < 2:
        raise UserError(
            f"rollout.samples = {rollout.samples} with loss={name}: it compares the samples of a prompt. Try rollout.samples=4."
        )
    if loss.needs_float32 and settings.precision.lightning != "32-true":
        raise UserError(
            f"precision = {settings.precision.name!r} with loss={name}: its step is made of differences that bf16 rounds away. "
            "Type precision=fp32."
        )
    if rollout.samples_elsewhere and importlib.util.find_spec(rollout.backend) is None:
        raise UserError(
            f"rollout.backend = {rollout.backend!r}: {rollout.backend} is not installed. Type `pip install {rollout.backend}`, or "
            "rollout.backend=torch."
        )
    if not rollout.weighs_samples and rollout.importance_cap != UNUSED_ROLLOUT.importance_cap:
        raise UserError(f"rollout.importance_cap = {rollout.importance_cap:g} has no effect while rollout.reuse = 0. Try rollout.reuse=1.")
    if settings.divergence.spike is not None:
        raise UserError(
            f"divergence.spike = {settings.divergence.spike:g} with loss={name}: each of its steps has other samples and a loss of its own "
            "level, so that no mean over steps says what is far out. Type divergence.spike=null; divergence.action=skip is for numbers "
            "that are not finite."
        )
    if settings.callbacks.gradient_cosine:
        raise UserError(f"callbacks.gradient_cosine = true with loss={name}: there are no chosen and rejected sides. Leave it out.")
    if settings.callbacks.ledger:
        raise UserError(f"callbacks.ledger = true with loss={name}: there are no pairs to keep a ledger of. Leave it out.")
    check_moving(settings)


def check_moving(settings: RunSettings) -> None:
    """Refuse a reference that cannot move."""
    if settings.reference.source == "moving" and settings.model.quantize is not None:
        raise UserError("reference.source = 'moving' with model.quantize: weights of 4 bits cannot be mixed. Type reference=cache.")


def check_no_rollouts(settings: RunSettings) -> None:
    """Refuse settings of samples for an objective on given completions.

    Raises:
        UserError: naming the first one that would have no effect.
    """
    name, where = settings.loss.name, "it learns from given completions. Leave it out, or type loss=ppo"
    if settings.scorer.name != NO_SCORER:
        raise UserError(f"scorer = {settings.scorer.name!r} has no effect with loss={name}: {where}.")
    for node, given, unused in (("rollout", settings.rollout, UNUSED_ROLLOUT), ("reward", settings.reward, UNUSED_REWARD)):
        for key, value in dataclasses.asdict(given).items():
            if value != getattr(unused, key):
                raise UserError(f"{node}.{key} = {value} has no effect with loss={name}: {where}.")


def check_reference(settings: RunSettings, objective: AnyObjective, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a reference that reads token ids otherwise than the policy, by its configuration and its tokenizer where it has one.

    Raises:
        UserError: naming the difference.
    """
    if settings.reference.path is None:
        return
    path = locate("reference.path", settings.reference.path)
    theirs = load_config("reference.path", path)
    check_fit("reference.path", theirs, tokenizer, settings.dataset.max_length)
    if objective.needs_live_reference and theirs.vocab_size != config.vocab_size:
        raise UserError(
            f"reference.path = {path!r}: has embeddings for {theirs.vocab_size} tokens, the policy for {config.vocab_size}; loss="
            f"{settings.loss.name} compares their whole distributions. Type reference.path=FOLDER of a model with as many."
        )
    try:
        reference_tokenizer = load_tokenizer("reference.path", path)
    except UserError:  # weights alone, which are taken at their word
        return
    check_same_tokens(tokenizer, reference_tokenizer, path)


def check_sources(objective: AnyObjective, prepared: PreparedData) -> None:
    """Refuse a term that would never see an example.

    Raises:
        UserError: naming the parts that there are.
    """
    there = sorted(source_counts(prepared.train).keys() - {""})
    for source in sorted(objective.sources - set(there)):
        kinds = f"{', '.join(there)} are there" if there else "the data are no mixture; see dataset=mixture"
        raise UserError(f"loss.parts: no training example is of source {source!r}; {kinds}.")


def formula(name: str, objective: AnyObjective) -> str:
    """The objective in use, as one line for the user and `results.json`."""
    parts = []
    if isinstance(objective, RolloutObjective):
        values = ", ".join(f"{field.name} {getattr(objective.loss, field.name)}" for field in dataclasses.fields(objective.loss))
        return f"{name}: {objective.loss.formula}; {values}"
    alike: dict[Any, list[str]] = {}
    for term in objective.terms:
        alike.setdefault(term.loss, []).append(term.place.name)
    for loss, terms in alike.items():
        values = ", ".join(f"{field.name} {getattr(loss, field.name)}" for field in dataclasses.fields(loss))
        parts.append(f"{', '.join(terms)}: {loss.formula}{'; ' * bool(values)}{values}")
    if len(objective.terms) > 1:
        parts.insert(0, f"{name}: L = {' + '.join(f'{term.place.weight:g} * {term.place.name}' for term in objective.terms)}")
    return " | ".join(parts)
