"""What a label run comes to: how many labels, what was left out and why, what the judge's words were worth, and what sways it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from rich import box
from rich.table import Table
from rich.text import Text

from alignkit.errors import UserError
from alignkit.evaluation.intervals import Interval
from alignkit.evaluation.judge_biases import Biases, biases_of
from alignkit.evaluation.judge_results import Agreement
from alignkit.judges.judge import Judgement
from alignkit.labelling.forms import WHY
from alignkit.labelling.judged import JudgedPrompt
from alignkit.run_dir import Scalar
from alignkit.summary import BYTES, number

LABELS = "labels"
PROMPTS = "prompts"
UNREAD = "unread/"
"""Before the reason for which a judge's reply could not be read."""
REVISION = "revision_"
"""Before the reasons of a revision; critiques have others."""
LEFT_OUT = "left_out/"
"""Before the reason for which a prompt, or of `unpaired` an answer, has no label."""
UNREAD_SHARE = "unread_share"
"""Of replies, where the judge is a language model."""
TIE_SHARE = "tie_share"
"""Of the comparisons that could be read."""
SHOWN_IF_ANY = ("earlier_labels", "replies", "unread", "trimmed_prompts", "cut_answers", "tokens")
"""Counts that the table leaves out where they are 0."""
SCORE, GOLD, TOKENS = "score", "gold", "tokens"
CHOSEN, REJECTED = "/chosen", "/rejected"
"""After what was measured of the answers of pairs: `score/chosen` is the mean of the judge's scores of the chosen ones."""
AGREEMENT = f"{GOLD}/agreement"
"""Share of the pairs whose chosen answer the gold scorer likes better; a tie of it counts one half."""
Pair = tuple[JudgedPrompt, int, int]
"""A prompt with the places of its chosen and its rejected answer."""


def results_of(
    judged: Sequence[JudgedPrompt], *, labels: int, earlier: int, left_out: Mapping[str, int], pairs: Sequence[Pair]
) -> dict[str, Scalar]:
    """Counts, shares and biases. `pairs` are those of the rows, where rows are pairs."""
    judgements = [one.judgement for one in judged]
    replies, unread = sum(one.replies for one in judgements), sum(one.unread for one in judgements)
    return {
        LABELS: labels,
        "earlier_labels": earlier,
        PROMPTS: len(judged),
        "samples": sum(one.drawn for one in judged),
        "judged_answers": sum(len(one.completions) for one in judged),
        **{f"{LEFT_OUT}{reason}": count for reason, count in left_out.items()},
        "replies": replies,
        "unread": unread,
        **({UNREAD_SHARE: unread / replies} if replies else {}),
        **{f"{UNREAD}{reason}": count for reason, count in sum((Counter(one.reasons) for one in judgements), Counter[str]()).items()},
        **bias_results(judgements, judged),
        # Of several judges: prompts with too few answers have nobody's word.
        **Agreement.of([one for one in judgements if one.by_judge]).flat(),
        **of_pairs(pairs),
        **of_revisions(judged),
    }


def bias_results(judgements: Sequence[Judgement], judged: Sequence[JudgedPrompt]) -> dict[str, Scalar]:
    """How often answers were found equal, and what sways the judge beside them. Nothing where nothing was compared."""
    if any(one.revisions for one in judged):
        return {}
    biases: Biases = biases_of(judgements, [one.lengths for one in judged])
    if not biases.comparisons:
        return {}
    results: dict[str, Scalar] = {
        "comparisons": biases.comparisons,
        TIE_SHARE: biases.ties / biases.read if biases.read else math.nan,
        **interval("longer_preferred", biases.longer_preferred),
        "length_correlation": biases.correlation,
    }
    if biases.asked_twice:
        results |= interval("first_preferred", biases.first_preferred) | interval("order_decided", biases.flips)
    return results


def of_revisions(judged: Sequence[JudgedPrompt]) -> dict[str, Scalar]:
    """How many critiques and revisions were asked for, and how many of them could be read. Nothing where nothing was revised."""
    revised = [one for prompt in judged for one in prompt.revisions]
    if not revised:
        return {}
    critiques = [critique for one in revised for critique in one.critiques]
    # A revision is asked for where the critique could be read.
    asked = sum(critique is not None for critique in critiques)
    faults = sum(reason.startswith(REVISION) for one in revised for reason in one.unread)
    return {"critiques": len(critiques), "critiques_read": asked, "revisions": asked, "revisions_read": asked - faults}


def check_some_labels(results: Mapping[str, Scalar]) -> None:
    """Refuse to end as if all were well where there is nothing to train on.

    Raises:
        UserError: with why there is no label; of revisions with how many critiques and revisions could be read.
    """
    if results[LABELS] or results["earlier_labels"]:
        return
    kind = UNREAD if results.get("critiques") else LEFT_OUT
    reasons = ", ".join(f"{name.removeprefix(kind)} {value}" for name, value in results.items() if name.startswith(kind))
    if kind == LEFT_OUT:
        raise UserError(
            f"no label: {results[PROMPTS]} prompts were judged, and none has a label ({reasons}). What the judge said is in judged.jsonl. "
            "Type more samples, another judge, or form=scores, which keeps answers that are as good as each other."
        )
    raise UserError(
        f"no label: {results['critiques_read']} of {results['critiques']} critiques and {results['revisions_read']} of "
        f"{results['revisions']} revisions could be read ({reasons}). The critic must be able to follow a request, as models that were "
        "trained for dialogue are, and to end within max_tokens. Type judge=llm judge.model=DIR, or max_tokens=256."
    )


def interval(name: str, of: Interval) -> dict[str, Scalar]:
    """A share with its 95 % interval."""
    return {name: of.value, f"{name}_low": of.low, f"{name}_high": of.high}


def of_pairs(pairs: Sequence[Pair]) -> dict[str, Scalar]:
    """Means over pairs of what the chosen and the rejected answers are: scores, tokens, and gold scores with how often these agree."""
    if not pairs:
        return {}
    results: dict[str, Scalar] = {}
    for side, at in ((CHOSEN, 0), (REJECTED, 1)):
        sides = [(one, places[at]) for one, *places in pairs]
        results[f"{SCORE}{side}"] = fmean(score for one, place in sides if (score := one.judgement.scores[place]) is not None)
        results[f"{TOKENS}{side}"] = fmean(one.lengths[place] for one, place in sides)
        if all(one.gold is not None for one, _ in sides):
            results[f"{GOLD}{side}"] = fmean(one.gold[place] for one, place in sides if one.gold is not None)
    if f"{GOLD}{CHOSEN}" in results:
        gaps = [one.gold[chosen] - one.gold[rejected] for one, chosen, rejected in pairs if one.gold is not None]
        results[AGREEMENT] = fmean(1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in gaps)
    return results


def results_table(results: Mapping[str, Scalar]) -> Table:
    """What a label run ends with."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in results.items():
        if not isinstance(value, (int, float)) or math.isnan(value) or name.endswith(("_low", "_high")):
            continue
        if value or name not in SHOWN_IF_ANY:
            gibibytes = name.endswith(BYTES)
            table.add_row(Text(words(name)), f"{value / 2**30:.2f} GiB" if gibibytes else number(value))
    return table


def words(name: str) -> str:
    """A result's name for people."""
    if name.startswith(LEFT_OUT):
        reason = name.removeprefix(LEFT_OUT)
        return f"left out: {WHY.get(reason, reason)}"
    return name.removesuffix(BYTES)
