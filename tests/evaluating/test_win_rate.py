"""A contest from settings to files: the small model that ships with alignkit, on generated reviews, judged by a lexicon."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.command_line import precheck
from alignkit.configuration import packaged
from alignkit.data.examples import EncodedExample, Message, PreferenceExample
from alignkit.data.source import load_examples
from alignkit.errors import UserError
from alignkit.evaluating.outcome import Outcome
from alignkit.evaluating.player import Reply
from alignkit.evaluating.rounds import Round, candidates_of
from alignkit.evaluating.win_rate import chosen_of, evaluate
from alignkit.evaluation_settings import CHOSEN, EvaluateSettings, WinRateSettings
from alignkit.generate_settings import GenerateSettings
from alignkit.generation.answering import build_answering
from alignkit.generation.prompt_reading import Prompt
from alignkit.judge_assembly import judge_settings
from alignkit.models.loading import load_lm, load_tokenizer
from alignkit.models.location import locate
from alignkit.resolution import build_source
from alignkit.rollout_assembly import gold_settings
from alignkit.run_dir import RunDir
from alignkit.scorers.sentiment import compound
from alignkit.settings import RunSettings

PROMPTS = 20
TINY = "builtin:tiny"


@dataclass(frozen=True)
class Contest:
    outcome: Outcome
    rows: list[dict[str, Any]]


Play = Callable[..., Contest]


@pytest.fixture(scope="module")
def settings() -> RunSettings:
    plain = precheck(["rollout.max_tokens=24", "batch.pairs=8", "dataset.train_examples=40", f"dataset.validation_examples={PROMPTS}"])[0]
    return dataclasses.replace(plain, scorer=gold_settings("vader"))


@pytest.fixture(scope="module")
def play(settings: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Play:
    def play(
        opponent: str,
        *,
        prompts: str = "dataset",
        limit: int | None = None,
        settings: RunSettings = settings,
        judge: Mapping[str, Any] | None = None,
    ) -> Contest:
        run = RunDir.create(tmp_path_factory.mktemp("contest") / "run")
        contest = WinRateSettings(name="win_rate", opponent=opponent, prompts=prompts, limit=limit, resamples=100)
        own = EvaluateSettings(
            evaluation=contest,
            scorers=("vader",) if judge is None else (),
            against=None,
            judge=None if judge is None else judge_settings(judge, []),
        )
        outcome = evaluate(settings, own, run)
        return Contest(outcome=outcome, rows=[json.loads(line) for line in run.samples.read_text(encoding="utf-8").splitlines()])

    return play


@pytest.fixture(scope="module")
def against_chosen(play: Play) -> Contest:
    return play(CHOSEN)


def test_the_opponent_is_the_chosen_answer_of_each_held_out_prompt(against_chosen: Contest, settings: RunSettings) -> None:
    examples = load_examples(settings.dataset, build_source(settings.dataset, [])).validation
    assert [(row["prompt"], row["theirs"]) for row in against_chosen.rows] == [(one.prompt, one.completions[0]) for one in examples]
    tokenizer = load_tokenizer("model.path", locate("model.path", TINY))
    row = against_chosen.rows[0]
    # Its own tokens and the end.
    assert row["tokens"][1] == len(tokenizer(row["theirs"], add_special_tokens=False)["input_ids"]) + 1


def test_answers_are_those_that_generate_samples(against_chosen: Contest, settings: RunSettings) -> None:
    one_each = dataclasses.replace(settings, rollout=dataclasses.replace(settings.rollout, samples=1))
    sampled = [one.completions[0] for batch in build_answering(one_each, GenerateSettings()).batches() for one in batch]
    assert [row["ours"] for row in against_chosen.rows] == sampled
    assert len(set(sampled)) > PROMPTS / 2


def test_scores_verdicts_and_the_rate_follow_from_the_texts(against_chosen: Contest) -> None:
    verdicts = Counter[str]()
    for row in against_chosen.rows:
        ours, theirs = compound(row["ours"]), compound(row["theirs"])
        assert row["scores"] == pytest.approx([ours, theirs], abs=1e-6)
        assert row["verdict"] == ("win" if ours > theirs else "loss" if ours < theirs else "tie")
        verdicts[row["verdict"]] += 1
    results = against_chosen.outcome.results
    assert [results["wins"], results["ties"], results["losses"]] == [verdicts["win"], verdicts["tie"], verdicts["loss"]]
    assert results["prompts"] == PROMPTS
    assert results["win_rate"] == pytest.approx((verdicts["win"] + verdicts["tie"] / 2) / PROMPTS)
    assert results["win_rate_low"] < results["win_rate"] < results["win_rate_high"]
    assert results["score/ours"] == pytest.approx(sum(row["scores"][0] for row in against_chosen.rows) / PROMPTS)
    assert results["tokens/theirs"] == pytest.approx(sum(row["tokens"][1] for row in against_chosen.rows) / PROMPTS)
    # Answers that were chosen for being kind are kinder than what imitates reviews of all kinds.
    assert results["win_rate"] < 0.5


def test_the_document_is_json_and_says_who_played(against_chosen: Contest) -> None:
    document = json.loads(json.dumps(dict(against_chosen.outcome.document), allow_nan=False))
    assert (document["opponent"], document["scorer"]) == (CHOSEN, "vader")
    assert document["win_rate"]["value"] == against_chosen.outcome.results["win_rate"]
    assert against_chosen.outcome.table.row_count == 6


# A judge in the place of a scorer


def test_a_judge_that_is_a_scorer_says_what_the_scorer_says(against_chosen: Contest, play: Play) -> None:
    contest = play(CHOSEN, judge={"name": "scorer", "scorer": "vader"})
    assert [row["verdict"] for row in contest.rows] == [row["verdict"] for row in against_chosen.rows]
    assert [row["scores"] for row in contest.rows] == [row["scores"] for row in against_chosen.rows]
    assert contest.outcome.results["win_rate"] == against_chosen.outcome.results["win_rate"]
    assert (contest.outcome.document["judge"], contest.outcome.results["unread"]) == ("vader", 0)
    assert "scorer" not in contest.outcome.document


def test_a_judge_that_compares_is_shown_both_answers_and_what_sways_it_is_told(play: Play) -> None:
    template = {"template": "{prompt} {first} {second}", "system": None, "ties": False}
    contest = play(CHOSEN, limit=6, judge={**packaged("judge")["llm_likeliest"], **template})
    results = contest.outcome.results
    assert (results["replies"], results["unread_replies"], results["prompts"]) == (12, 0, 6)
    assert all(row["scores"] == [None, None] for row in contest.rows)
    letters = [row["judgement"]["said"] for row in contest.rows]
    assert [row["verdict"] for row in contest.rows] == [row_verdict(pair) for pair in letters]
    assert results["order_decided"] == sum(first == second for first, second in letters) / 6
    assert results["first_preferred"] == sum(letter == "A" for pair in letters for letter in pair) / 12


def row_verdict(letters: list[str]) -> str:
    """Of what was said with our answer first, and with it second."""
    return {("A", "B"): "win", ("B", "A"): "loss"}.get((letters[0], letters[1]), "tie")


def test_rounds_that_cannot_be_read_are_left_out_and_none_at_all_is_an_error(play: Play) -> None:
    with pytest.raises(UserError, match=r"judge: of no round could be read who has won; see .*samples\.jsonl"):
        play(CHOSEN, limit=2, judge={**packaged("judge")["llm"], "max_tokens": 3})


def test_answers_whose_prompts_end_otherwise_share_the_tokens_that_they_share() -> None:
    """A token that joins the prompt's end with the answer's beginning belongs to the answer."""

    def reply(prompt: tuple[int, ...], completion: tuple[int, ...]) -> Reply:
        return Reply(tokens=EncodedExample(key=0, prompt_ids=prompt, completion_ids=(completion,)), text="x")

    prompt = Prompt(example=PreferenceExample(prompt="p", completions=()), place="here")
    both = candidates_of(Round(prompt=prompt, ours=reply((1, 2, 3), (7, 0)), theirs=reply((1, 2), (9, 8, 0)))).example
    assert (both.prompt_ids, both.completion_ids) == ((1, 2), ((3, 7, 0), (9, 8, 0)))


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"Review: it is a film about a {word}\n" for word in ("bird", "house", "war", "song", "king", "queen")))
    return str(file)


def test_a_model_ties_with_itself(play: Play, settings: RunSettings, prompts: str) -> None:
    reference = dataclasses.replace(settings, reference=dataclasses.replace(settings.reference, path=TINY))
    contest = play("reference", prompts=prompts, limit=5, settings=reference)
    assert [row["verdict"] for row in contest.rows] == ["tie"] * 5
    assert all(row["ours"] == row["theirs"] for row in contest.rows), "the same random numbers"
    results = contest.outcome.results
    assert (results["win_rate"], results["ties"], results["prompts"]) == (0.5, 5, 5)
    assert results["fingerprint"] == results["opponent_fingerprint"]


def test_who_plays_first_changes_nothing(play: Play, settings: RunSettings, prompts: str, tmp_path: Path) -> None:
    lm = load_lm("model.path", locate("model.path", TINY), torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
    lm.save_pretrained(tmp_path / "other")
    load_tokenizer("model.path", locate("model.path", TINY)).save_pretrained(tmp_path / "other")
    other = dataclasses.replace(settings, model=dataclasses.replace(settings.model, path=str(tmp_path / "other")))
    straight, swapped = play(str(tmp_path / "other"), prompts=prompts), play(TINY, prompts=prompts, settings=other)
    mirrored = {"win": "loss", "loss": "win", "tie": "tie"}
    for row, back in zip(straight.rows, swapped.rows, strict=True):
        assert (row["ours"], row["theirs"]) == (back["theirs"], back["ours"])
        assert (row["scores"], row["tokens"]) == (back["scores"][::-1], back["tokens"][::-1])
        assert row["verdict"] == mirrored[back["verdict"]]
    assert any(row["ours"] != row["theirs"] for row in straight.rows)
    assert straight.outcome.results["win_rate"] == pytest.approx(1 - swapped.outcome.results["win_rate"])


def test_an_opponent_with_other_tokens_is_read_as_text(
    play: Play, lm_factory: Any, tokenizer_factory: Any, tmp_path: Path, settings: RunSettings
) -> None:
    lm_factory("gpt2").save_pretrained(tmp_path / "other")
    tokenizer_factory().save_pretrained(tmp_path / "other")
    asked = tmp_path / "questions.txt"
    asked.write_text("A film about w7.\nIt is\n")
    contest = play(str(tmp_path / "other"), prompts=str(asked))
    assert [row["prompt"] for row in contest.rows] == ["A film about w7.", "It is"]
    ours = load_tokenizer("model.path", locate("model.path", TINY))
    for row in contest.rows:
        words = row["theirs"].split()
        assert words
        assert all(word.startswith("w") and word[1:].isdigit() for word in words)
        count = len(ours(row["theirs"], add_special_tokens=False)["input_ids"])
        # It is cut after 24 words, or has its end, which is one token of ours.
        assert row["tokens"][1] == count + (len(words) < settings.rollout.max_tokens)
    assert contest.outcome.results["fingerprint"] != contest.outcome.results["opponent_fingerprint"]


@pytest.mark.parametrize(
    ("opponent", "prompts", "samples", "words"),
    [
        (CHOSEN, "questions.txt", 4, "evaluation.opponent = 'chosen' with evaluation.prompts = 'questions.txt': only a data set"),
        (CHOSEN, "chat", 4, "evaluation.prompts = 'chat': there is nobody to compare with"),
        (CHOSEN, "dataset", 8, "rollout.samples = 8: each side answers a prompt once"),
        ("reference", "dataset", 4, "reference.path is missing"),
        ("./nowhere", "dataset", 4, "evaluation.opponent = './nowhere': there is no such folder"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(
    play: Play, settings: RunSettings, monkeypatch: pytest.MonkeyPatch, opponent: str, prompts: str, samples: int, words: str
) -> None:
    monkeypatch.setattr("alignkit.evaluating.player.load_backbone", None)
    asked = dataclasses.replace(settings, rollout=dataclasses.replace(settings.rollout, samples=samples))
    with pytest.raises(UserError) as refused:
        play(opponent, prompts=prompts, settings=asked)
    assert str(refused.value).startswith(words)


def test_the_chosen_answer_is_the_best_that_somebody_wants() -> None:
    def example(*completions: str, **feedback: Any) -> PreferenceExample:
        return PreferenceExample(prompt=(Message(role="user", content="p"),), completions=completions, **feedback)

    assert chosen_of(example("good", "bad")) == "good"
    assert chosen_of(example("fair", "best", "bad", ranks=(1, 0, 2))) == "best"
    assert chosen_of(example("bad", desirable=(False,))) is None
    assert chosen_of(example(" ", "bad")) is None
