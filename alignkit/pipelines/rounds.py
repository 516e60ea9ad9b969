"""Repeated stages of a pipeline file: `labels_1 dpo_1 win_1 labels_2 ...`, in which each round goes on from the one before.

    stages:
      sft: {options: [loss=sft]}
      rounds:                          # its name is the key that says how many: rounds=5
        repeat: 3                      # so many where nothing is typed
        begin: sft                     # the stage that {previous} is in round 1
        policy: dpo                    # the stage of the round before that it is later
        seed_step: 1000                # added to seed with each round, not to what ${seed} is in other keys; 0 where it is left out
        stages:                        # of one round; names in {} are those of the same round
          labels: {command: generate, options: [keep=pairs], from: ["model.path={previous}/model"]}
          dpo: {options: [loss=dpo], from: ["model.path={previous}/model", "dataset.path={labels}/kept.jsonl"]}
          win: {command: evaluate, options: [evaluation=win_rate], from: ["model.path={dpo}/model"]}
        stop: {after: win, result: win_rate, at_most: 0.5}      # optional; stop=0.55 and stop=never are typed

Without `stop` stages may follow; there `{dpo}` is the one of the last round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

from alignkit.config_checks import check_keys, check_name
from alignkit.errors import UserError, check_range
from alignkit.pipelines.stage_file import StageFile, Stop, check_stage_name, read_stage

REPEAT = "repeat"
PREVIOUS = "previous"
"""In `{}`: the policy of the round before."""
KEYS = (REPEAT, "begin", "policy", "seed_step", "stages", "stop")
STOP_KEYS = ("after", "result", "at_most")
MOST_ROUNDS = 99
LARGEST_SEED_STEP = 10**6


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RoundsFile:
    """Repeated stages, as their file has them."""

    name: str
    """Also the key that says how many rounds there are."""
    repeat: int
    """Rounds where nothing is typed, 1 to 99."""
    begin: str
    """The stage that `{previous}` is in round 1."""
    policy: str
    """The stage that `{previous}` is later: of the round before."""
    seed_step: int
    stages: tuple[StageFile, ...]
    """Of one round."""
    after: str
    """The stage that `stop` looks at; empty where there is no `stop`."""
    stop: Stop | None

    def unrolled(self, rounds: int, stop: Stop | None, earlier: Mapping[str, str]) -> tuple[StageFile, ...]:
        """The stages of so many rounds, which end early by `stop`; None for never. `earlier`: what names of rounds before these mean."""
        return tuple(
            replace(
                stage,
                name=f"{stage.name}_{number}",
                family=stage.name,
                meanings={**earlier, **self.meanings(number), PREVIOUS: self.begin if number == 1 else f"{self.policy}_{number - 1}"},
                seed_step=self.seed_step * (number - 1),
                stop=stop if stage.name == self.after else None,
            )
            for number in range(1, rounds + 1)
            for stage in self.stages
        )

    def meanings(self, number: int) -> dict[str, str]:
        """What the names of a round's stages stand for in that round, and after the last one."""
        return {stage.name: f"{stage.name}_{number}" for stage in self.stages}


def is_rounds(given: object) -> bool:
    """Whether an entry of `stages` is meant to be repeated."""
    return isinstance(given, Mapping) and REPEAT in given


def read_rounds(place: str, name: str, given: Mapping[str, Any], earlier: tuple[str, ...]) -> RoundsFile:
    """Repeated stages of a file. `earlier`: names of the stages before them.

    Raises:
        UserError: naming the file and the key that is wrong.
    """
    where = f"{place}.{name}"
    check_stage_name(where, name)
    check_keys(where, given, KEYS)
    step = given.get("seed_step", 0)
    check_whole(f"{where}.{REPEAT}", given[REPEAT], 1, MOST_ROUNDS)
    check_whole(f"{where}.seed_step", step, 0, LARGEST_SEED_STEP)
    inner = given.get("stages")
    if not isinstance(inner, Mapping) or not inner:
        raise UserError(f"{where}.stages = {inner!r}; must have a stage or more: those of one round.")
    stages = tuple(read_stage(f"{where}.stages", str(stage), values) for stage, values in inner.items())
    names = [stage.name for stage in stages]
    for key, known in (("begin", earlier), ("policy", names)):
        if key not in given:
            raise UserError(f"{where}.{key} is missing: {{{PREVIOUS}}} is stage `begin` in round 1, later `policy` of the round before.")
        check_name(f"stage ({where}.{key})", str(given[key]), known)
    after, stop = read_stop(f"{where}.stop", given.get("stop"), names)
    return RoundsFile(
        name=name,
        repeat=given[REPEAT],
        begin=str(given["begin"]),
        policy=str(given["policy"]),
        seed_step=step,
        stages=stages,
        after=after,
        stop=stop,
    )


def read_stop(where: str, given: object, names: list[str]) -> tuple[str, Stop | None]:
    """What ends rounds early, and the stage whose results it looks at.

    Raises:
        UserError: naming the key that is wrong.
    """
    if given is None:
        return "", None
    if not isinstance(given, Mapping) or set(given) != set(STOP_KEYS):
        raise UserError(f"{where} = {given!r}; must hold {', '.join(STOP_KEYS)}, e.g. {{after: win, result: win_rate, at_most: 0.5}}.")
    check_name(f"stage ({where}.after)", str(given["after"]), names)
    check_range(f"{where}.at_most", given["at_most"])
    return str(given["after"]), Stop(result=str(given["result"]), at_most=float(given["at_most"]))


def check_whole(where: str, value: object, low: int, high: int) -> None:
    """Refuse what is no whole number in a range.

    Raises:
        UserError: naming the key.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{where} = {value!r}; must be a whole number, {low} to {high}.")


def typed_rounds(name: str, value: object) -> int:
    """What `rounds=5` says.

    Raises:
        UserError: when it is no number of rounds.
    """
    check_whole(name, value, 1, MOST_ROUNDS)
    assert isinstance(value, int)
    return value


def typed_stop(value: object, stop: Stop) -> Stop | None:
    """What `stop=0.55` says; None for `stop=never`.

    Raises:
        UserError: when it is neither.
    """
    if isinstance(value, str) and value.lower() == "never":
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise UserError(f"stop = {value!r}; must be never, or the {stop.result} at which rounds end. Try stop={stop.at_most}.")
    check_range("stop", value)
    return replace(stop, at_most=float(value))
