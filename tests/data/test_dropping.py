"""Examples that are left out."""

from __future__ import annotations

import pytest

from alignkit.data.dropping import check_dropped, fault
from alignkit.data.examples import PreferenceExample
from alignkit.errors import UserError


@pytest.mark.parametrize(
    ("completions", "reason"),
    [
        ((" yes", " no"), None),
        ((" yes",), None),
        ((" yes", "yes\n"), "identical"),
        (("a", "b", "a"), "identical"),
        ((" yes", " \n"), "empty"),
        (("", ""), "empty"),
    ],
)
def test_a_pair_is_dropped_for_its_text_whatever_the_white_space(completions: tuple[str, ...], reason: str | None) -> None:
    assert fault(PreferenceExample(prompt="p", completions=completions)) == reason


def test_as_many_as_allowed_may_be_dropped() -> None:
    check_dropped({"identical": 1, "empty": 1}, total=10, limit=0.2, where="dataset.path = a.jsonl")
    check_dropped({"empty": 10}, total=10, limit=1.0, where="dataset.path = a.jsonl")
    check_dropped({}, total=0, limit=0.0, where="dataset.path = a.jsonl")


def test_too_many_are_told_by_reason() -> None:
    with pytest.raises(UserError) as caught:
        check_dropped({"identical": 2, "empty": 1, "too_long": 0}, total=10, limit=0.2, where="dataset.path = a.jsonl")
    assert str(caught.value) == (
        "dataset.path = a.jsonl: 3 of 10 examples cannot be used, more than dataset.max_dropped = 0.2 allows: identical 2 (the "
        "completions are the same); empty 1 (a completion holds no text). Repair the data, or type dataset.max_dropped=1 to go on "
        "without them."
    )
