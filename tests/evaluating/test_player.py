"""How the models of a contest are asked, and how one's answers become another's tokens."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from alignkit.command_line import precheck
from alignkit.data.examples import PreferenceExample
from alignkit.evaluating.player import Player, as_opponent
from alignkit.generation.prompt_reading import Prompt
from alignkit.models.texts import Texts, save_texts
from alignkit.run_dir import RunDir
from alignkit.settings import RunSettings

TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% if m['role'] == 'assistant' %}</s> {% endif %}{% endfor %}"


@pytest.fixture(scope="module")
def settings() -> RunSettings:
    return precheck(["rollout.max_tokens=8"])[0]


@pytest.fixture
def run(tmp_path: Path, lm_factory: Any, tokenizer_factory: Any) -> RunDir:
    """A run directory whose model has a chat template."""
    found = RunDir(tmp_path / "run")
    lm_factory("gpt2").save_pretrained(found.model)
    tokenizer = tokenizer_factory()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(found.model)
    return found


def of_format(settings: RunSettings, form: str) -> RunSettings:
    return dataclasses.replace(settings, dataset=dataclasses.replace(settings.dataset, format=form))


def asked(text: str) -> Prompt:
    return Prompt(example=PreferenceExample(prompt=text, completions=()), place="here")


def form_of(opponent: str | Path, settings: RunSettings) -> str:
    return as_opponent("evaluation.opponent", str(opponent), settings, of_dataset=False).settings.dataset.format


def test_an_opponent_is_asked_as_it_was_trained(run: RunDir, settings: RunSettings) -> None:
    for kind, form in (("chat", "chat"), ("text", "text"), ("dialogue", "text")):
        save_texts(run.texts, Texts(kind=kind, terminator_id=2))
        assert form_of(run.path, of_format(settings, "chat")) == form
        assert form_of(run.model, of_format(settings, "text")) == form


def test_an_opponent_that_no_run_made_is_asked_as_the_model_is_where_it_can_be(run: RunDir, settings: RunSettings) -> None:
    assert [form_of(run.path, of_format(settings, form)) for form in ("auto", "chat", "text")] == ["auto", "chat", "text"]
    assert form_of("builtin:tiny", of_format(settings, "chat")) == "text", "it has no chat template"


def test_an_answer_of_others_has_an_end_where_it_ended(run: RunDir, settings: RunSettings) -> None:
    player = Player.at("model.path", str(run.path), settings, of_dataset=False)
    for finished, ids in ((True, (7, 8, 2)), (False, (7, 8))):
        reply = player.read(3, asked("w5 w6"), " w7 w8", finished=finished)
        assert reply is not None
        assert (reply.tokens.prompt_ids, reply.tokens.completion_ids, reply.text) == ((5, 6), (ids,), " w7 w8")
    empty = player.read(0, asked("w5"), "", finished=False)
    assert empty is not None
    assert empty.tokens.completion_ids == ((2,),), "one token at least"
    assert player.read(0, asked("w5"), " w7 </s> w8") is None, "a control token in the text"
