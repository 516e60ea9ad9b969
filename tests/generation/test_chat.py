"""A dialogue in the terminal, with a stand-in for the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from transformers import AutoTokenizer

from alignkit.data.examples import PreferenceExample
from alignkit.errors import UserError
from alignkit.generation.answered import AnsweredPrompt
from alignkit.generation.chat import Stream, converse
from alignkit.models.backbone import Backbone
from alignkit.models.location import locate
from alignkit.sampling.sampler import Distribution
from alignkit.sampling.trunk_sampler import TrunkSampler


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(locate("model.path", "builtin:tiny"))


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch):
    """Lets the user type these lines."""

    def type_lines(*lines: str) -> None:
        waiting: Iterator[str] = iter(lines)

        def answer(_: str) -> str:
            try:
                return next(waiting)
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr("builtins.input", answer)

    return type_lines


class Model:
    """Answers `A1`, `A2`, ... and remembers what it was asked."""

    def __init__(self, *, scores: Sequence[float] | None = None) -> None:
        self.asked: list[tuple[list[str], int]] = []
        self.scores = scores

    def __call__(self, example: PreferenceExample, turn: int) -> AnsweredPrompt:
        assert not isinstance(example.prompt, str)
        self.asked.append(([f"{message.role[0]}:{message.content}" for message in example.prompt], turn))
        count = len(self.scores or [0])
        return AnsweredPrompt(
            prompt=example.prompt,
            completions=tuple(f"A{len(self.asked)}{'' if self.scores is None else f'.{number}'}" for number in range(count)),
            scores=None if self.scores is None else tuple(self.scores),
            gold=None,
            measured={},
        )


def test_what_was_said_stays_in_the_prompt(typed, tokenizer) -> None:
    typed("one", "  ", "two")
    model = Model()
    answered = list(converse(model, Stream(tokenizer)))
    assert model.asked == [(["u:one"], 0), (["u:one", "a:A1", "u:two"], 1)]
    assert [one.completions for one in answered] == [("A1",), ("A2",)]


def test_of_several_answers_the_best_is_shown_and_goes_on(typed, capsys: pytest.CaptureFixture[str]) -> None:
    typed("one", "two")
    model = Model(scores=[0.1, 0.75, 0.2])
    list(converse(model, None))
    assert capsys.readouterr().out == "A1.1\n[score 0.75, the best of 3]\nA2.1\n[score 0.75, the best of 3]\n\n"
    assert model.asked[1][0] == ["u:one", "a:A1.1", "u:two"]


def test_what_cannot_be_asked_is_told_and_the_dialogue_goes_on(typed, capsys: pytest.CaptureFixture[str]) -> None:
    typed("bad", "good")
    model = Model(scores=[1.0])

    def picky(example: PreferenceExample, turn: int) -> AnsweredPrompt:
        if example.prompt[-1].content == "bad":  # type: ignore[union-attr]
            raise UserError("it spells a control token.")
        return model(example, turn)

    assert len(list(converse(picky, None))) == 1
    assert capsys.readouterr().out.startswith("it spells a control token.\nA1.0\n")
    assert model.asked == [(["u:good"], 1)]


def test_an_answer_that_is_interrupted_stays_in_the_dialogue_as_far_as_it_came(typed, tokenizer) -> None:
    typed("one", "two")
    stream, model = Stream(tokenizer), Model()

    def slow(example: PreferenceExample, turn: int) -> AnsweredPrompt:
        if turn == 0:
            for token in tokenizer(" The plot is", add_special_tokens=False)["input_ids"]:
                stream(token)
            raise KeyboardInterrupt
        return model(example, turn)

    assert len(list(converse(slow, stream))) == 1
    assert model.asked == [(["u:one", "a:The plot is", "u:two"], 1)]


def test_an_answer_is_shown_as_it_is_written_whole_characters_at_a_time(tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    stream = Stream(tokenizer)
    seen = []
    ids = tokenizer(" The 🙂 is", add_special_tokens=False)["input_ids"]
    for token in ids:
        stream(token)
        seen.append(capsys.readouterr().out)
    assert len(ids) > 4
    assert sum(map(bool, seen)) > 2
    assert "".join(seen) == "The 🙂 is"
    assert stream.end() == "The 🙂 is"
    assert stream.text == ""


def test_control_characters_of_an_answer_are_spelt_out(tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    stream = Stream(tokenizer)
    for token in tokenizer("a\x1b[2J\nb", add_special_tokens=False)["input_ids"]:
        stream(token)
    stream.end()
    assert capsys.readouterr().out == "a\\x1b[2J\nb\n"


def test_a_sampler_tells_each_token_as_it_is_drawn(lm_factory) -> None:
    told: list[int] = []
    distribution = Distribution(temperature=2.0)
    options = {"terminator": 2, "max_tokens": 20, "distribution": distribution, "tokens": 4096}
    backbone = Backbone(lm_factory("llama"))
    for seed in range(3):
        told.clear()
        ((sample,),) = TrunkSampler(backbone, **options, on_token=told.append)([(5, 6, 7)], samples=1, seed=seed)
        assert tuple(told) == sample.ids
        assert TrunkSampler(backbone, **options)([(5, 6, 7)], samples=1, seed=seed) == [[sample]]
