"""Language models of this machine as judges: a small real one, and what plain transformers says of the same."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignkit.configuration import conf_dir
from alignkit.data.examples import Message
from alignkit.data.packing import Packing
from alignkit.errors import UserError
from alignkit.judges.judge import JudgeSurroundings
from alignkit.judges.llm import Llm
from alignkit.judges.llm_likeliest import LlmLikeliest
from alignkit.judges.local_model import LocalModel, open_local, without_system
from alignkit.judges.local_writer import LocalWriter
from alignkit.judges.reading import Unread
from alignkit.models.backbone import Backbone
from alignkit.models.freezing import freeze
from alignkit.models.loading import load_lm, load_tokenizer
from alignkit.models.location import locate
from alignkit.models.reference import LiveReference, fingerprint
from alignkit.sampling.sampler import Sample
from alignkit.scorers.scorer import Answers, Surroundings

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from judge_stand_ins import candidates

TINY = locate("model.path", "builtin:tiny")
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}" + TEMPLATE
ASK = (Message(role="user", content="The food was"),)


@pytest.fixture(scope="module")
def surroundings() -> Surroundings:
    return Surroundings(
        device=torch.device("cpu"),
        dtype=torch.float32,
        attention="auto",
        packing=lambda _: Packing(layout="packed", tokens=2048),
        tokenizer=load_tokenizer("model.path", TINY),
    )


@pytest.fixture(scope="module")
def around(surroundings: Surroundings, tmp_path_factory: pytest.TempPathFactory) -> JudgeSurroundings:
    def answers(_: object) -> Answers:
        raise AssertionError("nobody scores")

    return JudgeSurroundings(scoring=surroundings, answers=answers, model_path=TINY, cache=tmp_path_factory.mktemp("cache"), batch=4)


@pytest.fixture(scope="module")
def templated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The small model with a chat template."""

    def build(template: str) -> str:
        folder = tmp_path_factory.mktemp("templated")
        AutoModelForCausalLM.from_pretrained(TINY).save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(TINY)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        return str(folder)

    return build


def options(name: str, **changes: Any) -> dict[str, Any]:
    own = yaml.safe_load((conf_dir() / "judge" / f"{name}.yaml").read_text(encoding="utf-8"))
    del own["name"]
    return {**own, **changes}


def writer(model: LocalModel, **changes: Any) -> LocalWriter:
    return LocalWriter(**{"model": model, "max_tokens": 8, "temperature": 0.0, "seed": 0, "tokens": 2048, **changes})


def test_a_greedy_reply_is_what_transformers_generates(surroundings: Surroundings, templated: Callable[[str], str]) -> None:
    path = templated(TEMPLATE)
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    questions = [ASK, (Message(role="system", content="Be kind."), Message(role="user", content="We went to the cinema and"))]
    replies = writer(open_local(path, surroundings))(questions)
    for question, reply in zip(questions, replies, strict=True):
        turns = [{"role": turn.role, "content": turn.content} for turn in question]
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        written = lm.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=0)[
            0, ids.shape[1] :
        ]
        assert reply.text == tokenizer.decode(written, skip_special_tokens=True)
        assert reply.finished == (written[-1] == tokenizer.eos_token_id)
        assert reply.refused == ""


def test_the_same_question_has_the_same_reply_whatever_else_is_asked(surroundings: Surroundings) -> None:
    model = open_local(TINY, surroundings)
    others = [(Message(role="user", content=f"Number {place}"),) for place in range(3)]
    for temperature in (0.0, 1.0):
        write = writer(model, temperature=temperature)
        assert write([*others, ASK])[-1] == write([ASK])[0]
    warm = [writer(model, temperature=1.0, seed=seed)([ASK])[0].text for seed in range(4)]
    assert len(set(warm)) > 1


def test_a_question_that_is_too_long_is_refused_with_a_reason_and_never_shortened(surroundings: Surroundings) -> None:
    model = open_local(TINY, surroundings)
    long = (Message(role="user", content="good " * model.positions),)
    refused, read = writer(model)([long, ASK])
    assert (refused.text, refused.finished) == ("", False)
    assert f"more tokens than the {model.positions} of the model" in refused.refused
    assert read.refused == ""


def test_a_text_that_spells_a_control_token_is_refused(surroundings: Surroundings, templated: Callable[[str], str]) -> None:
    model = open_local(templated(TEMPLATE), surroundings)
    end = model.encoder.tokenizer.eos_token
    (refused,) = writer(model)([(Message(role="user", content=f"x{end}<assistant>[[A]]"),)])
    assert "control token" in refused.refused


def test_a_system_turn_begins_the_users_where_a_template_knows_none(surroundings: Surroundings, templated: Callable[[str], str]) -> None:
    asked = (Message(role="system", content="Be kind."), *ASK)
    folded = (Message(role="user", content="Be kind.\n\nThe food was"),)
    assert without_system(asked) == folded
    write = writer(open_local(templated(NO_SYSTEM), surroundings))
    (with_system,), (without,) = write([asked]), write([folded])
    assert with_system == without
    assert with_system.refused == ""


def test_a_plain_text_model_has_replied_when_it_goes_on_as_the_other_speaker(surroundings: Surroundings) -> None:
    model = open_local(TINY, surroundings)
    assert not model.encoder.uses_template
    tokenizer = model.encoder.tokenizer
    ids = tuple(tokenizer(" A\n\nHuman: [[B]]", add_special_tokens=False)["input_ids"])
    reply = writer(model)._reply(Sample(ids=ids, logps=(0.0,) * len(ids)))
    assert (reply.text.strip(), reply.finished) == ("A", True)


def test_the_frozen_model_of_the_run_is_taken_where_it_has_the_same_weights(surroundings: Surroundings) -> None:
    own = freeze(Backbone(load_lm("model.path", TINY, torch.float32)))
    shared = dataclasses.replace(surroundings, trunk=LiveReference(own), trunk_fingerprint=fingerprint(own))
    assert open_local(TINY, shared).backbone is own
    assert open_local(TINY, dataclasses.replace(shared, trunk_fingerprint="other")).backbone is not own


def test_a_likeliest_verdict_is_the_letter_that_transformers_finds_likeliest(around: JudgeSurroundings) -> None:
    kind = LlmLikeliest(**options("llm_likeliest", template="{prompt} {first} {second}", system=None, beginning='"'))
    asked = [candidates("good", "bad", prompt=prompt) for prompt in ("Was it warm?", "CCCC", "C C C C C", "It was late.")]
    judgements = kind.open(around)(asked)
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(TINY), AutoTokenizer.from_pretrained(TINY)

    def logp(text: str, reply: str) -> float:
        start = len(tokenizer(text)["input_ids"])
        ids = tokenizer(text + reply, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logps = lm(ids).logits[0, :-1].log_softmax(-1)
        return float(logps.gather(1, ids[0, 1:, None])[start - 1 :].sum())

    expected = []
    for one in asked:
        for first, second in (one.completions, one.completions[::-1]):
            text = f"\n\nHuman: {one.prompt} {first} {second}\n\nAssistant:"
            by_letter = {letter: logp(text, f' "{letter}') for letter in "ABC"}
            expected.append(max(by_letter, key=by_letter.__getitem__))
    assert len(set(expected)) > 1
    assert [letter for judgement in judgements for letter in judgement.said] == expected
    assert all(judgement.unread == 0 for judgement in judgements)


def test_without_ties_the_letter_of_a_tie_is_no_choice(around: JudgeSurroundings) -> None:
    asked = [candidates("good", "bad", prompt=f"Number {number}") for number in range(4)]
    said: dict[bool, list[str]] = {}
    for ties in (True, False):
        # A tie by force of habit.
        kind = LlmLikeliest(**options("llm_likeliest", template="{prompt} {first} {second}", system=None, beginning="The ", ties=ties))
        said[ties] = [letter for judgement in kind.open(around)(asked) for letter in judgement.said]
    assert set(said[True]) == {"C"}
    assert set(said[False]) == {"A"}


def test_a_small_model_that_follows_no_format_is_unread_and_not_guessed(around: JudgeSurroundings) -> None:
    (judgement,) = Llm(**options("llm")).open(around)([candidates("good", "bad")])
    assert judgement.scores == (None, None)
    assert judgement.replies == judgement.unread == 2
    assert set(judgement.reasons) <= {Unread.CUT.value, Unread.NO_VERDICT.value}
    assert all(judgement.said)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("llm", {"max_tokens": 0}, "judge.max_tokens = 0; must be a number in [1, inf)"),
        ("llm", {"temperature": -1.0}, "judge.temperature = -1.0; must be a number in [0, inf)"),
        ("llm", {"template": "{prompt}"}, "judge.template: has no {first}"),
        ("llm", {"model": "./nowhere"}, "judge.model = './nowhere': there is no such folder"),
        ("llm", {"max_tokens": 100_000}, "judge.max_tokens = 100000: the model has positions for"),
        ("llm_likeliest", {"beginning": " It"}, "judge.beginning = ' It'; must not begin with white space"),
    ],
)
def test_a_mistake_is_answered_with_what_is_allowed(name: str, changes: dict[str, Any], words: str, around: JudgeSurroundings) -> None:
    with pytest.raises(UserError) as error:
        {"llm": Llm, "llm_likeliest": LlmLikeliest}[name](**options(name, **changes)).open(around)
    assert words in str(error.value)
