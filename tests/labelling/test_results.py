"""What a label run comes to, from judgements whose numbers are known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from alignkit.errors import UserError
from alignkit.judges.bouts import Verdict
from alignkit.judges.judge import Comparison, Judgement
from alignkit.labelling.judged import JudgedPrompt
from alignkit.labelling.results import check_some_labels, results_of, results_table, words

WIN, TIE, LOSS = Verdict.WIN, Verdict.TIE, Verdict.LOSS


def compared(straight: Verdict | None, swapped: Verdict | None, lengths: tuple[int, int], gold: tuple[float, float]) -> JudgedPrompt:
    """Two answers that were compared in both orders."""
    one = Comparison(first=0, second=1, straight=straight, swapped=swapped)
    scores = (None, None) if one.verdict is None else (one.verdict.value, one.verdict.opposite.value)
    unread = [straight, swapped].count(None)
    return JudgedPrompt(
        prompt="p",
        place="here",
        completions=(" a", " b"),
        lengths=lengths,
        finished=(True, True),
        origins=(),
        drawn=3,
        tokens=10,
        judgement=Judgement(scores=scores, comparisons=(one,), replies=2, unread=unread, reasons={"cut": unread} if unread else {}),
        gold=gold,
    )


JUDGED = [
    compared(WIN, WIN, (5, 3), (1.0, 0.0)),  # the longer one, in both orders
    compared(WIN, LOSS, (4, 4), (0.0, 0.0)),  # whichever is shown first: a tie
    compared(LOSS, LOSS, (9, 2), (2.0, 2.0)),  # the shorter one
    compared(WIN, None, (1, 2), (0.0, 0.0)),  # one reply could not be read
]
RESULTS = results_of(JUDGED, labels=2, earlier=1, left_out={"tie": 1, "unread": 1}, pairs=[(JUDGED[0], 0, 1), (JUDGED[2], 1, 0)])


def test_counts_are_those_of_the_prompts() -> None:
    named = ("labels", "earlier_labels", "prompts", "samples", "judged_answers", "left_out/tie", "left_out/unread", "replies", "unread")
    assert [RESULTS[name] for name in named] == [2, 1, 4, 12, 8, 1, 1, 8, 1]
    assert (RESULTS["unread_share"], RESULTS["unread/cut"]) == (1 / 8, 1)


def test_biases_are_shares_of_what_could_be_read() -> None:
    assert (RESULTS["comparisons"], RESULTS["tie_share"], RESULTS["longer_preferred"]) == (4, pytest.approx(1 / 3), 0.5)
    assert RESULTS["order_decided"] == pytest.approx(1 / 3)
    # Seven replies: the one shown first wins 1 of the first pair, both of the second, 1 of the third, 1 of the fourth.
    assert RESULTS["first_preferred"] == pytest.approx(5 / 7)
    low, high = RESULTS["first_preferred_low"], RESULTS["first_preferred_high"]
    assert isinstance(low, float)
    assert isinstance(high, float)
    assert 0 < low < 5 / 7 < high < 1


def test_of_pairs_it_says_what_chosen_and_rejected_answers_are() -> None:
    assert (RESULTS["score/chosen"], RESULTS["score/rejected"]) == (1.0, 0.0)
    assert (RESULTS["tokens/chosen"], RESULTS["tokens/rejected"]) == (3.5, 6.0)
    assert (RESULTS["gold/chosen"], RESULTS["gold/rejected"]) == (1.5, 1.0)
    assert RESULTS["gold/agreement"] == 0.75  # one that gold likes better, one of which it says nothing: (1 + 1/2) / 2


def test_nothing_that_was_not_asked_is_reported() -> None:
    plain = results_of([], labels=0, earlier=0, left_out={}, pairs=[])
    assert not [name for name in plain if "share" in name or "preferred" in name or "/" in name]
    assert not any(isinstance(value, float) and math.isnan(value) for value in plain.values())


def test_the_table_is_for_people() -> None:
    assert words("left_out/tie").startswith("left out: the judge finds no difference")
    assert words("left_out/template_refused") == "left out: template_refused"
    table = results_table(
        {"labels": 2, "earlier_labels": 0, "first_preferred": 0.5, "first_preferred_low": 0.1, "policy_fingerprint": "ab"}
    )
    assert [str(cell) for cell in table.columns[0].cells] == ["labels", "first_preferred"]


def test_judges_that_vote_are_compared_with_each_other() -> None:
    def said(*verdicts: Verdict | None) -> Judgement:
        members = {
            name: Judgement(scores=(None, None), comparisons=(Comparison(first=0, second=1, straight=verdict, swapped=verdict),))
            for name, verdict in zip("abc", verdicts, strict=True)
        }
        return Judgement(scores=(None, None), by_judge=members)

    voted = [said(WIN, WIN, WIN), said(LOSS, LOSS, LOSS), said(WIN, LOSS, None), said(LOSS, LOSS, LOSS)]
    results = results_of([replace(JUDGED[0], judgement=one) for one in voted], labels=1, earlier=0, left_out={}, pairs=[])
    assert results["a+b/agreement"] == 3 / 4
    assert results["a+b/cohen_kappa"] == pytest.approx((3 / 4 - 1 / 2) / (1 / 2))  # by chance: 1/2 * 1/4 + 1/2 * 3/4
    assert (results["a+c/agreement"], results["b+c/agreement"]) == (1.0, 1.0)  # of the three pairs that c speaks about
    # Eleven labels, 4 wins and 7 losses; the third pair has one of either: D_o = 2/11, D_e = 2 * 4 * 7 / (11 * 10).
    assert results["krippendorff_alpha"] == pytest.approx(1 - (2 / 11) / (56 / 110))


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ({"left_out/tie": 3}, "no label: 3 prompts were judged, and none has a label (tie 3)."),
        (
            {"critiques": 3, "critiques_read": 1, "revisions": 1, "revisions_read": 0, "unread/critique_cut": 2},
            "no label: 1 of 3 critiques and 0 of 1 revisions could be read (critique_cut 2).",
        ),
    ],
)
def test_a_run_without_a_label_says_why(results: dict[str, int], words: str) -> None:
    none = {"labels": 0, "earlier_labels": 0, "prompts": 3}
    with pytest.raises(UserError) as error:
        check_some_labels(none | results)
    assert str(error.value).startswith(words)
    check_some_labels(none | results | {"labels": 1})
    check_some_labels(none | results | {"earlier_labels": 1})
