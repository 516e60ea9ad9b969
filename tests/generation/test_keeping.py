"""Which samples are kept, and that training reads them as they are meant."""

from __future__ import annotations

from typing import Any

from alignkit.data.examples import Message
from alignkit.data.sources.local import Local
from alignkit.generate_settings import GenerateSettings
from alignkit.generation.answered import AnsweredPrompt
from alignkit.generation.keeping import Keeper, above
from alignkit.metrics import LENGTH, SCORE_PART, TERMINATED

LOCAL = Local(columns={}, ratings=[])
TEXTS = (" a", " b", " c", " d")


def answered(scores: tuple[float, ...], *, prompt: Any = "p", texts: tuple[str, ...] = TEXTS, ended: float = 1.0) -> AnsweredPrompt:
    count = len(scores)
    measured = {LENGTH: (2.0,) * count, TERMINATED: (ended,) * count, SCORE_PART + "tone": scores}
    return AnsweredPrompt(prompt=prompt, completions=texts[:count], scores=scores, gold=None, measured=measured)


def kept(samples: AnsweredPrompt, **settings: Any) -> list[dict[str, Any]]:
    return [one.row() for one in Keeper(GenerateSettings(**settings), seed=0).of_one(samples)]


def test_the_best_of_a_prompt_is_kept_and_of_equal_ones_the_first() -> None:
    assert kept(answered((0.1, 0.9, 0.9)), keep="best") == [{"prompt": "p", "chosen": " b"}]


def test_the_best_and_the_worst_are_a_pair_that_training_reads_with_its_margin() -> None:
    (row,) = kept(answered((0.1, 0.9, -0.5)), keep="pairs")
    assert row == {"prompt": "p", "chosen": " b", "rejected": " c", "chosen_rating": 0.9, "rejected_rating": -0.5}
    (example,) = LOCAL.to_examples(row)
    assert (example.prompt, example.completions, example.margin) == ("p", (" b", " c"), 1.4)


def test_a_chat_keeps_its_messages_and_training_reads_them() -> None:
    chat = (Message(role="user", content="Hi"),)
    (row,) = kept(answered((0.1, 0.9), prompt=chat, texts=("Yes", "No")), keep="best")
    assert row == {"prompt": [{"role": "user", "content": "Hi"}], "chosen": "No"}
    (example,) = LOCAL.to_examples(row)
    assert (example.prompt, example.completions) == (chat, ("No",))


def test_with_little_temperature_rejection_sampling_pairs_the_best_with_the_next() -> None:
    rows = kept(answered((0.1, 0.9, 0.5, 0.7)), keep="rso", beta=1e-3, count=3)
    assert [(row["chosen"], row["rejected"]) for row in rows] == [(" b", " d"), (" b", " c")]


def test_with_much_temperature_any_sample_is_accepted_and_the_better_one_is_still_chosen() -> None:
    keeper = Keeper(GenerateSettings(keep="rso", beta=1e6), seed=0)
    rows = [one.row() for _ in range(30) for one in keeper.of_one(answered((0.1, 0.2, 0.3, 0.4)))]
    assert {row["rejected"] for row in rows} == {" a"}, "in the order in which they came"
    assert all(row["chosen_rating"] > row["rejected_rating"] for row in rows)


def test_a_quantile_is_one_of_all_prompts_and_keeps_each_text_once() -> None:
    two = [answered((0.0, 0.1, 0.9, 0.9), texts=(" a", " b", " c", " c")), answered((0.2, 0.3, 0.1, 0.0), prompt="q")]
    # Of 0 0 .1 .1 .2 .3 .9 .9 the median is .15.
    assert [(one.row()["prompt"], one.row()["chosen"]) for one in above(two, 0.5)] == [("p", " c"), ("q", " a"), ("q", " b")]
    keeper = Keeper(GenerateSettings(keep="quantile", quantile=0.5), seed=0)
    assert [keeper.of_one(one) for one in two] == [[], []]
    assert len(keeper.of_all(two)) == 3
    assert Keeper(GenerateSettings(keep="best"), seed=0).of_all(two) == []


def test_what_training_could_not_read_is_left_out_and_counted() -> None:
    pairs = Keeper(GenerateSettings(keep="pairs"), seed=0)
    assert pairs.of_one(answered((0.5, 0.5))) == [], "a tie"
    assert pairs.of_one(answered((0.5, 0.1), texts=(" a", " a "))) == [], "one text"
    assert pairs.of_one(answered((0.5, 0.1), texts=(" a", " "))) == [], "a blank one"
    assert pairs.of_one(answered((0.5, 0.1), texts=(" a", " b\0"))) == [], "NUL, which no file of training rows may hold"
    assert pairs.counts["left_out"] == 4
    assert Keeper(GenerateSettings(keep="best"), seed=0).of_one(answered((0.5, 0.1), texts=("", " b"))) == []


def test_answers_that_were_cut_are_counted() -> None:
    keeper = Keeper(GenerateSettings(keep="best"), seed=0)
    for ended in (1.0, 0.0, 0.0):
        keeper.of_one(answered((0.5,), ended=ended))
    assert keeper.counts == {"kept": 3, "kept_cut": 2, "left_out": 0}


def test_the_row_of_a_prompt_is_a_ranking_that_training_reads() -> None:
    row = answered((0.1, 0.9, 0.5)).row()
    assert row == {
        "prompt": "p",
        "completions": [" a", " b", " c"],
        "scores": [0.1, 0.9, 0.5],
        "parts": {"tone": [0.1, 0.9, 0.5]},
        "finished": [True, True, True],
        "tokens": [2, 2, 2],
    }
    (example,) = LOCAL.to_examples(row)
    assert example.ranks == (2, 0, 1)
