"""`dataset.streaming=true` on the command line: the same run, and the second time without tokenising."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alignkit.run_dir import RunDir, read_jsonl

SHORT = [
    "loss=dpo",
    "dataset=local",
    "dataset.path=pairs.jsonl",
    "steps=4",
    "schedule.warmup_steps=1",
    "validation.every=4",
    "validation.samples=1",
    "logger=jsonl",
    "logger.every=1",
    "dataset.validation_examples=8",
    "batch.pairs=8",
    "callbacks.progress_bar=false",
    "callbacks.checkpoints=false",
    "hardware.threads=1",
]
TIMES = {"time"}


def trace(run: Path) -> list[dict[str, Any]]:
    """What a run logged, but for how long it took."""
    return [
        {name: value for name, value in row.items() if "second" not in name and name not in TIMES}
        for row in read_jsonl(RunDir(run).metrics)
    ]


def test_a_streamed_run_is_the_run_in_memory(tmp_path: Path, commands: Any) -> None:
    rows = [{"prompt": f"Film {n}:", "chosen": f" good number {n}", "rejected": f" bad number {n}"} for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = {"ALIGNKIT_CACHE": str(tmp_path / "cache")}

    def order(name: str, *more: str) -> dict[str, Any]:
        made: dict[str, Any] = commands.order(
            *SHORT, f"run_dir={name}", *more, log=tmp_path / f"{name}.txt", folder=tmp_path, environment=environment
        )
        return made

    for name, streaming in (("memory", False), ("first", True), ("second", True)):
        assert commands.together(order(name, f"dataset.streaming={streaming}")) == [0], (tmp_path / f"{name}.txt").read_text()
    assert trace(tmp_path / "first") == trace(tmp_path / "memory")
    assert trace(tmp_path / "second") == trace(tmp_path / "memory")
    said = [(tmp_path / f"{name}.txt").read_text() for name in ("memory", "first", "second")]
    assert ["is tokenised once" in text for text in said] == [False, True, False]
    assert ["is tokenised already, 40 rows" in text for text in said] == [False, False, True]
