"""What a study may choose from, as it is typed."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from alignkit.command_line import precheck, read_command, read_flags
from alignkit.errors import UserError
from alignkit.sweeping.search_space import Choices, Dimension, Numbers, dimension, ends
from alignkit.sweeping.study import distributions

STUDY = ["-m", "hydra/sweeper=optuna_study"]


def parsed(line: str) -> Dimension | None:
    return dimension(OverridesParser.create().parse_overrides([line])[0])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a=interval(0,1)", Numbers(low=0.0, high=1.0, log=False, whole=False)),
        ("a=tag(log,interval(0.01,1))", Numbers(low=0.01, high=1.0, log=True, whole=False)),
        ("a=int(interval(1,8))", Numbers(low=1, high=8, log=False, whole=True)),
        # Hydra's range stops before its end: 8, 16, 24
        ("a=range(8,32,8)", Numbers(low=8, high=24, log=False, whole=True, step=8)),
        ("a=range(0,1,0.25)", Numbers(low=0, high=0.75, log=False, whole=False, step=0.25)),
        ("a=range(3)", Numbers(low=0, high=2, log=False, whole=True, step=1)),
        ("a=x,y", Choices(values=("x", "y"))),
        ("a=1,null", Choices(values=("1", "null"))),
        ("a=3", None),
    ],
)
def test_each_way_of_writing_values(line: str, expected: Dimension | None) -> None:
    assert parsed(line) == expected


def test_optuna_draws_what_was_typed() -> None:
    drawn = distributions({"a": parsed("a=range(8,32,8)"), "b": parsed("b=tag(log,interval(0.01,1))"), "c": parsed("c=x,y")})  # type: ignore[dict-item]
    assert (drawn["a"].low, drawn["a"].high, drawn["a"].step) == (8, 24, 8)
    assert (drawn["b"].low, drawn["b"].high, drawn["b"].log) == (0.01, 1.0, True)
    assert drawn["c"].choices == ("x", "y")


@pytest.mark.parametrize(
    ("line", "answer"),
    [("a=interval(1,0)", "must be the smaller one"), ("a=tag(log,interval(0,1))", "must be above 0"), ("a=range(3,3)", "holds no number")],
)
def test_a_space_without_values_is_refused(line: str, answer: str) -> None:
    with pytest.raises(UserError, match=answer):
        parsed(line)


def test_the_ends_of_a_space_differ_in_one_key_at_a_time() -> None:
    space: dict[str, Dimension] = {"++a": Numbers(low=0.5, high=2.0, log=False, whole=False), "b": Choices(values=("x", "y", "z"))}
    assert ends(space) == [["++a=0.5", "b=x"], ["++a=2.0", "b=x"], ["++a=0.5", "b=y"], ["++a=0.5", "b=z"]]


def test_a_mistake_at_an_end_of_the_space_is_found_before_any_job() -> None:
    with pytest.raises(UserError, match=r"loss\.epsilon = 0\.6; must be a number in \[0, 0\.5\)"):
        precheck([*STUDY, "loss=cdpo", "loss.epsilon=interval(0,0.6)"])
    with pytest.raises(UserError, match="dpo has no option 'epsilon'"):
        precheck([*STUDY, "loss=cdpo,dpo", "loss.epsilon=interval(0,0.4)"])


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (["loss.beta=0.1"], "there is nothing to choose"),
        (["loss=dpo,sft"], r"hydra\.sweeper\.metric = null: the losses of this study are monitored by .* and "),
        (["seed=1,2", "hydra.sweeper.metric=val/rewards/chosen"], "is better neither high nor low"),
        (["seed=1,2", "hydra.sweeper.metric=val/bogus"], "no validation logs it"),
        (["seed=1,2", "hydra.sweeper.trials=0"], r"hydra\.sweeper\.trials = 0; must be a number in \[1"),
        (["seed=1,2", "hydra.sweeper.trials=many"], "must be a whole number"),
        (["seed=1,2", "hydra.sweeper.sampler=grid"], r"hydra\.sweeper\.sampler = 'grid'; must be one of tpe, random"),
        (["seed=1,2", "+hydra.sweeper.trails=3"], r"hydra\.sweeper\.trails: no such key\. Did you mean 'trials'"),
        (["seed=1,2", "hydra.sweeper._target_=os.system"], "is closed"),
    ],
)
def test_a_study_that_cannot_be_is_refused(typed: list[str], answer: str) -> None:
    with pytest.raises(UserError, match=answer):
        precheck([*STUDY, *typed])


def test_a_study_seeks_the_monitor_of_its_loss_in_its_own_direction() -> None:
    study = read_command(read_flags([*STUDY, "loss=dpo", "loss.beta=interval(0.1,1)"])).study
    assert study is not None
    assert (study.metric, study.higher) == ("val/rewards/accuracies", True)
    study = read_command(read_flags([*STUDY, "loss=sft", "seed=1,2"])).study
    assert study is not None
    assert (study.metric, study.higher) == ("val/loss", False)


def test_an_interval_outside_of_a_study_says_how_to_have_one() -> None:
    with pytest.raises(UserError, match=r"or have values chosen with hydra/sweeper=optuna_study"):
        precheck(["-m", "loss.beta=interval(0,1)"])
