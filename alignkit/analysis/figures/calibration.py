"""How far a reward's confidence can be trusted: sigmoid(|margin|) against the share of pairs that are ordered rightly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy import stats  # type: ignore[import-untyped]
from scipy.special import expit  # type: ignore[import-untyped]

from alignkit.analysis.per_pair import finite, same_length
from alignkit.analysis.style import COLOURS, MUTED, legend_below, name_axes, note, panels

BINS = 15
"""Of equal width over [0, 1], as in `rewards/calibration_error`."""


def calibration(margins: Sequence[float], correct: Sequence[bool]) -> Figure:
    """A reliability diagram: in each bin of confidence the share ordered rightly, with its 95 % Wilson interval; the area of a marker
    grows with its pairs. The expected calibration error stands in the corner. Guo et al. 2017 (arXiv:1706.04599).

    Args:
        margins: [B] chosen minus rejected reward, in nats: the confidence is sigmoid(|margin|).
        correct: [B] whether the pair is ordered rightly; `margins > 0` where labels are clean.

    Raises:
        UserError: when the two differ in length, or no margin is finite.
    """
    same_length("calibration", margins=margins, correct=correct)
    gaps, right = finite("calibration", np.asarray(margins, dtype=np.float64), np.asarray(correct, dtype=np.float64))
    confidence = expit(np.abs(gaps))
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    there = counts > 0
    stated, share = (np.bincount(place, weights=values, minlength=BINS)[there] / counts[there] for values in (confidence, right))
    error = float((counts[there] * np.abs(stated - share)).sum() / len(gaps))
    tests = [stats.binomtest(round(part * count), int(count)) for part, count in zip(share, counts[there], strict=True)]
    wilson = [test.proportion_ci(method="wilson") for test in tests]
    figure, (axes,) = panels(1, columns=1, height=3.1)
    (perfect,) = axes.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 2)))
    bars = axes.errorbar(
        stated,
        share,
        yerr=[
            [max(0.0, s - w.low) for s, w in zip(share, wilson, strict=True)],
            [max(0.0, w.high - s) for s, w in zip(share, wilson, strict=True)],
        ],
        color=COLOURS[0],
        linewidth=1.2,
        elinewidth=0.9,
        capsize=2,
        zorder=2,
    )
    sizes = 10 + 110 * counts[there] / counts.max()
    axes.scatter(stated, share, s=sizes, color=COLOURS[0], edgecolors="white", linewidths=0.5, zorder=3)
    axes.set_xlim(0.485, 1.015)
    axes.set_ylim(min(0.48, min(w.low for w in wilson) - 0.02) - 0.12, 1.03)  # room for the note, where no point is
    name_axes(axes, "confidence: sigmoid(|margin|)", "share of pairs ordered rightly")
    note(axes, f"calibration error {error:.3f}\n{len(gaps)} pairs", x=0.55, y=0.15)
    legend_below(figure, [bars, perfect], ["measured", "perfectly calibrated"], title="bars: 95 % Wilson intervals; area: pairs")  # type: ignore[list-item]
    return figure
