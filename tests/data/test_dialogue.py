"""The plain-text form of dialogues."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.data.dialogue import parse_dialogue, render_dialogue
from alignkit.data.examples import Message

USER_HI = Message(role="user", content="Hi")


def test_turns_keep_their_order_and_two_in_a_row_survive() -> None:
    text = "\n\nHuman: Hi\n\nAssistant: One.\n\nAssistant: Two.\nThree."
    assert parse_dialogue(text) == (
        USER_HI,
        Message(role="assistant", content="One."),
        Message(role="assistant", content="Two.\nThree."),
    )


def test_only_the_one_space_after_the_colon_is_taken_off() -> None:
    assert parse_dialogue("\n\nHuman:   Hi \n\nAssistant:") == (
        Message(role="user", content="  Hi "),
        Message(role="assistant", content=""),
    )


def test_a_prompt_ends_where_the_assistant_speaks_next() -> None:
    assert render_dialogue([USER_HI]) == "\n\nHuman: Hi\n\nAssistant:"
    assert render_dialogue([Message(role="system", content="Be kind."), USER_HI]) == "\n\nSystem: Be kind.\n\nHuman: Hi\n\nAssistant:"


@pytest.mark.parametrize("text", ["", "Human: Hi", "Hello\n\nHuman: Hi", "\nHuman: Hi"])
def test_text_that_does_not_begin_with_a_turn_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must begin with"):
        parse_dialogue(text)


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text("ab \n:"))))
def test_rendering_and_parsing_are_inverse(turns: list[tuple[str, str]]) -> None:
    messages = tuple(Message(role=role, content=content) for role, content in turns)  # type: ignore[arg-type]
    assert parse_dialogue(render_dialogue(messages)) == (*messages, Message(role="assistant", content=""))


@pytest.mark.real
def test_real_dialogues_come_back_character_by_character(shared: Path) -> None:
    texts: list[str] = []
    with gzip.open(shared / "data/hh_rlhf/harmless_base_test.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts += [row[side] for row in map(json.loads, lines) for side in ("chosen", "rejected")]
    with gzip.open(shared / "data/hh_rlhf_dsp/helpful_base_test.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts += [text for row in map(json.loads, lines) for text in row["text"]]
    parsed = [parse_dialogue(text) for text in texts]
    same = [render_dialogue(turns[:-1]) + " " + turns[-1].content == text for turns, text in zip(parsed, texts, strict=True)]
    assert len(texts) == 2 * (1500 + 2352)
    assert sum(same) == len(same)
    assert any(one.role == two.role for turns in parsed for one, two in itertools.pairwise(turns))
