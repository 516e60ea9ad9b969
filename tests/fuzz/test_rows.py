"""Whatever a row holds becomes examples made of its own texts, is left out with a reason that is counted, or is refused in words."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alignkit.data.dialogue import parse_dialogue, render_dialogue
from alignkit.data.dropping import REASONS
from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.rows import DroppedRow, RowError
from alignkit.data.source import RowSource
from alignkit.data.sources.fine_grained_qa import FineGrainedQA
from alignkit.data.sources.hh_rlhf import HHRLHF
from alignkit.data.sources.local import Local
from alignkit.data.sources.sharegpt import ShareGPT
from alignkit.data.sources.shp import SHP
from alignkit.data.sources.stack_exchange import StackExchange
from alignkit.data.sources.tldr import TLDR
from alignkit.data.sources.ultrafeedback import UltraFeedback
from alignkit.data.sources.webgpt import WebGPT
from alignkit.evaluation.tasks.catalogue import task_kinds

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from hostile import TEXTS, VALUES, altered
from trials import fuzz, outcome

Row = dict[str, Any]

CHAT = [{"role": "user", "content": "why?"}]
LOCAL_ROWS: list[Row] = [
    {"prompt": "1+1?", "chosen": " 2", "rejected": " 3", "margin": 1.5},
    {"chosen": "Human: hi Assistant: yes", "rejected": "Human: hi Assistant: no"},
    {"prompt": CHAT, "chosen": [{"role": "assistant", "content": "so"}], "rejected": [{"role": "assistant", "content": "no"}]},
    {"chosen": [*CHAT, {"role": "assistant", "content": "so"}], "rejected": [*CHAT, {"role": "assistant", "content": "no"}]},
    {"prompt": "why?", "chosen": [*CHAT, {"role": "assistant", "content": "so"}], "label": True},
    {"prompt": "1+1?", "completions": [" 2", " 3", " 4"], "scores": [5, 1, 1e-12], "kind": [1, None, 0.5]},
    {"prompt": "1+1?", "completions": [" 2", " 3"], "ranks": [1, 2]},
    {"prompt": "1+1?", "completions": [" 2", " 3"], "label": [True, False]},
    {"prompt": "1+1?", "chosen": " 2", "rejected": " 3", "chosen_rating": 4, "rejected_rating": "1.5"},
    {"messages": [*CHAT, {"role": "assistant", "content": "so"}], "kind": 3},
    {"text": "all of it"},
]
LOCALS = [
    Local(columns={}, ratings=[]),
    Local(columns={}, ratings=["kind"]),
    Local(columns={"prompt": "text", "label": "margin"}, ratings=[]),
]
HH = "\n\nHuman: hi\n\nAssistant: yes\n\nHuman: so?\n\nAssistant: "
OTHERS: list[tuple[RowSource, Row]] = [
    (HHRLHF(), {"chosen": HH + "a", "rejected": HH + "b"}),
    (SHP(min_ratio=2.0), {"history": "How?", "human_ref_A": "So.", "human_ref_B": "Thus.", "labels": 1, "score_A": 8, "score_B": 4}),
    (StackExchange(), {"question": "<p>Why?</p>", "answers": [{"text": "<b>so", "pm_score": 2}, {"text": "&lt;no", "pm_score": 1}]}),
    (StackExchange(), {"question": "Why?", "response_j": "so", "response_k": "no"}),
    (TLDR(), {"info": {"post": "x", "title": "t", "subreddit": "s"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 1}),
    (WebGPT(), {"question": {"full_text": "Why?"}, "answer_0": "a", "answer_1": "b", "score_0": 0.5, "score_1": -0.5}),
    (WebGPT(), {"text": ["## Human:\nWhy?\n\n## Assistant:\nSo.", "## Human:\nWhy?\n\n## Assistant:\nNo."], "score": [1.5, 0.5]}),
    (ShareGPT(), {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}], "kto_tag": True, "system": "be"}),
    (
        ShareGPT(),
        {
            "conversations": [{"from": "human", "value": "hi"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
    ),
    (
        FineGrainedQA(passages=True),
        {
            "question": "q",
            "passages": [["t", "a", "b"]],
            **{f"prediction {n}": str(n) for n in range(1, 5)},
            "preference": [1, 2, 0, 1, 2, 0],
        },
    ),
    (
        UltraFeedback(),
        {
            "instruction": "i",
            "completions": [
                {"response": r, "overall_score": s, "annotations": {"helpfulness": {"Rating": "3"}, "honesty": {"Rating": "N/A"}}}
                for r, s in (("a", 5.0), ("b", 1.0))
            ],
        },
    ),
]

HTML = TEXTS | st.lists(
    st.sampled_from(["<", ">", "!", "[", "]", "-", "/", "p", "pre", "li", "a href='", "&#", "x110000;", "&lt", "CDATA[", "?", " "])
).map("".join)


def strings(value: object) -> Iterator[str]:
    """Every text in a JSON value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def made(source: RowSource, row: Row) -> list[PreferenceExample]:
    """The examples of a row of a table that has the columns which the source asks for."""
    if source.missing(row):
        return []
    found = outcome(lambda: source.to_examples(row), RowError, DroppedRow)
    return [] if is_refusal(found) else list(found)


def is_refusal(found: object) -> bool:
    """Whether a row was refused, in words or for a reason that is counted."""
    assert not isinstance(found, RowError) or str(found).endswith((".", "?"))
    assert not isinstance(found, DroppedRow) or found.reason in REASONS
    return isinstance(found, RowError | DroppedRow)


def sound(example: PreferenceExample) -> None:
    """What the rest of alignkit takes for granted of an example."""
    count = len(example.completions)
    assert count >= 1
    assert math.isfinite(example.margin)
    for feedback in (example.ranks, example.desirable):
        assert len(feedback) in (0, count)
    for ratings in example.ratings.values():
        assert len(ratings) == count
        assert not any(map(math.isinf, ratings))
    contents = [example.prompt] if isinstance(example.prompt, str) else [message.content for message in example.prompt]
    assert all(type(text) is str for text in (*contents, *example.completions))


@fuzz(150)
@given(
    row=st.sampled_from(LOCAL_ROWS).flatmap(altered) | st.dictionaries(st.sampled_from(sorted({k for r in LOCAL_ROWS for k in r})), VALUES)
)
@example(row={"prompt": "1+1?", "chosen": " 2", "rejected": " 3", "margin": 10**400})
@example(row={"prompt": "1+1?", "completions": [" 2", " 3"], "scores": [1e308, -1e308]})
@example(row={"prompt": "1+1?", "chosen": " 2", "rejected": " 3", "chosen_rating": 1e308, "rejected_rating": -1e308})
def test_a_local_row_gives_its_own_texts_and_numbers_or_says_why_not(row: object) -> None:
    if not isinstance(row, dict):
        return
    own = set(strings(row))
    for source in LOCALS:
        for found in made(source, row):
            sound(found)
            for completion in found.completions:
                whole = {completion, str(found.prompt) + completion} if isinstance(found.prompt, str) else {completion}
                assert whole & own, "a completion that stands nowhere in the row"
            turns = (found.prompt,) if isinstance(found.prompt, str) else [message.content for message in found.prompt]
            assert all(turn in own or turn == "" or any(text.startswith(turn) for text in own) for turn in turns)


@pytest.mark.parametrize(("source", "row"), OTHERS, ids=lambda value: type(value).__name__)
def test_rows_of_every_format_give_sound_examples_or_say_why_not(source: RowSource, row: Row) -> None:
    assert made(source, row), "the row that all others are made from is good"

    @fuzz(30)
    @given(other=altered(row))
    def on(other: object) -> None:
        if isinstance(other, dict):
            for found in made(source, other):
                sound(found)

    on()


@fuzz(100)
@given(html=HTML)
@example(html="<![x")
@example(html="<!")
def test_any_text_is_taken_for_html(html: str) -> None:
    for found in made(StackExchange(), {"question": html, "answers": [{"text": html, "pm_score": 1}, {"text": "x", "pm_score": 0}]}):
        sound(found)


@pytest.mark.parametrize("name", task_kinds())
def test_rows_of_every_benchmark_ask_a_sound_question_or_say_why_not(name: str) -> None:
    task = task_kinds()[name](listed=None)
    forms = [dict.fromkeys(form) for form in task.COLUMNS]
    words = TEXTS | st.sampled_from(["0", "1", "2", "3", "A", "B", "yes", "entailment", "1.0", "-1", "x _ y", "[0]"])
    cells = (
        VALUES
        | words
        | st.lists(words, max_size=4)
        | st.dictionaries(st.sampled_from(["text", "label", "stem", "choices"]), st.lists(words))
    )

    @fuzz(25)
    @given(row=st.sampled_from(forms).flatmap(lambda form: st.fixed_dictionaries(dict.fromkeys(form, cells))))
    def on(row: Row) -> None:
        question = outcome(lambda: task.to_example(row), RowError, DroppedRow)
        if not is_refusal(question):
            assert len(question.candidates) >= 2
            assert question.correct
            assert all(0 <= place < len(question.candidates) for place in question.correct)
            assert all(type(text) is str and text.strip() for text in question.candidates)

    on()


def test_a_question_whose_options_are_all_the_same_asks_nothing() -> None:
    """Found by the property above."""
    with pytest.raises(DroppedRow, match="identical"):
        task_kinds()["arc_easy"](listed=None).to_example({"query": "1+1?", "choices": ["2", "2"], "gold": "0"})


@fuzz(200)
@given(text=st.lists(TEXTS | st.sampled_from(["\n\nHuman:", "\n\nAssistant:", "\n", ":", " ", "Human: "]), max_size=8).map("".join))
def test_a_dialogue_is_written_back_as_it_stood_or_refused(text: str) -> None:
    turns = outcome(lambda: parse_dialogue(text), ValueError)
    if isinstance(turns, ValueError):
        assert str(turns).startswith("must begin with")
        assert not text.startswith(("\n\nHuman:", "\n\nAssistant:"))
        return
    rebuilt = render_dialogue(turns).removesuffix("\n\nAssistant:")
    assert rebuilt.replace(": ", ":") == text.replace(": ", ":")
    assert all(isinstance(turn, Message) for turn in turns)
