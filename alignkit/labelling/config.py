"""From a composed config to what `alignkit.label` does. A label run has the config of a run and a few keys of its own beside it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, final

from omegaconf import DictConfig, ListConfig, OmegaConf

from alignkit.composition import JUDGE, Composer
from alignkit.config_checks import check_keys, check_name
from alignkit.configuration import check_config, config_yaml, run_fields
from alignkit.errors import UserError
from alignkit.generation.config import SHORT, run_at
from alignkit.judge_assembly import judge_node, judge_of
from alignkit.judge_settings import JudgeSettings
from alignkit.label_settings import UNCERTAIN, LabelSettings
from alignkit.resolution import to_record
from alignkit.rollout_settings import NO_SCORER
from alignkit.settings import RunSettings

OWN = tuple(field.name for field in dataclasses.fields(LabelSettings) if field.name != JUDGE)
LISTS = ("candidates", "earlier")
"""Keys that may be typed as one name where there is one."""
COMMAND = "alignkit.label"
DEFAULTS = LabelSettings(judge=JudgeSettings(name="", options={}))
"""What is not typed."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Labelling:
    """What is to be labelled, checked as far as that is possible without torch."""

    settings: RunSettings
    """`rollout` says how is sampled, `scorer` who says what is uncertain; nothing is trained."""
    own: LabelSettings

    def __post_init__(self) -> None:
        own, rollout, scores = self.own, self.settings.rollout, self.settings.scorer.name != NO_SCORER
        if not own.candidates and rollout.samples < own.fewest_answers:
            raise UserError(
                f"samples = {rollout.samples}: form={own.form} tells answers to a prompt apart. Type samples={own.fewest_answers}, or more."
            )
        if own.query in UNCERTAIN and not scores:
            raise UserError(f"query = {own.query!r} goes by scores, and nobody scores. Type scorer=head scorer.path=RUN.")
        if own.query not in UNCERTAIN and scores:
            raise UserError(
                f"scorer = {self.settings.scorer.name!r} has no effect with query = {own.query!r}: the judge judges. Type "
                f"query={UNCERTAIN[0]} count=N, or judge=scorer judge.scorer={self.settings.scorer.name}."
            )
        if own.query in UNCERTAIN and not own.candidates and rollout.samples < 2:
            raise UserError(f"samples = {rollout.samples}: query={own.query} tells answers to one prompt apart. Type samples=2, or more.")
        if rollout.backend != "torch":
            raise UserError(f"rollout.backend = {rollout.backend!r}: {COMMAND} samples with the model itself. Leave it out.")

    @property
    def run_dir(self) -> str:
        """Where the run is to be."""
        return self.settings.run_dir


def rewrite(line: str, composer: Composer) -> list[str]:
    """An override as Hydra is given it: `judge=` chooses from a group that a run does not have.

    Raises:
        UserError: on an option that does not exist.
    """
    override = composer.parse(line)
    if override.is_delete() or override.is_sweep_override() or override.key_or_group != JUDGE or isinstance(override.value(), dict):
        return [composer.rewrite(line)]
    check_name(JUDGE, str(override.value()), composer.options(JUDGE))
    return [f"{JUDGE}={override.value()}"]


def labelling_of(cfg: DictConfig) -> Labelling:
    """What a config means that has keys of `alignkit.label` beside those of a run.

    Raises:
        UserError: one message with the key as typed, the value that came and what is allowed.
    """
    cfg = copy.deepcopy(cfg)
    groups, scalars = run_fields()
    check_own_keys(cfg, groups, scalars)
    own = {str(key): listed(str(key), cfg.pop(key)) for key in OWN if key in cfg}
    for key in SHORT:
        if key in cfg:
            OmegaConf.update(cfg, f"rollout.{key}", cfg.pop(key))
    node = cfg.pop(JUDGE, None)
    settings = check_config(cfg)
    judge = judge_of(node, settings.allow_code, command=COMMAND)
    run = run_at(settings.model.path)
    if run is not None:
        settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, path=str(run.model)))
    return Labelling(settings=settings, own=own_settings(own, judge))


def own_settings(typed: Mapping[str, Any], judge: JudgeSettings) -> LabelSettings:
    """The record of the command's own keys, and the judge's settings, which are checked already.

    Raises:
        UserError: naming the key.
    """
    defaults = {name: getattr(DEFAULTS, name) for name in OWN}
    return to_record(LabelSettings, {**defaults, **typed, JUDGE: dataclasses.asdict(judge)}, "")


def listed(key: str, value: Any) -> Any:
    """A value as its field takes it: one name alone is a list of one."""
    if key in LISTS and isinstance(value, str):
        return [value]
    return OmegaConf.to_container(value) if isinstance(value, ListConfig | DictConfig) else value


def check_own_keys(cfg: DictConfig, groups: Collection[str], scalars: Collection[str]) -> None:
    """Refuse a key that neither a run nor `alignkit.label` has; one that belongs inside a group is left to the checks of a run.

    Raises:
        UserError: naming the key that was meant.
    """
    known = (*OWN, JUDGE, *SHORT, *groups, *scalars)
    inside = {str(key) for group in groups if isinstance(node := cfg.get(group), DictConfig) for key in node}
    check_keys("", [key for key in map(str, cfg) if key not in inside], known, owner=COMMAND)


def labelling_yaml(labelling: Labelling) -> str:
    """`config.yaml`: the settings in the shape in which they were typed."""
    own = {name: getattr(labelling.own, name) for name in OWN}
    return config_yaml(labelling.settings) + OmegaConf.to_yaml(OmegaConf.create({**own, JUDGE: judge_node(labelling.own.judge)}))
