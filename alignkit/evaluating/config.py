"""From a command line to what `alignkit.evaluate` does. An evaluation has the config of a run and a few keys of its own beside it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from omegaconf import DictConfig, OmegaConf

from alignkit.composition import EVALUATION, JUDGE, Composer
from alignkit.config_checks import check_keys, check_name
from alignkit.configuration import check_config, check_values, config_yaml, packaged, run_fields
from alignkit.errors import UserError, check_choice
from alignkit.evaluating.judge_config import check_judge, headline_of_judge, judged
from alignkit.evaluating.scorers import scorers_of
from alignkit.evaluation.cost_measures import KL_K1
from alignkit.evaluation.tasks.catalogue import find_task
from alignkit.evaluation_settings import (
    ANSWERS,
    CHOSEN,
    IMPLICIT,
    KINDS,
    LOGPS,
    REFERENCE,
    CostSettings,
    EvaluateSettings,
    EvaluationSettings,
    JudgeAgreementSettings,
    LmEvalSettings,
    QuestionsSettings,
    WinRateSettings,
)
from alignkit.generation.config import SHORT, ranker, run_at, terminable
from alignkit.hardware_checks import check_machine
from alignkit.judge_assembly import build_judge, check_judge_places, judge_node, judge_of
from alignkit.models.location import locate
from alignkit.resolution import build_scorer, build_source, to_record
from alignkit.rollout_settings import NO_SCORER
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings

SCORER = "scorer"
SCORERS = "scorers"
"""Where the names that `scorer=` lists are kept in a config."""
AGAINST = "against"
MODEL = "model.path"
"""In the place of the run whose implicit reward is meant, where the model is of none: its reference is `reference.path` then."""
OWN = (EVALUATION, SCORERS, AGAINST, JUDGE)
PATHS = ("path", "text", "misconceptions", "include_path")
"""Keys of `evaluation` that name files or folders; of each kind some."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What is to be evaluated, checked as far as that is possible without torch."""

    settings: RunSettings
    """`model.path` says of what; nothing is trained."""
    own: EvaluateSettings

    @property
    def run_dir(self) -> str:
        """Where the run is to be."""
        return self.settings.run_dir


def rewrite(line: str, composer: Composer) -> list[str]:
    """An override as Hydra is given it: `evaluation=` and `judge=` choose from groups that a run does not have, and `scorer=` may name
    heads.

    Raises:
        UserError: on an option that does not exist.
    """
    override = composer.parse(line)
    key = override.key_or_group
    if override.is_delete() or override.is_sweep_override() or key not in (EVALUATION, JUDGE, SCORER):
        return [composer.rewrite(line)]
    value = override.value()
    if key in (EVALUATION, JUDGE):
        check_name(key, str(value), composer.options(key))
        return [f"{key}={value}"]
    names = [str(name) for name in (value if isinstance(value, list) else [value])]
    options = [name for name in names if name in composer.options(SCORER) and name != NO_SCORER]
    if len(names) > 1 and (others := [name for name in options if name != IMPLICIT]):
        raise UserError(f"scorer = {value}: {others[0]} is no part of the model and scores alone. Type scorer={others[0]}.")
    # Always both, so that what is typed later takes the whole place of what was typed earlier.
    alone = options[0] if len(names) == 1 and options else NO_SCORER
    return [f"{SCORER}={alone}", f"++{SCORERS}=[{','.join(names)}]"]


def evaluation_of(cfg: DictConfig) -> Evaluation:
    """What a config means that has keys of `alignkit.evaluate` beside those of a run.

    Raises:
        UserError: one message with the key as typed, the value that came and what is allowed.
    """
    cfg = copy.deepcopy(cfg)
    groups, scalars = run_fields()
    inside = {str(key) for group in groups if isinstance(node := cfg.get(group), DictConfig) for key in node}
    known = (*OWN, *SHORT, *groups, *scalars)
    check_keys("", [key for key in map(str, cfg) if key not in inside], known, owner="alignkit.evaluate")
    for key in SHORT:
        if key in cfg:
            OmegaConf.update(cfg, f"rollout.{key}", cfg.pop(key))
    evaluation = settings_of(cfg.get(EVALUATION))
    scorers, against, judge = cfg.pop(SCORERS, None), cfg.pop(AGAINST, None), cfg.pop(JUDGE, None)
    del cfg[EVALUATION]  # now, for `${dataset.path}` in it is found from where it stands
    run = run_at(str(OmegaConf.select(cfg, "model.path")))
    names = () if scorers is None else tuple(dict.fromkeys(map(str, OmegaConf.to_container(scorers) or ())))
    names = names or alone(cfg.scorer)
    cfg.scorer = scorer_node(cfg.scorer, names, evaluation, run)
    settings = check_config(cfg)
    if run is not None:
        settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, path=str(run.model)))
    own = EvaluateSettings(
        evaluation=evaluation,
        scorers=names,
        against=None if against is None else str(against),
        judge=judge_of(judge, settings.allow_code, command="alignkit.evaluate") if judged(evaluation, judge, names) else None,
    )
    check_needs(settings, own)
    return Evaluation(settings=settings, own=own)


def alone(scorer: DictConfig) -> tuple[str, ...]:
    """The scorer that a config names by itself, without `scorer=` on the command line."""
    name = str(OmegaConf.select(scorer, "name"))
    return () if name == NO_SCORER else (name,)


def scorer_node(scorer: DictConfig, names: tuple[str, ...], evaluation: EvaluationSettings, run: RunDir | None) -> Mapping[Any, Any]:
    """The node `scorer` of a run that the names of scorers and the keys `scorer.x` stand for.

    Raises:
        UserError: when there is no such head.
    """
    typed = OmegaConf.to_container(scorer)
    assert isinstance(typed, Mapping)
    if isinstance(evaluation, WinRateSettings) and len(names) == 1 and names[0] not in packaged(SCORER):
        return ranker(names[0], typed, run, SCORER)
    if names == (typed.get("name"),) and typed["name"] != IMPLICIT:
        return typed
    if typed.get("name") not in (NO_SCORER, IMPLICIT):
        raise UserError(f"scorer.name = {typed['name']!r} with scorer = {', '.join(names)}: one of them scores. Leave the other out.")
    if IMPLICIT not in names:
        return typed
    own = {**packaged(SCORER)[IMPLICIT]}
    if run is not None:
        own["path"] = str(run.path)
    elif isinstance(evaluation, QuestionsSettings):
        own["path"] = MODEL
    return {**own, **{key: value for key, value in typed.items() if key != "name" and value not in (None, "???")}}


def settings_of(node: DictConfig | None) -> EvaluationSettings:
    """The record of `evaluation=`.

    Raises:
        UserError: when it was not typed, or a value is wrong.
    """
    options = ", ".join(sorted(packaged(EVALUATION)))
    if not isinstance(node, DictConfig) or "kind" not in node:
        raise UserError(f"evaluation is missing: what is to be measured? Type evaluation=NAME, one of {options}.")
    values = check_values(EVALUATION, node)
    kind = str(values.pop("kind"))
    check_choice("evaluation.kind", kind, KINDS)
    record: EvaluationSettings = to_record(KINDS[kind], values, EVALUATION)
    if isinstance(record, QuestionsSettings):
        named = {"tasks": record.tasks, **{f"averages.{name}": tasks for name, tasks in record.averages.items()}}
        for key, tasks in named.items():
            for task in tasks:
                find_task(str(task), f"{EVALUATION}.{key}", listed=record.listed)
    elif isinstance(record, JudgeAgreementSettings):
        for task in record.tasks:
            find_task(str(task), f"{EVALUATION}.tasks", listed=None)
    return record


def check_needs(settings: RunSettings, own: EvaluateSettings) -> None:
    """Refuse what cannot work together. Without torch.

    Raises:
        UserError: naming the key.
    """
    evaluation = own.evaluation
    if isinstance(evaluation, CostSettings | LmEvalSettings | JudgeAgreementSettings) and own.scorers:
        raise UserError(f"scorer = {', '.join(own.scorers)} has no effect with evaluation={evaluation.name}. Leave it out.")
    check_judge(own)
    if own.against is not None and not isinstance(evaluation, QuestionsSettings):
        raise UserError(f"against = {own.against!r} has no effect with evaluation={evaluation.name}: it compares answers to questions.")
    if isinstance(evaluation, CostSettings) and settings.reference.path is None:
        raise UserError("reference.path is missing: the cost is that of a model against what it was. Type reference.path=DIR.")
    if isinstance(evaluation, WinRateSettings) and evaluation.opponent == REFERENCE and settings.reference.path is None:
        raise UserError(
            f"reference.path is missing: the opponent is the reference. Type reference.path=DIR, evaluation.opponent={CHOSEN} or "
            "evaluation.opponent=RUN."
        )


def check_scorers(evaluation: Evaluation) -> None:
    """Refuse scorers that are none. Without torch, and where the model is there.

    Raises:
        UserError: naming those that there are.
    """
    settings, run = evaluation.settings, run_at(evaluation.settings.model.path)
    if isinstance(evaluation.own.evaluation, QuestionsSettings):
        names = scorers_of(evaluation.own, run, with_reference=settings.reference.path is not None)
        if IMPLICIT in names and run is None and settings.reference.path is None and settings.scorer.options.get("reference") is None:
            raise UserError("reference.path is missing: the implicit reward is measured against it. Type reference.path=DIR.")


def check_places(evaluation: Evaluation) -> None:
    """Refuse files and models that are not there. Without torch.

    Raises:
        UserError: naming the key.
    """
    settings, own = evaluation.settings, evaluation.own.evaluation
    locate("model.path", settings.model.path)
    if settings.reference.path is not None:
        locate("reference.path", settings.reference.path)
    for key in PATHS:
        value = getattr(own, key, None)
        if value is not None and not Path(value).expanduser().exists():
            raise UserError(f"evaluation.{key} = {value!r}; there is no such file or folder (looked at {Path(value).absolute()}).")
    if evaluation.own.judge is not None:
        check_judge_places(evaluation.own.judge)
    against = evaluation.own.against
    if against is not None and not (Path(against).expanduser() / ANSWERS).is_file():
        raise UserError(f"against = {against!r}: holds no {ANSWERS}, so it is no evaluation. Type against=RUN of one.")


def check_buildable(evaluation: Evaluation) -> None:
    """Build the data set's source and the scorer's settings once: they check their own ranges. This is where torch is imported.

    Raises:
        UserError: naming the option.
    """
    settings = evaluation.settings
    check_machine(settings)
    if not isinstance(evaluation.own.evaluation, QuestionsSettings | LmEvalSettings | JudgeAgreementSettings):
        build_source(settings.dataset, settings.allow_code)
    if settings.scorer.name != NO_SCORER:
        build_scorer(settings.scorer, settings.allow_code)
    if evaluation.own.judge is not None:
        build_judge(evaluation.own.judge, settings.allow_code)


def headline(own: EvaluateSettings) -> tuple[str, str]:
    """The result that says most, and the one that it is compared with."""
    evaluation = own.evaluation
    if isinstance(evaluation, WinRateSettings):
        return "win_rate", "win_rate_low"
    if isinstance(evaluation, CostSettings):
        return KL_K1, f"{KL_K1}_low"
    if isinstance(evaluation, LmEvalSettings):
        return f"{evaluation.tasks[0]}/acc", f"{evaluation.tasks[0]}/acc_norm"
    if isinstance(evaluation, JudgeAgreementSettings):
        return headline_of_judge(own)
    means = [name for name, tasks in evaluation.averages.items() if set(tasks) <= set(evaluation.tasks)]
    whole = f"{means[0]}/{{}}/average" if means and evaluation.path is None else f"{evaluation.tasks[0]}/{{}}/score"
    return whole.format(own.scorers[-1] if own.scorers else LOGPS[0]), whole.format(LOGPS[0])


def evaluation_yaml(evaluation: Evaluation) -> str:
    """`config.yaml`: the settings in the shape in which they were typed."""
    own = evaluation.own
    kind = next(kind for kind, record in KINDS.items() if isinstance(own.evaluation, record))
    node: dict[str, Any] = {
        EVALUATION: {"kind": kind, **dataclasses.asdict(own.evaluation)},
        SCORERS: list(own.scorers),
        AGAINST: own.against,
    }
    if own.judge is not None:
        node[JUDGE] = judge_node(own.judge)
    return config_yaml(evaluation.settings) + OmegaConf.to_yaml(OmegaConf.create(node))


def carry_out(evaluation: Evaluation, run: RunDir) -> dict[str, Scalar]:
    """Write `config.yaml`, evaluate, and return what `results.json` holds."""
    evaluation = dataclasses.replace(evaluation, settings=dataclasses.replace(evaluation.settings, run_dir=str(run.path)))
    run.config.write_text(evaluation_yaml(evaluation), encoding="utf-8")
    with terminable():
        # The first import of torch's big users: everything that can be wrong without them has been checked.
        from alignkit.evaluating.run import evaluate

        return evaluate(evaluation.settings, evaluation.own, run)
