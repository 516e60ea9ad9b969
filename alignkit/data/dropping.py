"""Examples that are left out, counted by reason, and when they are too many."""

from __future__ import annotations

from collections.abc import Mapping

from alignkit.data.examples import PreferenceExample
from alignkit.errors import UserError

REASONS: Mapping[str, str] = {
    "identical": "the completions are the same",
    "empty": "a completion holds no text",
    "prompt_mismatch": "chosen and rejected answer different prompts",
    "no_reply": "the dialogue does not end with an answer",
    "no_question": "the turn before the answer is not the user's",
    "no_rejected": "there is no rejected completion, and the objective compares",
    "tie": "the completions are rated equal, and the objective needs a better one",
    "no_label": "nobody said whether the completion is desirable (dataset=local reads a column label: true or false)",
    "undesirable": "the completion is labelled undesirable, and the objective imitates",
    "no_rating": "there is no rating of what the objective predicts",
    "held_out_elsewhere": "the prompt is held out in another part of the mixture",
    "empty_prompt": "nothing stands before the completions",
    "too_long": "more tokens than dataset.max_length",
    "special_token_in_text": "a text spells one of the tokenizer's control tokens",
    "template_refused": "the chat template does not take such a dialogue (two turns in a row by one speaker), or leaves a turn out",
    "truncated_identical": "the completions differ only after dataset.max_length",
    "no_answer": "nobody said which answer is right: rows of benchmarks whose labels are kept secret, or that annotators did not agree on",
}
"""Why an example can be dropped, as it is counted and as it is told to the user."""
ODDITIES: Mapping[str, str] = {
    "repeated": "kept, though the same example came before",
    "contradicting": "kept, though there is the same pair the other way round, or the same answer with the other label",
    "near_identical": "kept, though completions differ only in white space or in how their characters are composed",
    "odd_turns": "kept, though two turns in a row are one speaker's, or the first one is not the user's",
}
"""What is counted and what is said of it."""
MEANT = frozenset({"tie", "undesirable"})
"""Reasons that are feedback and no fault of the data: they do not count against `dataset.max_dropped`."""


def fault(example: PreferenceExample) -> str | None:
    """The reason to drop an example whatever its source, or None. White space around a completion makes no difference."""
    bare = [completion.strip() for completion in example.completions]
    if not all(bare):
        return "empty"
    return "identical" if len(set(bare)) < len(bare) else None


def check_dropped(dropped: Mapping[str, int], *, total: int, limit: float, where: str) -> None:
    """Refuse data of which more than the fraction `limit` had to be dropped.

    `dropped` counts examples by reason, `total` is how many there were before, `where` the setting and its value
    (`dataset.path = pairs.jsonl`). Rows that a source leaves out on purpose belong in neither number, and those that the feedback
    itself rules out (`MEANT`) are taken out of both here.

    Raises:
        UserError: naming each reason with its count.
    """
    faults = {reason: count for reason, count in dropped.items() if reason not in MEANT}
    lost, total = sum(faults.values()), total - sum(dropped[reason] for reason in MEANT & dropped.keys())
    if lost <= limit * total:
        return
    reasons = "; ".join(f"{reason} {count} ({REASONS.get(reason, reason)})" for reason, count in faults.items() if count)
    raise UserError(
        f"{where}: {lost} of {total} examples cannot be used, more than dataset.max_dropped = {limit:g} allows: {reasons}. "
        "Repair the data, or type dataset.max_dropped=1 to go on without them."
    )
