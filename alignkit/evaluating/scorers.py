"""Who scores the candidates of questions."""

from __future__ import annotations

from alignkit.configuration import packaged
from alignkit.errors import UserError, did_you_mean
from alignkit.evaluation_settings import IMPLICIT, LOGPS, EvaluateSettings
from alignkit.generation.config import heads_of
from alignkit.rollout_settings import NO_SCORER
from alignkit.run_dir import RunDir


def scorers_of(own: EvaluateSettings, run: RunDir | None, *, with_reference: bool) -> tuple[str, ...]:
    """Who scores the candidates of questions: what was typed, or all that there is.

    Raises:
        UserError: on a name that is none.
    """
    heads = heads_of(run)
    if not own.scorers:
        return (*LOGPS, *heads, *([IMPLICIT] if with_reference else []))
    known = (*LOGPS, *heads, *(name for name in packaged("scorer") if name != NO_SCORER))
    for name in own.scorers:
        if name not in known:
            at = f" ({run.path} has no head of that name)" if run is not None else ""
            raise UserError(f"scorer = {name!r}{at}; must be one of {', '.join(known)}.{did_you_mean(name, known)}")
    return own.scorers
