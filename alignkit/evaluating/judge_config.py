"""Who judges in `alignkit.evaluate`: which evaluations need a judge, and which have no use for one. Without torch."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from alignkit.configuration import packaged
from alignkit.errors import UserError
from alignkit.evaluation_settings import EvaluateSettings, EvaluationSettings, JudgeAgreementSettings, WinRateSettings
from alignkit.judge_assembly import name_of
from alignkit.rollout_settings import NO_SCORER

SCORER = "scorer"


def judged(evaluation: EvaluationSettings, judge: DictConfig | None, scorers: Sequence[str]) -> bool:
    """Whether there must be a judge.

    Raises:
        UserError: when one was typed that has no effect.
    """
    if isinstance(evaluation, JudgeAgreementSettings):
        return True
    if judge is None:
        return False
    name = judge.get("name")
    if not isinstance(evaluation, WinRateSettings):
        raise UserError(f"judge = {name!r} has no effect with evaluation={evaluation.name}. Leave it out.")
    if scorers:
        raise UserError(f"judge = {name!r} with scorer = {', '.join(scorers)}: one of them says whose answers win. Leave the other out.")
    return True


def check_judge(own: EvaluateSettings) -> None:
    """Refuse win rates that nobody measures.

    Raises:
        UserError: with what to type.
    """
    if isinstance(own.evaluation, WinRateSettings) and own.judge is None and len(own.scorers) != 1:
        options = ", ".join(name for name in packaged(SCORER) if name != NO_SCORER)
        raise UserError(
            f"scorer is missing: who says which answer is better? Type scorer=NAME: a head of the run, or one of {options}; or judge=NAME."
        )


def headline_of_judge(own: EvaluateSettings) -> tuple[str, str]:
    """The result that says most of a judge, and the end of its interval."""
    assert isinstance(own.evaluation, JudgeAgreementSettings)
    assert own.judge is not None
    whole = f"{own.evaluation.tasks[0]}/{name_of(own.judge)}/accuracy"
    return whole, f"{whole}_low"
