"""What a judge may cost is another thing than what it says: the one may change when a run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignkit.command_line import read_flags
from alignkit.errors import UserError
from alignkit.label import parse
from alignkit.labelling.config import labelling_yaml
from alignkit.labelling.files import SOURCES
from alignkit.labelling.resumption import labelling_to_resume, may_change
from alignkit.labelling.sources import check_sources, decisive, note_sources
from alignkit.run_dir import RunDir

HTTP = ("judge=http", "judge.url=http://127.0.0.1:1/v1", "judge.model=m", "judge.budget_requests=2")


@pytest.fixture
def begun(tmp_path: Path) -> RunDir:
    """A run that has begun, whose budget is spent."""
    run, labelling = RunDir(tmp_path), parse(HTTP).labelling
    run.config.write_text(labelling_yaml(labelling))
    note_sources(run, labelling, {"pool": "a", "earlier": "b"})
    return run


def test_a_spent_budget_may_be_raised_and_the_model_that_judges_stays(begun: RunDir) -> None:
    found = labelling_to_resume(read_flags([f"resume={begun.path}", "judge.budget_requests=50", "judge.timeout=7"]))
    assert found is not None
    options = found[1].own.judge.options
    assert (options["budget_requests"], options["timeout"], options["model"]) == (50, 7.0, "m")
    for typed in ("judge.model=other", "judge.template=x", "judge.temperature=1"):
        with pytest.raises(
            UserError, match=r"(?s)would make another run of it .*budget_requests, budget_tokens.* may change; all else decides rows"
        ):
            labelling_to_resume(read_flags([f"resume={begun.path}", typed]))


def test_of_several_judges_each_may_take_longer() -> None:
    assert may_change("judge.judges.llm.timeout")
    assert not may_change("judge.judges.llm.model")
    assert not may_change("judge")
    assert not may_change("form")
    assert may_change("hardware.devices")


def test_what_it_began_with_is_written_once_and_compared(begun: RunDir) -> None:
    before = (begun.path / SOURCES).read_text()
    assert json.loads(before)["config"] == decisive(parse([*HTTP, "judge.budget_requests=99", "hardware=cpu", "steps=30"]).labelling)
    check_sources(begun, {"pool": "a", "earlier": "b"})
    with pytest.raises(UserError, match=r"the files of earlier= are not what they were"):
        check_sources(begun, {"pool": "a", "earlier": "c"})
    note_sources(begun, parse([*HTTP, "seed=5"]).labelling, {"pool": "z"})
    assert (begun.path / SOURCES).read_text() == before


def test_a_run_that_has_not_begun_may_be_of_anything(tmp_path: Path) -> None:
    check_sources(RunDir(tmp_path), {"pool": "a"})
