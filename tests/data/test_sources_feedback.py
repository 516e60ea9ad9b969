"""One row of each format that holds more than pairs, with the example it makes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.forms import Form
from alignkit.data.rows import DroppedRow, RowError
from alignkit.data.source import RowSource
from alignkit.data.sources.fine_grained_qa import FineGrainedQA
from alignkit.data.sources.hh_rlhf import HHRLHF
from alignkit.data.sources.local import Local
from alignkit.data.sources.sharegpt import ShareGPT
from alignkit.data.sources.ultrafeedback import UltraFeedback
from alignkit.data.sources.webgpt import WebGPT

Row = Mapping[str, Any]
LOCAL = Local(columns={}, ratings=[])
WHY = (Message(role="user", content="Why?"),)
NAN = math.nan


def one(source: RowSource, row: Row) -> PreferenceExample:
    (example,) = source.to_examples(row)
    return example


def refusal(source: RowSource, row: Row) -> str:
    with pytest.raises(RowError) as caught:
        source.to_examples(row)
    return str(caught.value)


def verdict(source: RowSource, row: Row) -> str:
    with pytest.raises(DroppedRow) as caught:
        source.to_examples(row)
    return caught.value.reason


# Local: labels


@pytest.mark.parametrize(
    ("label", "desirable"), [(True, (True,)), (False, (False,)), ("True", (True,)), ("false", (False,)), (None, ()), (1, ()), ("3", ())]
)
def test_local_a_label_says_whether_the_answer_is_wanted(label: object, desirable: tuple[bool, ...]) -> None:
    # numbers in a column that nobody mapped are classes of something
    example = one(LOCAL, {"prompt": "p", "completion": " c", "label": label})
    assert example == PreferenceExample(prompt="p", completions=(" c",), desirable=desirable)


def test_local_labels_in_a_column_that_is_named_may_be_numbers() -> None:
    source = Local(columns={"label": "liked"}, ratings=[])
    assert one(source, {"prompt": "p", "completion": " c", "liked": 0}).desirable == (False,)
    assert one(source, {"prompt": "p", "completion": " c", "liked": "1"}).desirable == (True,)
    assert refusal(source, {"prompt": "p", "completion": " c", "liked": 3}) == "'liked' holds 3 (int); must hold true or false."
    assert refusal(source, {"prompt": "p", "completion": " c", "liked": None}).startswith("'liked' is null or missing")


def test_local_a_chat_with_a_label_is_one_as_well() -> None:
    chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    assert one(LOCAL, {"messages": chat, "label": False}) == PreferenceExample(prompt=WHY, completions=("So.",), desirable=(False,))


def test_local_a_pair_needs_no_label() -> None:
    assert one(LOCAL, {"prompt": "p", "chosen": "a", "rejected": "b", "label": True}).desirable == ()


# Local: several answers


def test_local_scores_rank_answers_and_equal_ones_tie() -> None:
    assert one(LOCAL, {"prompt": "p", "completions": ["a", "b", "c"], "scores": [2, 5.5, 2]}) == PreferenceExample(
        prompt="p", completions=("a", "b", "c"), margin=3.5, ranks=(1, 0, 1), ratings={"overall": (2.0, 5.5, 2.0)}
    )


def test_local_ranks_are_best_when_low_and_begin_anywhere() -> None:
    assert one(LOCAL, {"prompt": "p", "completions": ["a", "b", "c"], "ranks": [3, 1, 2]}).ranks == (2, 0, 1)
    both = one(LOCAL, {"prompt": "p", "completions": ["a", "b"], "ranks": [2, 1], "scores": [9, 8]})
    assert (both.ranks, both.ratings) == ((1, 0), {"overall": (9.0, 8.0)}), "ranks are said, scores are rated"


def test_local_answers_without_feedback_come_best_first() -> None:
    assert one(LOCAL, {"prompt": "p", "completions": ["a", "b", "c"]}) == PreferenceExample(prompt="p", completions=("a", "b", "c"))


def test_local_labels_of_several_answers_rank_them() -> None:
    example = one(LOCAL, {"prompt": "p", "completions": ["a", "b", "c"], "label": [False, True, True]})
    assert (example.ranks, example.desirable) == ((1, 0, 0), (False, True, True))
    assert Form.pairs().of(example).completions == ("b", "a")


def test_local_answers_may_be_chats_or_texts_with_a_common_beginning() -> None:
    answers = [[{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer}] for answer in "ab"]
    assert one(LOCAL, {"completions": answers, "scores": [1, 2]}).prompt == WHY
    texts = one(LOCAL, {"completions": ["1+1? 2", "1+1? 3", "1+1? 4"]})
    assert (texts.prompt, texts.completions) == ("1+1?", (" 2", " 3", " 4"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"completions": []}, "'completions' is [] (list); must be a list with at least one element."),
        ({"completions": "a"}, "'completions' is 'a' (str); must be a list with at least one element."),
        ({"completions": ["a", 5]}, "'completions, element 2' is 5 (int); must be text."),
        ({"completions": ["a", None]}, "'completions, element 2' is null or missing; every row needs it. Fill it in or delete the row."),
        ({"scores": [1]}, "'scores' is [1] (list); must be a list of 2, one for each completion."),
        ({"scores": [1, "x"]}, "'scores' holds 'x' (str); must hold finite numbers."),
        ({"scores": [1, None]}, "'scores' is [1, None] (list); must be a list of finite numbers."),
        ({"scores": None, "ranks": [1, 2, 3]}, "'scores' is None (NoneType); must be a list of finite numbers."),
        ({"label": [True]}, "'label' is [True] (list); must be a list of 2, true or false for each completion."),
    ],
)
def test_local_says_what_is_wrong_with_a_list(change: Row, words: str) -> None:
    assert refusal(LOCAL, {"prompt": "p", "completions": ["a", "b"], "scores": [2, 1], **change}) == words


# Local: ratings


def test_local_ratings_of_a_pair_are_its_margin() -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "chosen_rating": 4, "rejected_rating": "1.5"}
    assert one(LOCAL, row) == PreferenceExample(prompt="p", completions=("a", "b"), margin=2.5, ratings={"overall": (4.0, 1.5)})
    assert one(LOCAL, {**row, "margin": 7}).margin == 7.0
    named = Local(columns={"chosen_rating": "good", "rejected_rating": "bad"}, ratings=[])
    assert one(named, {"prompt": "p", "chosen": "a", "rejected": "b", "good": 4, "bad": 1}).margin == 3.0


def test_local_attributes_are_the_columns_that_are_named() -> None:
    source = Local(columns={"chosen": "response"}, ratings=["helpfulness", "verbosity"])
    row = {"prompt": "p", "response": " c", "helpfulness": 4, "verbosity": None}
    assert one(source, row).ratings == {"helpfulness": (4.0,), "verbosity": (NAN,)}
    several = {"prompt": "p", "completions": ["a", "b"], "helpfulness": [4, None], "verbosity": None}
    assert one(Local(columns={}, ratings=["helpfulness", "verbosity"]), several).ratings == {
        "helpfulness": (4.0, NAN),
        "verbosity": (NAN, NAN),
    }
    assert refusal(source, {**row, "helpfulness": "very"}) == "'helpfulness' holds 'very' (str); must hold finite numbers."


@pytest.mark.parametrize(
    ("source", "found", "missing"),
    [
        (LOCAL, ["prompt", "completions"], ()),
        (LOCAL, ["prompt", "completions", "scores", "ranks", "label"], ()),
        (LOCAL, ["prompt", "completion", "label"], ()),
        (Local(columns={"completions": "answers"}, ratings=[]), ["prompt", "answers"], ()),
        (Local(columns={"completions": "answers"}, ratings=[]), ["prompt", "replies"], ("answers",)),
        (Local(columns={}, ratings=["style"]), ["prompt", "chosen"], ("style",)),
    ],
)
def test_local_knows_its_columns(source: Local, found: list[str], missing: tuple[str, ...]) -> None:
    assert source.missing(found) == missing


# UltraFeedback with all of its answers


def answer(response: str, overall: float | None, **ratings: object) -> Row:
    annotations = {attribute: {"Rating": rating, "Rationale": "..."} for attribute, rating in ratings.items()}
    return {"model": "m", "response": response, "overall_score": overall, "annotations": annotations}


ULTRA = {
    "source": "evol_instruct",
    "instruction": "Why?",
    "completions": [
        answer("a", 4.0, helpfulness="2", honesty="5", instruction_following="1", truthfulness="N/A"),
        answer("b", 8.5, helpfulness="4", honesty="3", instruction_following="5", truthfulness="2"),
        answer("c", 8.5, helpfulness=5, honesty=None),
    ],
}


def test_ultrafeedback_answers_are_ranked_by_the_overall_score_and_rated_by_attribute() -> None:
    assert one(UltraFeedback(), ULTRA) == PreferenceExample(
        prompt=WHY,
        completions=("a", "b", "c"),
        margin=4.5,
        ranks=(1, 0, 0),
        ratings={
            "overall": (4.0, 8.5, 8.5),
            "helpfulness": (2.0, 4.0, 5.0),
            "honesty": (5.0, 3.0, NAN),
            "instruction_following": (1.0, 5.0, NAN),
            "truthfulness": (NAN, 2.0, NAN),
        },
    )


def test_ultrafeedback_rows_of_no_use_are_dropped_and_others_refused() -> None:
    assert verdict(UltraFeedback(), {"instruction": "Why?", "completions": []}) == "no_reply"
    assert verdict(UltraFeedback(), {"instruction": "Why?", "completions": [answer("a", None)]}) == "no_rating"
    assert refusal(UltraFeedback(), {"instruction": "Why?", "completions": ["a"]}).startswith("'completions' must be a list of objects")
    assert refusal(UltraFeedback(), {"instruction": "Why?", "completions": [answer("a", 1.0, honesty="much")]}).startswith(
        "'honesty' is 'much'"
    )


# WebGPT


def test_webgpt_the_score_says_who_is_better_and_by_how_much() -> None:
    row = {"question": {"full_text": "Why?\n"}, "answer_0": "a", "score_0": -0.5, "answer_1": "b", "score_1": 0.5}
    expected = PreferenceExample(prompt=WHY, completions=("a", "b"), margin=1.0, ranks=(1, 0), ratings={"overall": (-0.5, 0.5)})
    assert one(WebGPT(), row) == expected
    texts = [f"## Human:\nWhy?\n\n\n## Assistant:\n{letter}" for letter in "ab"]
    assert one(WebGPT(), {"text": texts, "score": [0.5, 1.5]}) == replace(expected, ratings={"overall": (0.5, 1.5)})


def test_webgpt_a_tie_is_one() -> None:
    tie = one(WebGPT(), {"question": {"full_text": "Why?"}, "answer_0": "a", "score_0": 0, "answer_1": "b", "score_1": 0})
    assert (tie.ranks, tie.margin) == ((0, 0), 0.0)


def test_webgpt_refuses_other_texts() -> None:
    assert refusal(WebGPT(), {"text": ["Why?", "So."], "score": [1, 0]}).startswith("'text' must hold texts of the form")
    other = ["## Human:\nWhy?\n\n## Assistant:\na", "## Human:\nHow?\n\n## Assistant:\nb"]
    assert verdict(WebGPT(), {"text": other, "score": [1, 0]}) == "prompt_mismatch"


# QA-Feedback

QA = {
    "question": "Why?",
    "passages": [["Title", "One.", "Two."], ["Other", "Three."]],
    **{f"prediction {place}": letter for place, letter in enumerate("abcd", start=1)},
    # a-b neither, a-c a, a-d d, b-c b, b-d neither, c-d d: d wins two, b one, a loses as many as it wins, c loses three
    "preference": [0, 1, 2, 1, 0, 2],
}


def test_fine_grained_qa_comparisons_make_a_ranking() -> None:
    assert one(FineGrainedQA(passages=False), QA) == PreferenceExample(prompt=WHY, completions=tuple("abcd"), ranks=(2, 1, 3, 0))
    nobody = one(FineGrainedQA(passages=False), {**QA, "preference": [0] * 6})
    assert nobody.ranks == (0, 0, 0, 0)


def test_fine_grained_qa_passages_stand_before_the_question() -> None:
    (message,) = one(FineGrainedQA(passages=True), QA).prompt
    assert isinstance(message, Message)
    assert message.content == "Title\nOne. Two.\n\nOther\nThree.\n\nWhy?"


def test_fine_grained_qa_refuses_what_cannot_be() -> None:
    source = FineGrainedQA(passages=True)
    assert refusal(source, {**QA, "preference": [3] * 6}).startswith("'preference' holds 3; must hold 1")
    assert refusal(source, {**QA, "preference": [1]}).startswith("'preference' is [1] (list); must be a list of 6")
    assert one(source, {**QA, "passages": []}).prompt == WHY
    assert refusal(source, {**QA, "passages": ["x"]}) == "'passages' must be a list of lists: a title and its sentences."


# ShareGPT


def said(speaker: str, value: str) -> Row:
    return {"from": speaker, "value": value}


def test_sharegpt_pairs_labels_and_demonstrations() -> None:
    question = [said("system", "Be kind."), said("human", "Why?")]
    prompt = (Message(role="system", content="Be kind."), *WHY)
    row = {"conversations": question, "chosen": said("gpt", "a"), "rejected": said("gpt", "b")}
    assert one(ShareGPT(), row) == PreferenceExample(prompt=prompt, completions=("a", "b"))
    dialogue = {"conversations": [*question, said("gpt", "a")]}
    assert one(ShareGPT(), dialogue) == PreferenceExample(prompt=prompt, completions=("a",))
    assert one(ShareGPT(), {**dialogue, "kto_tag": False}).desirable == (False,)
    assert one(ShareGPT(), {**dialogue, "label": None}).desirable == ()
    assert one(ShareGPT(), {"system": "Be kind.", "conversations": [said("human", "Why?"), said("gpt", "a")]}).prompt == prompt


def test_sharegpt_refuses_other_turns() -> None:
    assert verdict(ShareGPT(), {"conversations": [said("human", "Why?")]}) == "no_reply"
    assert refusal(ShareGPT(), {"conversations": [said("humn", "Why?")]}) == (
        "'conversations', turn 1 is from 'humn'; must be from one of system, human, user, gpt, assistant. Did you mean 'human'?"
    )
    words = "'chosen' must be an object with from and value, both text."
    assert refusal(ShareGPT(), {"conversations": [said("human", "Why?")], "chosen": "a", "rejected": said("gpt", "b")}) == words


# HH-RLHF as collections bring it


def test_hh_dialogues_by_score() -> None:
    chosen, rejected = ("\n\nHuman: Hi\n\nAssistant: Hello", "\n\nHuman: Hi\n\nAssistant: No")
    expected = HHRLHF().to_examples({"chosen": chosen, "rejected": rejected})
    assert HHRLHF().to_examples({"text": [chosen, rejected], "score": [1.0, 0.0]}) == expected
    assert HHRLHF().to_examples({"text": [rejected, chosen], "score": [0.0, 1.0]}) == expected
    assert verdict(HHRLHF(), {"text": [rejected, chosen], "score": [1.0, 1.0]}) == "tie"
    assert refusal(HHRLHF(), {"text": [chosen], "score": [1.0]}) == "'text' must be a list of two dialogues."
