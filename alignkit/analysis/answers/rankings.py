"""What reward models learn from rankings, from their ends, and from pairs: `experiment=rankings`."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from alignkit.analysis.answer import Answer, over_seeds, rows_of, spoken
from alignkit.analysis.contrasts import chosen, contrast, told
from alignkit.analysis.figures.trend import trend
from alignkit.analysis.runs import RUN, Runs
from alignkit.analysis.sweeps import interval
from alignkit.errors import UserError

STAGES = ("reward", "check")
"""The reward model, and the answers that it scores beside the true reward."""
PROMPTS = "prompts"
VALUES = ("pair accuracy", "correlation", "error")
ORDER = ("rankings", "best_and_worst", "two_answers")
"""Who is expected to learn more of a prompt, the most first."""


def answer(runs: Runs) -> Answer:
    """A row a kind of feedback and number of prompts: how well scores of fresh answers to held-out prompts follow the true reward."""
    rows = measured(runs)
    figure = trend(
        rows,
        PROMPTS,
        {
            "pair accuracy": "pairs of answers ordered rightly",
            "correlation": "correlation with the true reward",
            "error": "error (gold score)",
        },
        by="feedback",
        words="training prompts",
    )
    return Answer(table=over_seeds(rows, ["feedback", PROMPTS], VALUES), figure=figure, findings=tuple(findings(rows)))


def measured(runs: Runs) -> pd.DataFrame:
    """A row a reward model.

    Raises:
        UserError: when none has scored answers.
    """
    models = rows_of(runs, STAGES[0], config={PROMPTS: "dataset.pairs"})
    checks = rows_of(runs, STAGES[1])[["job", RUN]].rename(columns={RUN: "check"})
    rows = models.merge(checks, on="job").rename(columns={"arm": "feedback"})
    if rows.empty or not {"scores", "gold"} <= set(runs.samples):
        raise UserError("rankings: no reward model has scored answers yet. Type the same command again with its run_dir=.")
    of_run = {str(run): group for run, group in runs.samples.groupby(RUN)}
    found = [quality(of_run[str(run)]["scores"], of_run[str(run)]["gold"]) for run in rows["check"]]
    return pd.concat([rows, pd.DataFrame(found, columns=list(VALUES))], axis="columns")


def quality(scores: Iterable[object], gold: Iterable[object]) -> tuple[float, float, float]:
    """How well scores say which of a prompt's answers is better, and by how much.

    Scores compare answers to one prompt, so that both sides are taken minus their mean over the prompt.

    Args:
        scores: [P] of a list [M] each.
        gold: [P] of a list [M] each, the true reward.

    Returns:
        The share of all pairs of unequal gold that scores order rightly, a tie counting half; Pearson's correlation of what is left of
        both sides; and the error of gold as the best straight line through 0 predicts it, root mean square, gold's unit.
    """
    right, pairs = 0.0, 0
    left: list[np.ndarray] = []
    for one, true in zip(map(numbers, scores), map(numbers, gold), strict=True):
        better = true[:, None] > true[None, :]
        ordered = np.sign(one[:, None] - one[None, :])
        right += float(((1 + ordered) / 2)[better].sum())
        pairs += int(better.sum())
        left.append(np.stack([one - one.mean(), true - true.mean()]))
    x, y = np.concatenate(left, axis=1)
    spread = math.sqrt(float((x**2).sum() * (y**2).sum()))
    correlation = float((x * y).sum()) / spread if spread > 0 else math.nan
    error = math.sqrt(float((y**2).mean()) * (1 - correlation**2)) if spread > 0 else math.nan
    return right / pairs if pairs else math.nan, correlation, error


def numbers(cell: object) -> np.ndarray:
    """[M] of a cell of `samples`: a list, or its JSON."""
    return np.asarray(json.loads(cell) if isinstance(cell, str) else cell, dtype=np.float64)


def findings(rows: pd.DataFrame) -> list[str]:
    """Neighbours in the expected order against each other, at each number of prompts."""
    lines = []
    for prompts, own in rows.sort_values(PROMPTS).groupby(PROMPTS):
        there = [feedback for feedback in ORDER if feedback in set(own["feedback"])]
        shares = (f"{feedback} {spoken(interval(chosen(own, {'feedback': feedback})[VALUES[0]].tolist()), 3)}" for feedback in there)
        lines.append(f"From {prompts:g} prompts, share of pairs of fresh answers ordered rightly: {', '.join(shares)}.")
        for this, that in itertools.pairwise(there):
            accuracy, error = (contrast(own, value, {"feedback": this}, {"feedback": that}) for value in (VALUES[0], VALUES[2]))
            lines.append(
                f"From {prompts:g} prompts, {this} against {that}: {told(accuracy, ('more', 'fewer', 'neither more nor fewer'))} pairs are "
                f"ordered rightly ({spoken(accuracy, 3)} at equal seeds), and the error is "
                f"{told(error, ('larger', 'smaller', 'not told apart'))} ({spoken(error, 3)})."
            )
    return lines
