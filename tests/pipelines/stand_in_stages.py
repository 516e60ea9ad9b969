"""Stages that are quickly run, for tests of what runs them: picklable, so that workers can be given them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from alignkit.errors import UserError
from alignkit.pipelines.stage_runs import PlacedPipeline, PlacedStage
from alignkit.run_dir import RunDir, Scalar


class StandInKind:
    """Does what the stage's name begins with."""

    def carry_out(self, settings: Any, run: RunDir) -> dict[str, Scalar]:
        print(f"this is {run.path.name}")
        with (run.path / "begun").open("a") as file:
            file.write(f"{os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
        deed = run.path.name.partition("_")[0]
        if deed == "fail":
            raise RuntimeError("a bug")
        if deed == "wrong":
            raise UserError("model.path = 'x'; is no model.")
        if deed == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if deed == "wait":
            time.sleep(60)
        results: dict[str, Scalar] = {"val/loss": 1.0, "seconds": 0.5}
        run.write_results(results)
        return results

    def config_yaml(self, settings: Any) -> str:
        return "a: 1\n"

    def can_go_on(self, run: RunDir) -> bool:
        return False

    def headline(self, settings: Any) -> tuple[str, str]:
        return "val/loss", "start/val/loss"

    def label(self, settings: Any) -> str:
        return "stand-in"

    def is_complete(self, settings: Any, results: Mapping[str, Scalar]) -> bool:
        return True


@dataclass(frozen=True)
class Settings:
    """As far as running a stage reads them."""

    @dataclass(frozen=True)
    class Run:
        @dataclass(frozen=True)
        class Logger:
            group: str | None = None

        logger: Logger = field(default_factory=Logger)

    run: Run = field(default_factory=Run)


class StandInStage:
    """A `PlacedStage`."""

    kind = StandInKind()
    settings = Settings()

    def __init__(self, path: Path) -> None:
        self.run = RunDir(path)
        self.stage = SimpleNamespace(name=path.name, command="train", overrides=(), stop=None)

    @property
    def results(self) -> dict[str, Scalar] | None:
        return PlacedStage.results.fget(self)  # type: ignore[attr-defined, no-any-return]


def pipeline(folder: Path, *stages: Path | str) -> PlacedPipeline:
    """A pipeline of stages in its own directory, by name, or in that of another one, by path."""
    paths = [stage if isinstance(stage, Path) else folder / stage for stage in stages]
    told = SimpleNamespace(name=folder.name, arm="", changes=())
    return PlacedPipeline(pipeline=told, folder=folder, stages=tuple(map(StandInStage, paths)))  # type: ignore[arg-type]


def runs_of(stage: Path) -> Sequence[str]:
    """`pid threads` of each time that a stage was begun."""
    return (stage / "begun").read_text().splitlines() if (stage / "begun").exists() else []
