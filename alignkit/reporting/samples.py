"""What models said: texts side by side, with the words that differ marked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from alignkit.analysis.json_lines import number
from alignkit.analysis.runs import Runs

SAME, ADDED, REMOVED = 0, 1, -1
"""Of a stretch of words: in both texts, in the policy's alone, in the reference's alone."""
WORD = re.compile(r"\s*\S+|\s+$")
"""A word with the space before it."""
MOST_STEPS = 12
"""Steps of one run whose samples are shown: the first, the last, and some between."""
MOST_PROMPTS = 40
"""Prompts of all runs that are shown."""
MOST_ANSWERS = 8
"""Samples of one prompt of `alignkit.generate`: the best by score, or the first."""
LONGEST = 4000
"""Characters of a text; what comes after is cut and said to be."""


def samples_of(runs: Runs) -> dict[str, Any]:
    """Prompts, steps and texts for the page, each text of a reference once; `left_out` counts the rows that are not in it."""
    if runs.samples.empty:
        return {"prompts": [], "steps": [], "items": [], "references": [], "left_out": 0}
    numbers = {str(run): number for number, run in enumerate(runs.info.index)}
    prompts: dict[str, int] = {}
    references: dict[str, int] = {}
    items: list[dict[str, Any]] = []
    left_out = 0
    for run, own in runs.samples.groupby("run", observed=True, sort=False):
        steps = set(shown_steps(own["step"]))
        for record in own.to_dict("records"):
            row = {str(name): value for name, value in record.items()}
            prompt = as_text(row["prompt"])
            step = _step(row)
            if step not in steps or (prompt not in prompts and len(prompts) >= MOST_PROMPTS):
                left_out += 1
                continue
            place = prompts.setdefault(prompt, len(prompts))
            told = list(answers(row))
            for answer in told:
                if answer["reference"] is not None:
                    answer["reference"] = references.setdefault(answer["reference"], len(references))
            items.append({"run": numbers[str(run)], "step": step, "prompt": place, "answers": told})
    return {
        "prompts": [cut(prompt) for prompt in prompts],
        "steps": sorted({item["step"] for item in items}),
        "items": items,
        "references": list(references),
        "left_out": left_out,
    }


def shown_steps(steps: pd.Series) -> list[int]:
    """At most `MOST_STEPS` of the steps, evenly, the first and the last among them. Rows without a step are of step 0."""
    every = sorted({int(step) for step in steps.fillna(0)})
    return [every[place] for place in np.unique(np.linspace(0, len(every) - 1, MOST_STEPS).round().astype(int))]


def answers(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The texts of a row: a policy's against its reference's, or the samples of `alignkit.generate` with their scores, best first."""
    if isinstance(row.get("policy"), str):
        reference = row.get("reference")
        parts = differences(cut(reference), cut(row["policy"])) if isinstance(reference, str) else [(SAME, cut(row["policy"]))]
        yield {"parts": parts, "reference": cut(reference) if isinstance(reference, str) else None, "scores": own_scores(row)}
        return
    texts, scores, gold = _list(row.get("completions")), _numbers(row.get("scores")), _numbers(row.get("gold"))
    order = sorted(range(len(texts)), key=lambda place: -scores[place]) if len(scores) == len(texts) else range(len(texts))
    for place in list(order)[:MOST_ANSWERS]:
        named = {"score": scores, "gold": gold}
        known = {name: float(values[place]) for name, values in named.items() if len(values) == len(texts)}
        yield {"parts": [(SAME, cut(str(texts[place])))], "reference": None, "scores": known}


def differences(old: str, new: str) -> list[tuple[int, str]]:
    """Stretches of words that turn `old` into `new`. Those that are the same or added make up `new`, the same or removed `old` but for
    white space.

    Words are compared without the space before them, and by difflib without its habit of ignoring frequent ones.
    """
    before, after = WORD.findall(old), WORD.findall(new)
    matcher = difflib.SequenceMatcher(None, [word.strip() for word in before], [word.strip() for word in after], autojunk=False)
    parts: list[tuple[int, str]] = []
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag == "equal":
            parts.append((SAME, "".join(after[k:m])))
            continue
        removed, added = "".join(before[i:j]), "".join(after[k:m])
        follows = added or "".join(after[m : m + 1])
        gap = " " if follows and not follows[0].isspace() else ""  # at the start of the new text, whose first word has no space before it
        parts += [(kind, words) for kind, words in ((REMOVED, removed and removed + gap), (ADDED, added)) if words]
    return parts


def own_scores(row: Mapping[str, Any]) -> dict[str, float]:
    """Numbers that a row of a training run holds beside its texts."""
    return {
        str(name): float(value)
        for name, value in row.items()
        if name not in ("run", "step", "prompt") and not isinstance(value, bool) and number(value) is not None
    }


def as_text(prompt: object) -> str:
    """A prompt of messages as text, each after the name of who speaks."""
    if isinstance(prompt, str):
        return prompt
    turns = [turn for turn in _list(prompt) if isinstance(turn, Mapping)]
    return "\n\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in turns) or str(prompt)


def cut(text: str) -> str:
    """A text without the space around it; of a long one its beginning."""
    text = text.strip()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters)"


def _step(row: Mapping[str, Any]) -> int:
    step = row.get("step")
    return 0 if step is None or step != step else int(step)


def _numbers(value: object) -> Sequence[float]:
    """A list of numbers; an empty one where it holds anything else."""
    values = [number(one) for one in _list(value)]
    return [one for one in values if one is not None] if None not in values else []


def _list(value: object) -> Sequence[Any]:
    return list(value) if isinstance(value, (list, tuple, np.ndarray)) else []
