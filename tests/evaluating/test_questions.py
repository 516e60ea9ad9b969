"""Asking benchmarks: which tasks are there, and what scorers that are no part of the model are told. Models are run in end_to_end/."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from alignkit.data.encoding import Encoder
from alignkit.data.examples import Message
from alignkit.data.question_rows import Questions
from alignkit.data.questions import Question
from alignkit.errors import UserError
from alignkit.evaluating import questions as module
from alignkit.evaluating.questions import AT_ONCE, by_other, joined, read_tasks, strength, write
from alignkit.evaluation.asked import Asked, ask
from alignkit.evaluation.scoring import OTHER, ScoredQuestion
from alignkit.evaluation.tasks.catalogue import find_task
from alignkit.evaluation_settings import QuestionsSettings
from alignkit.loss_settings import HeadSettings
from alignkit.models.backbone import Backbone
from alignkit.models.export import save_heads
from alignkit.models.heads import Heads
from alignkit.run_dir import RunDir
from alignkit.scorers.saved_heads import saved_head
from alignkit.scorers.scorer import Answers, Scores

Tokenizers = Callable[..., PreTrainedTokenizerFast]
TEMPLATE = "{% for m in messages %}{{ '<s> ' + m['content'] + ' <pad> ' }}{% endfor %}{% if add_generation_prompt %}{{ '<s> ' }}{% endif %}"


def asked(tokenizer: PreTrainedTokenizerFast, *questions: Question, format: str = "auto") -> Asked:
    encoder = Encoder(tokenizer, format=format, max_length=100, overflow="trim")
    task = find_task("arc_easy", "evaluation.tasks", listed=None)
    return ask("arc_easy", task, Questions(questions=list(questions)), encoder, "evaluation.tasks")


class Longest:
    """Prefers longer texts, and keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[Answers] = []

    def __call__(self, answers: Answers) -> Scores:
        self.calls.append(answers)
        return Scores(total=torch.tensor([float(len(text)) for text in answers.completions]))


# Scorers that are no part of the model


def test_another_scorer_reads_each_candidate_after_its_own_prompt(tokenizer_factory: Tokenizers) -> None:
    several = [
        Question(prompt="w5 w6", candidates=(" w7", " w8 w9"), correct=(0,)),
        Question(prompt="w10", candidates=(" w11", " w12", " w13 w14 w15", " w11"), correct=(2,)),
    ]
    tokenizer, scorer = tokenizer_factory(), Longest()
    said = list(by_other(asked(tokenizer, *several), scorer, tokenizer))
    (answers,) = scorer.calls
    assert answers.prompt_of_each == ["w5 w6"] * 2 + ["w10"] * 4
    assert answers.completions == (" w7", " w8 w9", " w11", " w12", " w13 w14 w15", " w11")
    assert bool(answers.finished.all())
    assert [one.by("anything") for one in said] == [(3.0, 6.0), (4.0, 4.0, 12.0, 4.0)]
    assert [one.lengths for one in said] == [(1, 2), (1, 1, 3, 1)], "without the terminator"
    assert [one.key for one in said] == [0, 1]


def test_what_is_given_is_no_part_of_the_prompt_and_stands_before_the_candidate(tokenizer_factory: Tokenizers) -> None:
    # Both names begin with the same word, which the candidates share as tokens.
    one = Question(prompt="w5", given=(" w6 w7", " w6 w8"), candidates=(" w9", " w9"), correct=(0,))
    tokenizer, scorer = tokenizer_factory(), Longest()
    (said,) = by_other(asked(tokenizer, one), scorer, tokenizer)
    assert scorer.calls[0].prompts == ("w5",)
    assert scorer.calls[0].completions == (" w6 w7 w9", " w6 w8 w9")
    assert said.lengths == (1, 1), "log-probs would be asked of what follows alone"


def test_answers_of_one_call_end_alike(tokenizer_factory: Tokenizers) -> None:
    tokenizer = tokenizer_factory()
    tokenizer.chat_template = TEMPLATE
    text = Question(prompt="w5", candidates=(" w6", " w7"), correct=(0,))
    chat = Question(prompt=(Message(role="user", content="w8"),), candidates=("w9", "w10 w11"), correct=(0,))
    scorer = Longest()
    said = list(by_other(asked(tokenizer, text, chat, chat, text), scorer, tokenizer))
    assert [(call.terminator, len(call.examples)) for call in scorer.calls] == [(2, 1), (0, 2), (2, 1)]
    assert all(bool(call.finished.all()) for call in scorer.calls)
    assert scorer.calls[1].prompts == ("w8", "w8"), "the template's tokens are no text"
    assert [one.key for one in said] == [0, 1, 2, 3]
    assert [one.by("x") for one in said] == [(3.0, 3.0), (2.0, 7.0), (2.0, 7.0), (3.0, 3.0)]


def test_a_text_is_a_users_turn_under_chat_and_its_text_is_scored(tokenizer_factory: Tokenizers) -> None:
    tokenizer, scorer = tokenizer_factory(), Longest()
    tokenizer.chat_template = TEMPLATE
    one = Question(prompt="w5", given=(" w6", " w7"), candidates=(" w8", " w9"), correct=(0,))
    (said,) = by_other(asked(tokenizer, one, format="chat"), scorer, tokenizer)
    assert scorer.calls[0].prompts == ("w5",)
    assert scorer.calls[0].completions == (" w6 w8", " w7 w9")
    assert said.lengths == (2, 2), "a template has no place for what is given: it is scored too"


def test_many_questions_are_asked_a_few_at_a_time_and_keep_their_order(tokenizer_factory: Tokenizers) -> None:
    tokenizer, scorer, count = tokenizer_factory(), Longest(), AT_ONCE + 3
    several = [Question(prompt="w5", candidates=(" w6", " w7" * (1 + n)), correct=(0,)) for n in range(count)]
    said = list(by_other(asked(tokenizer, *several), scorer, tokenizer))
    assert [len(call.examples) for call in scorer.calls] == [AT_ONCE, 3]
    assert [one.by("x")[1] for one in said] == [3.0 * (1 + n) for n in range(count)]
    assert len({example.key for example in scorer.calls[0].examples}) == AT_ONCE


# Heads of the run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_that_read_different_places_are_one_module(
    lm_factory: Callable[..., PreTrainedModel], tokenizer_factory: Tokenizers, tmp_path: Path, dtype: torch.dtype
) -> None:
    backbone = Backbone(lm_factory("llama", dtype=dtype))
    settings = {
        "last": HeadSettings(name="last", pooler="swiglu_bert", dropout=0.5, init_std=0.3),
        "all": HeadSettings(name="all", pooler="identity", dropout=0.0, init_std=0.3, layers=[0, 1], tokens="attention"),
    }
    run = RunDir.create(tmp_path / "run")
    run.model.mkdir()
    heads = Heads(backbone.hidden_width, settings).eval()
    save_heads(run, heads, terminator=2, tokenizer=tokenizer_factory())
    both = joined(backbone, {name: saved_head(run.path, name) for name in settings}).to(dtype)
    assert (tuple(both), both.layers, both.attend) == (("last", "all"), (-1, 0, 1), True)
    assert not any(part.training for name in both for part in both.head(name).modules())
    states = torch.randn(3, backbone.hidden_width, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(both.scores("last", states), heads.to(dtype).scores("last", states))


# The strength of the implicit reward


@pytest.mark.parametrize(
    ("config", "expected"),
    [("loss: {name: dpo, beta: 0.3}", 0.3), ("loss: {name: sft}", 1.0), ("loss: {name: con_dph, beta: null}", 1.0), ("[", 1.0)],
)
def test_a_loss_without_a_strength_has_one_under_which_the_best_candidate_is_the_same(tmp_path: Path, config: str, expected: float) -> None:
    run = RunDir.create(tmp_path / "run")
    run.config.write_text(config)
    assert strength(run) == expected
    assert strength(None) == 1.0


# Which tasks


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., QuestionsSettings]:
    """Of an evaluation of a folder that has BoolQ and COPA."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    rows = {
        "boolq": {"passage": "p", "question": "is it", "answer": True},
        "copa": {"premise": "It fell.", "choice1": "It broke.", "choice2": "It rose.", "question": "effect", "label": 0},
    }
    for name, row in rows.items():
        file = tmp_path / "all" / name / "validation.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text((json.dumps(row) + "\n") * 5)

    def build(*tasks: str, path: str | None = "all", limit: int | None = None) -> QuestionsSettings:
        return QuestionsSettings(name="mine", tasks=list(tasks), averages={}, path=path, limit=limit, listed=None, resamples=100)

    return build


def test_a_folder_has_some_tasks_and_those_that_it_lacks_are_told(
    settings: Callable[..., QuestionsSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    found = dict(read_tasks(settings("piqa", "copa", "boolq", "hellaswag", "copa", limit=3)))
    assert list(found) == ["copa", "boolq"]
    assert {name: len(read.questions) for name, (_, read) in found.items()} == {"copa": 3, "boolq": 3}
    assert capsys.readouterr().out == "left out: piqa, hellaswag (no rows in all)\n"
    assert list(dict(read_tasks(settings("boolq", path="all/boolq/validation.jsonl")))) == ["boolq"]
    assert capsys.readouterr().out == ""


def test_a_folder_with_none_of_the_tasks_is_refused(settings: Callable[..., QuestionsSettings]) -> None:
    with pytest.raises(UserError, match=r"^evaluation\.path = 'all': no rows of piqa to evaluate; .* and found boolq, copa"):
        list(read_tasks(settings("piqa", "hellaswag")))


def test_without_a_path_every_task_is_asked_of_the_hub(settings: Callable[..., QuestionsSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[tuple[str, str | None, bool]] = []

    def read(task: object, name: str, path: str | None, *, train: bool, where: str, limit: int | None) -> Questions:
        asked_for.append((name, path, train))
        return Questions(questions=[])

    monkeypatch.setattr(module, "read_questions", read)
    assert list(dict(read_tasks(settings("piqa", "boolq", path=None)))) == ["piqa", "boolq"]
    assert asked_for == [("piqa", None, False), ("boolq", None, False)]


def test_a_line_a_question_says_what_was_said_of_it(tokenizer_factory: Tokenizers) -> None:
    one = asked(tokenizer_factory(), Question(prompt="w5", candidates=(" w6", " w7 w8"), correct=(1,), group="gruß"))
    file = io.StringIO()
    write(file, one, [ScoredQuestion(key=0, scores={"logp_sum": (-1.5, -2.0), "dph": (0.25, 0.5)}, lengths=(1, 2))], ["dph", "logp_sum"])
    write(file, one, [ScoredQuestion(key=0, scores={OTHER: (1.0, 2.0)}, lengths=(1, 2))], ["vader"])
    first, second = (json.loads(line) for line in file.getvalue().splitlines())
    digest = one.questions[0].digest
    assert first == {
        "task": "arc_easy", "question": digest, "group": "gruß", "correct": [1], "tokens": [1, 2],
        "scores": {"dph": [0.25, 0.5], "logp_sum": [-1.5, -2.0]},
    }  # fmt: skip
    assert second["scores"] == {"vader": [1.0, 2.0]}
