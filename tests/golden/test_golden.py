"""The curves on record are still those of every objective. One that moves on purpose is recorded again, with the reason: `record.py`."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # modules of this folder; it is no package

from curves import (
    FIRST,
    FOLDER,
    LIMITS,
    MODELS,
    OF_EACH_FAMILY,
    SHARED,
    STEPS,
    Curve,
    curve_of,
    differences,
    distances,
    losses_on,
    record_of,
    settings_of,
)

ALL = [(model, loss) for model in MODELS for loss in losses_on(model)]
DEAR = [(model, loss) for model, loss in ALL if model == "tiny" and loss not in OF_EACH_FAMILY]
HERE = {"torch": "1", "threads": "1"}
WHAT_NOW = "if it moves on purpose: python tests/golden/record.py --reason TEXT"
ELSEWHERE = {"torch": "1", "threads": "2"}


def names(cases: list[tuple[str, str]]) -> list[str]:
    return ["-".join(case) for case in cases]


def recorded_of(model: str, loss: str) -> Curve:
    return Curve.from_json(record_of(model, loss).read_text(encoding="utf-8"))


QUICK = [case for case in ALL if case not in DEAR]


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        *(pytest.param(*case, marks=[pytest.mark.real] if case[0] != "tiny" else [], id="-".join(case)) for case in QUICK),
        *(pytest.param(*case, marks=pytest.mark.slow, id="-".join(case)) for case in DEAR),
    ],
)
def test_the_curve_is_the_one_on_record(model: str, loss: str) -> None:
    if model != "tiny" and not (SHARED / "models" / model).is_dir():
        pytest.skip(f"no {model} at {SHARED / 'models'}; set ALIGNKIT_SHARED")
    assert differences(recorded_of(model, loss), curve_of(settings_of(loss, model))) == [], WHAT_NOW


@pytest.mark.parametrize(("model", "loss"), DEAR, ids=names(DEAR))
def test_the_first_steps_are_those_on_record(model: str, loss: str) -> None:
    assert differences(recorded_of(model, loss).first(FIRST), curve_of(settings_of(loss, model), FIRST)) == [], WHAT_NOW


@pytest.mark.parametrize(("model", "loss"), ALL, ids=names(ALL))
def test_what_is_on_record_is_a_curve_that_would_show_a_change(model: str, loss: str) -> None:
    curve = recorded_of(model, loss)
    for name in LIMITS:
        values = getattr(curve, name)
        assert len(values) == STEPS
        assert all(map(math.isfinite, values))
        assert len(set(values)) > STEPS // 2, "it moves"


def test_no_record_is_left_over() -> None:
    files = {file.relative_to(FOLDER).as_posix() for file in FOLDER.rglob("*.json")}
    assert files == {record_of(model, loss).relative_to(FOLDER).as_posix() for model in MODELS for loss in losses_on(model)}


def curve(*loss: float, environment: dict[str, str] = HERE) -> Curve:
    return Curve(loss=loss, gradient_norm=(1.0,) * len(loss), environment=environment)


def test_in_one_environment_the_last_bit_counts() -> None:
    recorded = curve(1.0, 0.5)
    assert differences(recorded, curve(1.0, 0.5)) == []
    assert differences(recorded, curve(1.0, 0.5 + 2**-53)) == [
        "loss of step 2 is 0.5000000000000001, was 0.5 in the same environment",
    ]


def test_elsewhere_the_largest_and_the_mean_distance_count() -> None:
    recorded = curve(*(1.0,) * STEPS)
    one_off = [1.0] * (STEPS - 1)
    assert differences(recorded, curve(*one_off, 1.00009, environment=ELSEWHERE)) == []
    said = differences(recorded, curve(*one_off, 1.00011, environment=ELSEWHERE))
    assert said == ["loss is up to 0.00011 off, 3.7e-06 in the mean; at most 0.0001 and 1e-05"]
    drift = curve(*(1.00002,) * STEPS, environment=ELSEWHERE)
    assert differences(recorded, drift) == ["loss is up to 2e-05 off, 2e-05 in the mean; at most 0.0001 and 1e-05"]
    assert differences(recorded, curve(*one_off, math.nan, environment=ELSEWHERE)) != []


def test_distances_are_in_units_of_the_curve_but_of_one_where_it_is_small() -> None:
    assert distances((-50.0, 0.0), (-50.0, 0.5)) == (0.01, 0.005)
    assert distances((0.1, 0.0), (0.1, 0.5)) == (0.5, 0.25)


def test_a_record_keeps_every_bit() -> None:
    third = curve(1 / 3, 2**-1060, environment=HERE)
    assert Curve.from_json(third.to_json()) == third
    assert {field.name for field in dataclasses.fields(Curve)} == {*LIMITS, "environment"}


@pytest.mark.parametrize("reason", [[], ["--reason", "  "]])
def test_nothing_is_recorded_without_a_reason(reason: list[str]) -> None:
    before = {file: file.read_bytes() for file in FOLDER.rglob("*.json")}
    script = subprocess.run([sys.executable, str(FOLDER / "record.py"), *reason], capture_output=True, text=True, check=False, timeout=600)
    assert script.returncode == 2
    assert "--reason" in script.stderr
    assert {file: file.read_bytes() for file in FOLDER.rglob("*.json")} == before
