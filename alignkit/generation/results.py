"""What samples say of a policy: scores of single samples, of the best of N, and their uncertainty.

P prompts   M samples of each
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from alignkit.best_of_n import expected_best, kl_bound, rank_chances
from alignkit.generation.answered import AnsweredPrompt
from alignkit.metrics import GOLD, GOLD_STD, KL, KL_K3, LENGTH, SCORE_PART, SCORES, SCORES_STD, TERMINATED
from alignkit.run_dir import Scalar
from alignkit.summary import BYTES, number

CI95 = "_ci95"
"""Suffix of half the width of a 95 % interval over prompts."""
NORMAL_95 = 1.959964
"""Standard errors of a normal mean on either side."""
BEST_OF = "best_of_{n}/"
"""Prefix of what the best of N samples by score is: its score, its gold score, the most that it can be away in KL."""
SCORE = "score"
GOLD_OF_BEST = "gold"
BOUND = "kl_bound"
WORDS: Mapping[str, str] = {
    SCORES: "score of a sample",
    GOLD: "gold score of a sample",
    LENGTH: "tokens of a sample",
    TERMINATED: "share that ended by itself",
    KL: "KL(model | reference), k1, nats",
    KL_K3: "KL(model | reference), k3, nats",
}


def results_of(answered: Sequence[AnsweredPrompt]) -> dict[str, Scalar]:
    """Means over prompts, each by its name with `_ci95`, half the width of its 95 % interval; standard deviations over samples; and for
    N = 1, 2, 4, ... and M what the best of N by score is expected to be, without bias. Nothing where there are no prompts.

    Prompts count alike, and the interval is that of prompts drawn anew: 1.96 standard errors of their means, NaN for one prompt.
    """
    if not answered:
        return {}
    results: dict[str, Scalar] = {}
    scores, gold = _table([one.scores for one in answered]), _table([one.gold for one in answered])
    for name, deviation, values in ((SCORES, SCORES_STD, scores), (GOLD, GOLD_STD, gold)):
        if values is not None:
            results |= interval(name, values.mean(-1))
            results[deviation] = float(values.std(correction=0))
    for name in answered[0].measured:
        measured = _table([one.measured[name] for one in answered])
        assert measured is not None
        results |= interval(name, measured.mean(-1))
    if scores is not None:
        for n in competitors(scores.shape[1]):
            results |= best_of(n, scores, gold)
    return results


def interval(name: str, means: Tensor) -> dict[str, Scalar]:
    """The mean of prompts' means [P] and half the width of its 95 % interval."""
    error = float(means.std()) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return {name: float(means.mean()), name + CI95: NORMAL_95 * error}


def competitors(samples: int) -> list[int]:
    """1, 2, 4, ... and M: how many of M samples compete."""
    return sorted({*(2**power for power in range(samples.bit_length())), samples})


def best_of(n: int, scores: Tensor, gold: Tensor | None) -> dict[str, Scalar]:
    """What the best of N samples is: its score, with `gold` [P, M] its gold score, and the bound of its KL from one sample, nats."""
    prefix = BEST_OF.format(n=n)
    results = interval(prefix + SCORE, expected_best(scores, n))
    if gold is not None:
        results |= interval(prefix + GOLD_OF_BEST, gold_of_best(scores, gold, n))
    return results | {prefix + BOUND: kl_bound(n)}


def gold_of_best(scores: Tensor, gold: Tensor, n: int) -> Tensor:
    """The gold score [P] that is expected of the best of N by score, over all subsets of N of the M samples: unbiased, as
    `expected_best` is. Over-optimisation is this falling while the score rises. Gao et al. 2022 (arXiv:2210.10760).

    Args:
        scores: [P, M], what chooses. Of tied samples any is as likely.
        gold: [P, M], what counts.
        n: N, 1..M.
    """
    order = scores.argsort(dim=-1, stable=True)
    ranked, golden = scores.gather(-1, order), gold.gather(-1, order).double()
    shared = torch.stack([_mean_of_ties(*row) for row in zip(ranked, golden, strict=True)])
    return (shared @ rank_chances(scores.shape[-1], n)).to(gold.dtype)


def results_table(results: Mapping[str, Scalar]) -> Table:
    """What a generate run ends with."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("", "mean", "± 95 %", "std", "KL <=, nats"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    deviations = {SCORES: SCORES_STD, GOLD: GOLD_STD}
    for name, value in results.items():
        if name + CI95 in results and not name.startswith(BEST_OF.format(n=1)):
            bound = results.get(f"{name.rpartition('/')[0]}/{BOUND}") if name.startswith("best_of_") else None
            cells = (value, results[name + CI95], results.get(deviations.get(name, "")), bound)
            table.add_row(Text(words(name)), *map(number, cells))
    for name, value in results.items():
        if "/" not in name and isinstance(value, (int, float)):
            gibibytes = name.endswith(BYTES)
            table.add_row(Text(name.removesuffix(BYTES)), f"{value / 2**30:.2f} GiB" if gibibytes else number(value), "", "", "")
    return table


def words(name: str) -> str:
    """A result's name for people."""
    if name.startswith("best_of_"):
        of, _, what = name.partition("/")
        return f"{'gold score' if what == GOLD_OF_BEST else 'score'} of the {of.replace('_', ' ')}"
    return WORDS.get(name, f"score by {name.removeprefix(SCORE_PART)}" if name.startswith(SCORE_PART) else name)


def _mean_of_ties(ranked: Tensor, values: Tensor) -> Tensor:
    """`values` [M], each as the mean of those with the same score; `ranked` [M] are the scores, sorted."""
    _, tie, sizes = torch.unique_consecutive(ranked, return_inverse=True, return_counts=True)
    means: Tensor = values.new_zeros(len(sizes)).index_add(0, tie, values) / sizes
    return means[tie]


def _table(rows: Sequence[tuple[float, ...] | None]) -> Tensor | None:
    """[P, M] float64; None where nobody was asked."""
    known = [row for row in rows if row is not None]
    return torch.tensor(known, dtype=torch.float64) if known else None
