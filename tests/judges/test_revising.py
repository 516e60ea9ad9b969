"""Answers are improved by principles; what a critic does not say in a form that can be read changes nothing and is counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from alignkit.data.examples import Message
from alignkit.errors import UserError
from alignkit.judges.principles import PACKAGED, Principle, Principles, read_constitution
from alignkit.judges.revising import CRITIQUE_FORM, REWRITER, Reviser, Revision
from alignkit.judges.revision_reading import Fault, read_critique, read_revision
from alignkit.judges.writer import Reply

ANSWER = "Earth is flat."


def said(text: str, *, finished: bool = True, refused: str = "") -> Reply:
    return Reply(text=text, finished=finished, refused=refused)


def revision(text: str) -> str | Fault:
    return read_revision(said(text), answer=ANSWER, critique="The answer is wrong.", request="Rewrite the text so that it is true.")


@pytest.mark.parametrize(
    "text",
    [
        "Earth is round.",
        "  Earth is round.\n",
        "Sure, here is the revised answer:\n\nEarth is round.",
        "Here's a better version:\nEarth is round.",
        "I've rewritten the answer so that it is true:\n\nEarth is round.",
        "Certainly! Below you find it:\n\nEarth is round.",
        "The revised answer is as follows:\nEarth is round.",
        "The original is clear. However, it could be truer. Here's a revised version:\n\nEarth is round.",
        "Revision: Earth is round.",
        "**Revised Answer:** Earth is round.",
        "**Revised answer**: Earth is round.",
        "## Revised response:\n\nEarth is round.",
        "Critique: it is wrong.\n\nRevision: Earth is round.\n\nExplanation: it was flat.",
        "Original answer: Earth is flat.\nRevised answer: Earth is round.\nChanges made: the shape.",
        '"Earth is round."',
        "Sure, here it is:\n\n“Earth is round.”",
        "```\nEarth is round.\n```",
    ],
)
def test_what_stands_around_a_revision_is_left_out(text: str) -> None:
    assert revision(text) == "Earth is round."


@pytest.mark.parametrize(
    "text",
    [
        "Sure, I can explain that. Earth is round.",
        "Here is a list: one, two, three.",
        "Steps:\n1. Look up.",
        "The answer: Earth is round.",
        '"Earth" is "round"',
        "I cannot help you to build a bomb. Please talk to somebody.",
        "I'm sorry, but I can't assist with that.",
        "Yes: it is.",
        "Note that it is not flat.",
    ],
)
def test_what_belongs_to_an_answer_stays(text: str) -> None:
    assert revision(text) == text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", Fault.EMPTY),
        (" \n", Fault.EMPTY),
        ("Revised answer:", Fault.EMPTY),
        ("Sure, here is the revised answer:\n\n", Fault.EMPTY),
        ("  earth is\nFLAT.", Fault.UNCHANGED),
        ("Revised answer: Earth is flat.", Fault.UNCHANGED),
        ("The answer is wrong.", Fault.ECHO),
        ("I see. The answer\nis wrong. I am sorry.", Fault.ECHO),
        ("Earth is round. Rewrite the text so that it is truer.", Fault.ECHO),
        ("I'm sorry, but I can't revise this answer.", Fault.DECLINED),
        ("There is no need to rewrite the answer. It is fine.", Fault.DECLINED),
        ("No revision is needed.", Fault.DECLINED),
    ],
)
def test_what_is_no_revision_is_counted_by_reason(text: str, fault: Fault) -> None:
    assert revision(text) == fault


def test_a_reply_that_was_cut_or_never_came_is_not_read() -> None:
    assert read_critique(said("It is wr", finished=False), ANSWER) is Fault.CUT
    assert read_critique(said("", finished=False, refused="too long"), ANSWER) is Fault.REFUSED
    assert read_critique(said("earth is flat."), ANSWER) is Fault.ECHO
    assert read_critique(said("**Critique:** The response is wrong."), ANSWER) == "The response is wrong."
    assert read_critique(said("Earth is a planet."), ANSWER) is Fault.OFF_TOPIC
    assert read_revision(said("Earth is ro", finished=False), answer=ANSWER, critique="x", request="y") is Fault.CUT


PRINCIPLES = Principles(all=tuple(Principle.of_line(line) for line in ("Be true.", "Be kind.", "Be short.")))


class Critic:
    """Says what a function of the question says, and remembers the questions."""

    def __init__(self, say: Callable[[tuple[Message, ...]], Reply]) -> None:
        self.say = say
        self.asked: list[list[tuple[Message, ...]]] = []

    def __call__(self, questions: Sequence[tuple[Message, ...]]) -> list[Reply]:
        self.asked.append(list(questions))
        return [self.say(question) for question in questions]


def is_request(question: tuple[Message, ...]) -> bool:
    return question[0].content.startswith(REWRITER)


def improve(question: tuple[Message, ...]) -> Reply:
    """A critique that names the answer, and a revision with one more star."""
    if is_request(question):
        return said(f"Revision: {question[-1].content}*")
    answer = question[-1].content.split("Answer: ")[1].splitlines()[0]
    return said(f"Critique: no star after {answer}, the answer")


def revise(critic: Critic, *prompts: str | tuple[Message, ...], rounds: int = 1, seed: int = 0) -> list[Revision]:
    reviser = Reviser(writer=critic, constitution=PRINCIPLES, rounds=rounds, seed=seed)
    return reviser(list(prompts), [f" answer {number}" for number in range(len(prompts))])


def test_each_round_criticises_and_revises_what_the_last_one_gave() -> None:
    critic = Critic(improve)
    one, other = revise(critic, "first?", (Message(role="system", content="s"), Message(role="user", content="second?")), rounds=2)
    assert (one.first, one.final, other.final) == (" answer 0", "answer 0**", "answer 1**")
    assert one.critiques == ("no star after answer 0, the answer", "no star after answer 0*, the answer")
    assert [len(batch) for batch in critic.asked] == [2, 2, 2, 2]
    principle = next(each for each in PRINCIPLES.all if each.name == one.principles[0])
    critique, request = critic.asked[0][0], critic.asked[1][0]
    assert critique[1].content == f"Question: first?\n\nAnswer: answer 0\n\n{principle.critique} {CRITIQUE_FORM}"
    assert request[1].content == "answer 0"
    assert all(text in request[0].content for text in ("first?", "no star after answer 0, the answer", principle.revision))
    assert "System: s\n\nUser: second?" in critic.asked[1][1][0].content
    assert (one.asked, one.read, one.unread) == ({"critiques": 2, "revisions": 2}, {"critiques": 2, "revisions": 2}, {})


def test_principles_follow_from_seed_and_prompt_alone_and_none_comes_twice_before_all_have_come() -> None:
    prompts = [f"question {number}?" for number in range(60)]
    alone = {prompt: revise(Critic(improve), prompt, rounds=3)[0].principles for prompt in prompts[:10]}
    together = revise(Critic(improve), *prompts, rounds=3)
    assert [one.principles for one in together[:10]] == list(alone.values())
    assert all(sorted(one.principles) == ["Be kind.", "Be short.", "Be true."] for one in together)
    assert [one.principles for one in revise(Critic(improve), *prompts, rounds=3, seed=1)] != [one.principles for one in together]
    assert {one.principles[0] for one in together} == {"Be kind.", "Be short.", "Be true."}
    (five,) = revise(Critic(improve), "question 0?", rounds=5)
    assert five.principles == (*together[0].principles, *together[0].principles[:2])


def test_a_critique_that_cannot_be_read_asks_for_no_revision() -> None:
    critic = Critic(lambda question: said("so, so", finished=False))
    (one,) = revise(critic, "first?", rounds=2)
    assert (one.final, one.critiques) == (None, (None, None))
    assert (one.asked, one.unread) == ({"critiques": 2, "revisions": 0}, {"critique_cut": 2})
    assert len(critic.asked) == 2


def test_a_round_that_cannot_be_read_leaves_the_answer_as_it_is() -> None:
    def second_fails(question: tuple[Message, ...]) -> Reply:
        return said("") if is_request(question) and "*" in question[-1].content else improve(question)

    (one,) = revise(Critic(second_fails), "first?", rounds=3)
    assert one.final == "answer 0*"
    assert one.unread == {"revision_empty": 2}
    (one,) = revise(Critic(lambda question: said("answer 0")), "first?")
    assert (one.final, one.unread) == (None, {"critique_echo": 1})


def test_an_answer_that_comes_back_to_what_it_was_is_none() -> None:
    def to_and_fro(question: tuple[Message, ...]) -> Reply:
        if is_request(question):
            return said("answer 0" if question[-1].content == "something else" else "something else")
        return said("The answer is bad.")

    assert [one.final for one in revise(Critic(to_and_fro), "first?", rounds=1)] == ["something else"]
    assert [one.final for one in revise(Critic(to_and_fro), "first?", rounds=2)] == [None]


def test_the_packaged_constitution_is_whole_and_short() -> None:
    principles = read_constitution("constitution", None)
    assert 8 <= len(principles.all) <= 12
    for principle in principles.all:
        assert max(map(len, (principle.critique, principle.revision, principle.comparison))) < 160
        assert principle.comparison.endswith("?")
        assert principle.revision.startswith("Rewrite the text so that ")
    assert PACKAGED.is_file()


def test_a_file_with_one_principle_a_line_is_a_constitution(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("﻿# of mine\n\nBe true.\n  Be kind, always. \n", encoding="utf-8")
    principles = read_constitution("constitution", str(file)).all
    assert [one.name for one in principles] == ["Be true.", "Be kind, always."]
    assert all("Be true." in text for text in (principles[0].critique, principles[0].revision, principles[0].comparison))


def test_a_yaml_list_of_sentences_and_of_three_requests_is_a_constitution(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "- Be true.\n- {critique: a b, revision: >-\n    c\n    d, comparison: e}\n".replace(">-\n    c\n    d", "c d"), encoding="utf-8"
    )
    assert read_constitution("constitution", str(file)).all[1] == Principle(
        name="principle 2", critique="a b", revision="c d", comparison="e"
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "must hold a list of principles"),
        ("a.txt", "# nothing\n", "must hold a list of principles"),
        ("a.yaml", "principles: [a]", "must hold a list of principles"),
        ("a.yaml", "- [", "is no YAML"),
        ("a.yaml", "- 3", r"principle 1 = 3; must be a sentence, or have critique, revision and comparison"),
        ("a.yaml", "- {critique: a, revision: b}", "comparison = None; must be text"),
        ("a.yaml", "- {critique: a, revision: b, comparision: c}", r"no such key 'comparision'\. Did you mean 'comparison'\?"),
        ("a.txt", "Be true.\nBe true.", "'Be true.' comes twice"),
        ("a.txt", "Prefer {first}.", r"holds \{first\}"),
    ],
)
def test_a_file_that_is_no_constitution_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"^constitution = '.*{name}'.*{message}"):
        read_constitution("constitution", str(tmp_path / name))


def test_a_constitution_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^judge\.file = '.*': cannot be read"):
        read_constitution("judge.file", str(tmp_path / "absent.yaml"))
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(UserError, match="is no UTF-8 text"):
        read_constitution("judge.file", str(tmp_path / "a.txt"))
