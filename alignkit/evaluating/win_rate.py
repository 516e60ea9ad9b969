"""`kind: win_rate`: a model and an opponent answer the same prompts, and a scorer or a judge says whose answers are better."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO

import torch
from rich import box
from rich.table import Table

from alignkit.assembly import plan_packing, say
from alignkit.data.examples import PreferenceExample
from alignkit.data.holdout import prompt_key
from alignkit.data.source import load_examples
from alignkit.errors import UserError
from alignkit.evaluating.judging import judge_surroundings
from alignkit.evaluating.outcome import Outcome
from alignkit.evaluating.player import Player, answers_of, as_opponent
from alignkit.evaluating.question_table import flat_interval, shown
from alignkit.evaluating.rounds import Arbiter, Decided, JudgeArbiter, Round, ScorerArbiter, judge_facts
from alignkit.evaluation.win_rate import WinRate
from alignkit.evaluation_settings import CHOSEN, REFERENCE, EvaluateSettings, WinRateSettings
from alignkit.generate_settings import CHAT, HELD_OUT, TRAINING
from alignkit.generation.answering import products, surroundings_of
from alignkit.generation.prompt_reading import Prompt, read_prompts
from alignkit.hardware import device_kind
from alignkit.judge_assembly import build_judge, name_of
from alignkit.judge_settings import JudgeSettings
from alignkit.labelling.judged import judgement_row, word
from alignkit.models.backbone import Backbone
from alignkit.modules.collector import Collector, Writing
from alignkit.resolution import build_source
from alignkit.rollout_assembly import build_sampler, open_scorer
from alignkit.rollout_settings import UNUSED_ROLLOUT
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings
from alignkit.summary import number

WIN_RATE = "win_rate"
LENGTH_CONTROLLED = "length_controlled"
SIDES = ("ours", "theirs")


def evaluate(settings: RunSettings, own: EvaluateSettings, run: RunDir) -> Outcome:
    """Let both sides answer each prompt once, and judge. Writes `samples.jsonl`, a line a prompt.

    The opponent answers first and is gone before the model is loaded. Both are sampled by the same random numbers: see `Player.answers`.
    Lengths are tokens of the model's own tokenizer, ends included.

    Raises:
        UserError: when the prompts, one of the models or the scorer cannot be had or do not fit together.
    """
    evaluation = own.evaluation
    assert isinstance(evaluation, WinRateSettings)
    check_sampling(settings, evaluation)
    of_dataset = evaluation.prompts in (HELD_OUT, TRAINING)
    ours = Player.at("model.path", settings.model.path, settings, of_dataset=of_dataset)
    named = opponent_of(evaluation, settings)
    opponent = None if named is None else as_opponent(*named, settings, of_dataset=of_dataset)
    every = list(prompts_of(evaluation, settings))[: evaluation.limit]
    asked = usable(every, [ours] if opponent is None else [ours, opponent], strict=not of_dataset)
    prompts = [prompt for prompt, _ in asked]
    device = torch.device(device_kind(settings.hardware.accelerator))
    facts: dict[str, Scalar] = {}
    if opponent is None:
        theirs = [ours.read(key, prompt, answer) for key, (prompt, answer) in enumerate(asked)]
    else:
        say(f"{opponent.where}: answers {len(prompts)} prompts")
        theirs, facts["opponent_fingerprint"] = answers_of(opponent, prompts, device, ours)
    backbone = ours.load()
    arbiter, facts["fingerprint"] = arbiter_of(settings, own.judge, ours, backbone, prompts, device)
    say(f"model.path: answers {len(prompts)} prompts")
    sampled = ours.answers(backbone.to(device), prompts, device)
    rounds = [
        Round(prompt=prompt, ours=us, theirs=them) for prompt, us, them in zip(prompts, sampled, theirs, strict=True) if them is not None
    ]
    if not rounds:
        raise UserError(f"evaluation.opponent = {evaluation.opponent!r}: the model can read none of its answers. Choose another opponent.")
    with products(settings, device):
        decided = judged(rounds, arbiter, run, at_once=settings.batch.pairs)
    read = [(one.bout, one.verdict) for one in decided if one.verdict is not None]
    if not read:
        raise UserError(f"judge: of no round could be read who has won; see {run.samples}.")
    bouts, verdicts = zip(*read, strict=True)
    rate = WinRate.of(bouts, verdicts, resamples=evaluation.resamples, seed=settings.seed)
    facts |= {"left_out": len(every) - len(rounds), "trimmed_prompts": ours.reader.trimmed, **judge_facts(decided)}
    who = ("scorer", own.scorers[0]) if own.judge is None else ("judge", name_of(own.judge))
    return outcome_of(rate, evaluation, who, facts)


def check_sampling(settings: RunSettings, evaluation: WinRateSettings) -> None:
    """Refuse what a contest has no use for.

    Raises:
        UserError: naming the key.
    """
    rollout = settings.rollout
    if rollout.samples not in (1, UNUSED_ROLLOUT.samples):
        raise UserError(f"rollout.samples = {rollout.samples}: each side answers a prompt once. Leave it out.")
    if rollout.backend != UNUSED_ROLLOUT.backend:
        raise UserError(f"rollout.backend = {rollout.backend!r}: alignkit.evaluate samples with the model itself. Leave it out.")
    if evaluation.prompts == CHAT:
        raise UserError("evaluation.prompts = 'chat': there is nobody to compare with. Type a file, dataset or dataset:train.")
    if evaluation.opponent == CHOSEN and evaluation.prompts not in (HELD_OUT, TRAINING):
        raise UserError(
            f"evaluation.opponent = 'chosen' with evaluation.prompts = {evaluation.prompts!r}: only a data set has chosen answers. "
            "Type evaluation.prompts=dataset and dataset=NAME, e.g. dataset=local dataset.path=FILE."
        )


def opponent_of(evaluation: WinRateSettings, settings: RunSettings) -> tuple[str, str] | None:
    """The setting that names the opponent's model, and its place; None where answers of the data are the opponent.

    Raises:
        UserError: when the reference is the opponent and there is none.
    """
    if evaluation.opponent == CHOSEN:
        return None
    if evaluation.opponent != REFERENCE:
        return "evaluation.opponent", evaluation.opponent
    if settings.reference.path is None:
        raise UserError("reference.path is missing: the opponent is the reference. Type reference.path=DIR.")
    return "reference.path", settings.reference.path


def prompts_of(evaluation: WinRateSettings, settings: RunSettings) -> Iterator[tuple[Prompt, str]]:
    """Prompts in their order, those of a data set once; with the chosen answer where that is the opponent, else with nothing.

    Raises:
        UserError: when they cannot be read.
    """
    if evaluation.opponent != CHOSEN:
        yield from ((prompt, "") for prompt in read_prompts(evaluation.prompts, settings))
        return
    loaded = load_examples(settings.dataset, build_source(settings.dataset, settings.allow_code))  # type: ignore[arg-type]
    seen = set[str]()
    for example in loaded.validation if evaluation.prompts == HELD_OUT else loaded.train:
        answer, key = chosen_of(example), prompt_key(example)
        if answer is not None and key not in seen:
            seen.add(key)
            asked = PreferenceExample(prompt=example.prompt, completions=())
            yield Prompt(example=asked, place=f"dataset={settings.dataset.name}"), answer


def chosen_of(example: PreferenceExample) -> str | None:
    """The answer that people like best; None where they like none, or it is blank."""
    places = range(len(example.completions))
    best = min(places, key=example.ranks.__getitem__) if example.ranks else 0
    liked = not example.desirable or example.desirable[best]
    return example.completions[best] if liked and example.completions[best].strip() else None


def usable(asked: Sequence[tuple[Prompt, str]], players: Sequence[Player], *, strict: bool) -> list[tuple[Prompt, str]]:
    """The prompts that all players can be asked. Raises UserError when there is none, or one is of no use where it is `strict`."""
    prompts = [prompt for prompt, _ in asked]
    for player in players:
        prompts = player.reader.usable(prompts, strict=strict)
    kept = set(map(id, prompts))
    return [one for one in asked if id(one[0]) in kept]


def arbiter_of(
    settings: RunSettings,
    judge: JudgeSettings | None,
    ours: Player,
    backbone: Backbone,
    prompts: Sequence[Prompt],
    device: torch.device,
) -> tuple[Arbiter, Scalar]:
    """Who decides, in the surroundings of the model, and the fingerprint of its weights. Raises UserError when there is nobody."""
    surroundings = surroundings_of(settings, backbone, ours.tokenizer, device)
    terminator = ours.terminator(prompts)
    if judge is not None:
        kind = build_judge(judge, settings.allow_code)
        opened = kind.open(judge_surroundings(settings, surroundings, ours.tokenizer, terminator))
        return JudgeArbiter(judge=opened), surroundings.trunk_fingerprint
    packing = plan_packing(settings.batch, backbone).for_looking()
    collector = Collector(
        sampler=build_sampler(settings, backbone, terminator),
        scorer=open_scorer(settings.scorer, settings, surroundings),
        reward=settings.reward,
        writing=Writing(tokenizer=ours.tokenizer, terminator=terminator, packing=packing),
    )
    return ScorerArbiter(collector=collector), surroundings.trunk_fingerprint


@torch.no_grad()
def judged(rounds: Sequence[Round], arbiter: Arbiter, run: RunDir, *, at_once: int) -> list[Decided]:
    """All rounds with their verdicts, written as they are judged, `at_once` at a time."""
    decided = list[Decided]()
    with run.samples.open("w", encoding="utf-8") as file:
        for start in range(0, len(rounds), at_once):
            batch = arbiter(rounds[start : start + at_once])
            write(file, batch)
            decided += batch
    return decided


def write(file: TextIO, decided: Sequence[Decided]) -> None:
    """A line a prompt, on disk when this returns. Pairs of numbers are ours and theirs."""
    for one in decided:
        bout = one.bout
        row: dict[str, object] = {
            "prompt": bout.prompt if isinstance(bout.prompt, str) else [dataclasses.asdict(message) for message in bout.prompt],
            "ours": bout.ours.text,
            "theirs": bout.theirs.text,
            "scores": [bout.ours.score, bout.theirs.score],
            "tokens": [bout.ours.tokens, bout.theirs.tokens],
            "verdict": word(one.verdict),
        }
        if one.judgement is not None:
            row["judgement"] = judgement_row(one.judgement)
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.flush()


def outcome_of(rate: WinRate, evaluation: WinRateSettings, who: tuple[str, str], facts: Mapping[str, Scalar]) -> Outcome:
    """What was measured, as a flat list, a tree and a table; `who` decided, the setting and its name."""
    counts: dict[str, Scalar] = {
        "wins": rate.wins,
        "ties": rate.ties,
        "losses": rate.losses,
        "prompts": rate.wins + rate.ties + rate.losses,
    }
    sides = {"tokens": rate.tokens} | ({} if rate.scores is None else {"score": rate.scores})
    results: dict[str, Scalar] = {
        **dict(flat_interval(WIN_RATE, rate.rate)),
        **dict(flat_interval(f"{WIN_RATE}/{LENGTH_CONTROLLED}", rate.length_controlled)),
        **counts,
        **{f"{name}/{side}": value for name, both in sides.items() for side, value in zip(SIDES, both, strict=True)},
        **facts,
    }
    document = {
        "opponent": evaluation.opponent,
        who[0]: who[1],
        WIN_RATE: rate.rate.to_json(),
        LENGTH_CONTROLLED: rate.length_controlled.to_json(),
        **counts,
        **{name: dict(zip(SIDES, both, strict=True)) for name, both in sides.items()},
        **facts,
    }
    return Outcome(results=results, document=document, table=table_of(rate, sides))


def table_of(rate: WinRate, sides: Mapping[str, tuple[float, float]]) -> Table:
    """The win rate with its interval, then both sides beside each other."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("", "95 % interval", *SIDES):
        table.add_column(heading, justify="left" if heading == "" else "right")
    table.add_row("win rate, a tie is one half", shown(rate.rate), "", "")
    table.add_row("the same at equal length", shown(rate.length_controlled), "", "")
    table.add_row("wins", "", number(rate.wins), number(rate.losses))
    table.add_row("ties", "", number(rate.ties), number(rate.ties))
    for name, both in sides.items():
        table.add_row(f"mean {name}", "", *map(number, both))
    return table
