"""One row of each format, with the example it makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.rows import DroppedRow, RowError
from alignkit.data.source import RowSource
from alignkit.data.sources.hh_rlhf import HHRLHF
from alignkit.data.sources.local import Local
from alignkit.data.sources.shp import SHP
from alignkit.data.sources.stack_exchange import StackExchange
from alignkit.data.sources.tldr import TLDR
from alignkit.data.sources.ultrafeedback import UltraFeedback
from alignkit.errors import UserError

Row = Mapping[str, Any]
LOCAL = Local(columns={}, ratings=[])


def system(content: str) -> Message:
    return Message(role="system", content=content)


def user(content: str) -> Message:
    return Message(role="user", content=content)


def assistant(content: str) -> Message:
    return Message(role="assistant", content=content)


def raw(*messages: Message) -> list[dict[str, str]]:
    """Messages as a file holds them."""
    return [{"role": message.role, "content": message.content} for message in messages]


def pair(prompt: str | tuple[Message, ...], chosen: str, rejected: str, margin: float = 0.0) -> list[PreferenceExample]:
    return [PreferenceExample(prompt=prompt, completions=(chosen, rejected), margin=margin)]


def refusal(source: RowSource, row: Row) -> str:
    with pytest.raises(RowError) as caught:
        source.to_examples(row)
    return str(caught.value)


def verdict(source: RowSource, row: Row) -> str:
    with pytest.raises(DroppedRow) as caught:
        source.to_examples(row)
    return caught.value.reason


# HH-RLHF


def test_hh_the_prompt_ends_at_the_last_turn_of_the_assistant() -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant:"
    row = {"chosen": f"{start} Because.", "rejected": f"{start} Go away."}
    assert HHRLHF().to_examples(row) == pair((user("Hi"), assistant("Yes?"), user("Why?")), "Because.", "Go away.")


def test_hh_rows_of_no_use_are_dropped_by_reason() -> None:
    good = "\n\nHuman: Hi\n\nAssistant: Yes?"
    assert verdict(HHRLHF(), {"chosen": good, "rejected": "\n\nHuman: Ho\n\nAssistant: No."}) == "prompt_mismatch"
    assert verdict(HHRLHF(), {"chosen": good, "rejected": f"{good}\n\nHuman: Bye"}) == "no_reply"


def test_hh_other_texts_are_refused() -> None:
    assert refusal(HHRLHF(), {"chosen": "Yes.", "rejected": "No."}) == (
        "'chosen' is not a dialogue: must begin with '\\n\\nHuman:', not 'Yes.'. For prompts and answers as plain text use dataset=local."
    )


# UltraFeedback


def test_ultrafeedback_chats_part_at_the_last_turn() -> None:
    row = {
        "prompt": "Hi",
        "chosen": raw(user("Hi"), assistant("Hello")),
        "rejected": raw(user("Hi"), assistant("No")),
        "score_chosen": 8.5,
        "score_rejected": 6.0,
    }
    (expected,) = pair((user("Hi"),), "Hello", "No", 2.5)
    assert UltraFeedback().to_examples(row) == [replace(expected, ratings={"overall": (8.5, 6.0)})]
    without_prompt = {key: value for key, value in row.items() if key != "prompt"}
    assert UltraFeedback().to_examples(without_prompt) == UltraFeedback().to_examples(row)


def test_ultrafeedback_texts_become_one_turn_each() -> None:
    row = {"prompt": "Hi", "chosen": "Hello", "rejected": "No", "metadata": {"score_chosen": 9.0, "score_rejected": 8.0}}
    (expected,) = pair((user("Hi"),), "Hello", "No", 1.0)
    assert UltraFeedback().to_examples(row) == [replace(expected, ratings={"overall": (9.0, 8.0)})]
    assert UltraFeedback().to_examples({**row, "metadata": None}) == pair((user("Hi"),), "Hello", "No", 0.0)


def test_ultrafeedback_a_tie_is_no_preference() -> None:
    assert UltraFeedback().to_examples({"prompt": "Hi", "chosen": "a", "rejected": "b", "score_chosen": 5.0, "score_rejected": 5.0}) == []


def test_ultrafeedback_chats_with_different_prompts_are_dropped() -> None:
    row = {"chosen": raw(user("Hi"), assistant("a")), "rejected": raw(user("Ho"), assistant("b"))}
    assert verdict(UltraFeedback(), row) == "prompt_mismatch"


# SHP

SHP_ROW = {"history": "How?", "human_ref_A": "So.", "human_ref_B": "Thus.", "labels": 1, "score_A": 8, "score_B": 4, "score_ratio": 2.0}


def test_shp_the_label_chooses() -> None:
    assert SHP(min_ratio=2.0).to_examples(SHP_ROW) == pair((user("How?"),), "So.", "Thus.", 4.0)
    other = {**SHP_ROW, "labels": 0, "score_A": 3, "score_B": 9}
    assert SHP(min_ratio=2.0).to_examples(other) == pair((user("How?"),), "Thus.", "So.", 6.0)


def test_shp_close_votes_are_left_out_and_a_ratio_of_exactly_the_least_stays() -> None:
    assert SHP(min_ratio=2.0).to_examples({**SHP_ROW, "score_B": 5}) == []
    assert SHP(min_ratio=1.0).to_examples({**SHP_ROW, "score_B": 8}) != []


def test_shp_reads_the_cells_of_csv_files() -> None:
    assert SHP(min_ratio=2.0).to_examples({**SHP_ROW, "labels": "1", "score_A": "8", "score_B": "4"})[0].margin == 4.0


def test_shp_refuses_what_cannot_be() -> None:
    assert refusal(SHP(min_ratio=2.0), {**SHP_ROW, "labels": 2}) == "'labels' is 2; must be 1 (A is preferred) or 0 (B is)."
    assert refusal(SHP(min_ratio=2.0), {**SHP_ROW, "score_A": float("nan")}) == "'score_A' is nan (float); must be a finite number."
    with pytest.raises(UserError, match=r"dataset\.min_ratio = 0\.5; must be a number in \[1, inf\)"):
        SHP(min_ratio=0.5)


# Stack Exchange


def test_stack_exchange_paired_rows_are_taken_as_they_are() -> None:
    row = {"question": "Use `<div>`?", "response_j": "Yes, <b>do</b>.", "response_k": "No."}
    assert StackExchange().to_examples(row) == pair((user("Use `<div>`?"),), "Yes, <b>do</b>.", "No.")


def test_stack_exchange_every_two_answers_make_a_pair_unless_they_tie() -> None:
    answers = [{"text": f"<p>{name}</p>", "pm_score": score} for name, score in (("a", 1), ("b", 4), ("c", 1))]
    assert StackExchange().to_examples({"question": "<p>Q</p>", "answers": answers}) == [
        *pair((user("Q"),), "b", "a", 3.0),
        *pair((user("Q"),), "b", "c", 3.0),
    ]
    assert StackExchange().to_examples({"question": "Q", "answers": answers[::2]}) == []


def test_stack_exchange_keeps_the_text_of_html() -> None:
    html = (
        "<p>See <a href='x'>the  docs</a>\n&amp; <strong>try</strong>:</p>\n<pre><code>if a &lt; b:\n    go()\n</code></pre>"
        "<ul>\n<li>one</li>\n<li>two</li></ul><p>Line<br>break</p>"
    )
    answers = [{"text": html, "pm_score": 1}, {"text": "x", "pm_score": 0}]
    (example,) = StackExchange().to_examples({"question": "plain", "answers": answers})
    assert example.completions[0] == "See the docs & try:\n\nif a < b:\n    go()\n\n- one\n\n- two\n\nLine\nbreak"


def test_stack_exchange_refuses_other_answers() -> None:
    assert refusal(StackExchange(), {"question": "Q", "answers": "A"}) == "'answers' must be a list of objects with text and pm_score."
    assert refusal(StackExchange(), {"question": "Q", "answers": [{"text": "a"}, {"text": "b", "pm_score": 1}]}).startswith(
        "'pm_score' is null"
    )


# TL;DR

TLDR_ROW = {
    "info": {"post": "I slept.", "title": "Late", "subreddit": "tifu", "site": None, "article": None},
    "summaries": [{"text": " Overslept."}, {"text": "Was late\n"}],
    "choice": 1,
}


def test_tldr_the_choice_comes_first_after_one_space() -> None:
    prompt = "SUBREDDIT: r/tifu\nTITLE: Late\nPOST: I slept.\nTL;DR:"
    assert TLDR().to_examples(TLDR_ROW) == pair(prompt, " Was late", " Overslept.")
    assert TLDR().to_examples({**TLDR_ROW, "choice": 0}) == pair(prompt, " Overslept.", " Was late")


def test_tldr_leaves_news_articles_out() -> None:
    assert TLDR().to_examples({**TLDR_ROW, "info": {"post": None, "title": None, "subreddit": None, "article": "News."}}) == []


def test_tldr_refuses_what_cannot_be() -> None:
    assert refusal(TLDR(), {**TLDR_ROW, "choice": 2}) == "'choice' is 2; must be 0 or 1, the number of the better summary."
    assert refusal(TLDR(), {**TLDR_ROW, "info": "x"}) == "'info' must be an object with post, title and subreddit."
    assert refusal(TLDR(), {**TLDR_ROW, "summaries": [{"text": "x"}]}) == "'summaries' must be a list of two objects with text."


# Local


def test_local_texts_are_joined_as_they_stand() -> None:
    assert LOCAL.to_examples({"prompt": "1+1?", "chosen": " 2", "rejected": "3", "id": 7}) == pair("1+1?", " 2", "3")
    assert LOCAL.to_examples({"prompt": "1+1?", "chosen": " 2", "rejected": "3", "margin": 1.5}) == pair("1+1?", " 2", "3", 1.5)


def test_local_columns_go_by_other_names() -> None:
    source = Local(columns={"prompt": "question", "chosen": "response 1", "rejected": "response 2", "margin": "gap"}, ratings=[])
    row = {"question": "q", "response 1": "a", "response 2": "b", "gap": "0.5", "chosen": "not this"}
    assert source.to_examples(row) == pair("q", "a", "b", 0.5)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("Q: 1+1? A: 2", "Q: 1+1? A: 3", "Q: 1+1? A:"),
        ("Q: 1+1? A: 12", "Q: 1+1? A: 13", "Q: 1+1? A:"),
        ("It is four", "It is four apples", "It is"),
        ("It is", "It is four", "It"),
        ("Go on\n\nyes", "Go on\n\nno", "Go on"),
        ("Go on yes", "Go on\nno", "Go on"),
        ("\n\nHuman: Hi\n\nAssistant: a", "\n\nHuman: Hi\n\nAssistant: b", "\n\nHuman: Hi\n\nAssistant:"),
    ],
)
def test_local_an_implied_prompt_ends_before_white_space(chosen: str, rejected: str, prompt: str) -> None:
    expected = pair(prompt, chosen.removeprefix(prompt), rejected.removeprefix(prompt))
    assert LOCAL.to_examples({"chosen": chosen, "rejected": rejected}) == expected


@pytest.mark.parametrize(("chosen", "rejected"), [("yes", "no"), ("yesterday", "yes"), (" a", " b")])
def test_local_texts_without_a_common_beginning_are_dropped(chosen: str, rejected: str) -> None:
    assert verdict(LOCAL, {"chosen": chosen, "rejected": rejected}) == "prompt_mismatch"


CONTEXT = (system("Be kind."), user("Hi"))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": raw(*CONTEXT), "chosen": raw(*CONTEXT, assistant("a")), "rejected": raw(*CONTEXT, assistant("b"))},
        {"prompt": raw(*CONTEXT), "chosen": raw(assistant("a")), "rejected": raw(assistant("b"))},
        {"prompt": raw(*CONTEXT), "chosen": "a", "rejected": "b"},
        {"prompt": "Hi", "chosen": raw(*CONTEXT, assistant("a")), "rejected": raw(*CONTEXT, assistant("b"))},
        {"chosen": raw(*CONTEXT, assistant("a")), "rejected": raw(*CONTEXT, assistant("b"))},
    ],
)
def test_local_chats_come_in_five_forms_that_mean_the_same(row: Row) -> None:
    assert LOCAL.to_examples(row) == pair(CONTEXT, "a", "b")


def test_local_a_text_asks_for_a_chat_of_one_turn() -> None:
    assert LOCAL.to_examples({"prompt": "Hi", "chosen": raw(assistant("a")), "rejected": raw(assistant("b"))}) == pair(
        (user("Hi"),), "a", "b"
    )


@pytest.mark.parametrize(
    ("row", "prompt", "completion"),
    [
        ({"prompt": "p", "chosen": " c"}, "p", " c"),
        ({"prompt": "p", "completion": " c"}, "p", " c"),
        ({"text": "all of it"}, "", "all of it"),
        ({"messages": raw(*CONTEXT, assistant("a"))}, CONTEXT, "a"),
    ],
)
def test_local_without_rejected_is_a_demonstration(row: Row, prompt: str | tuple[Message, ...], completion: str) -> None:
    assert LOCAL.to_examples(row) == [PreferenceExample(prompt=prompt, completions=(completion,))]


CHAT = {"chosen": raw(user("Hi"), assistant("a")), "rejected": raw(user("Hi"), assistant("b"))}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chosen": 5}, "'chosen' is 5 (int); must be text."),
        ({"chosen": None}, "'chosen' is null or missing; every row needs it. Fill it in or delete the row."),
        ({"chosen": "a"}, "'chosen' and 'rejected' are a text and a list of messages; both must be of one kind."),
        ({"chosen": []}, "'chosen' is an empty list; must hold at least one message with role and content."),
        ({"chosen": raw(user("Hi"))}, "'chosen' ends with a turn of the user; must end with the assistant's answer."),
        ({"chosen": ["Hi"]}, "'chosen', message 1 is 'Hi' (str); must be an object with role and content."),
        ({"chosen": [{"from": "gpt", "value": "x"}]}, "'chosen', message 1 has the keys from, value; must have role and content."),
        (
            {"chosen": [{"role": "asistant", "content": "x"}]},
            "'chosen', message 1 has the role 'asistant'; must be one of system, user, assistant. Did you mean 'assistant'?",
        ),
        (
            {"chosen": [{"role": "user", "content": [{"type": "text"}]}]},
            "'chosen', message 1: content is a list of parts; must be text: images and other parts are not supported.",
        ),
        ({"chosen": [{"role": "user", "content": None}]}, "'chosen', message 1: content is None (NoneType); must be text."),
        (
            {"prompt": raw(user("Ho"))},
            "'chosen' does not begin with the messages of 'prompt', followed by one answer; must repeat them or leave them out.",
        ),
        ({"prompt": "Ho"}, "'chosen' does not hold the text of 'prompt' before its answer; must repeat it or leave it out."),
        ({"margin": "far"}, "'margin' is 'far' (str); must be a finite number."),
    ],
)
def test_local_says_what_is_wrong_with_a_row(change: Row, words: str) -> None:
    assert refusal(LOCAL, {**CHAT, **change}) == words


def test_local_an_answer_needs_a_question() -> None:
    assert refusal(LOCAL, {"chosen": raw(assistant("a")), "rejected": raw(assistant("b"))}) == (
        "'chosen' holds the answer only, and there is no column 'prompt'; a chat must begin with a question."
    )


def test_local_chats_with_different_prompts_are_dropped() -> None:
    assert verdict(LOCAL, {**CHAT, "rejected": raw(user("Ho"), assistant("b"))}) == "prompt_mismatch"


@pytest.mark.parametrize(
    ("columns", "found", "missing"),
    [
        ({}, ["prompt", "chosen", "rejected"], ()),
        ({}, ["text"], ()),
        ({}, ["prompt", "best"], ("chosen",)),
        ({}, ["prompt", "chosen", "rejcted"], ("rejected",)),
        ({}, ["prompts", "chosen", "rejected"], ("prompt",)),
        ({"prompt": "prompts"}, ["prompts", "chosen", "rejected"], ()),
        ({"chosen": "best"}, ["prompt", "chosen", "rejected"], ("best",)),
        ({}, ["chosen", "rejected", "rejected_model", "chosen-rating"], ()),
    ],
)
def test_local_a_misspelt_column_is_not_taken_for_an_absent_one(
    columns: dict[str, str], found: list[str], missing: tuple[str, ...]
) -> None:
    assert Local(columns=columns, ratings=[]).missing(found) == missing


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"chosn": "best"},
            "dataset.columns = 'chosn'; must be one of prompt, chosen, rejected, completions, margin, scores, ranks, label, "
            "chosen_rating, rejected_rating. Did you mean 'chosen'?",
        ),
        ({"chosen": ""}, "dataset.columns.chosen = ''; must be the name of a column of the file."),
        ({"chosen": "a", "rejected": "a"}, "dataset.columns.chosen = 'a' is given twice; each must name a column of its own."),
    ],
)
def test_local_checks_its_mapping(columns: dict[str, str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        Local(columns=columns, ratings=[])
    assert str(caught.value) == words
