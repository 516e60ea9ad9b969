"""A file of preferences that does not fit into memory: how long its first indexing takes, and then the start of each run.

    python tests/bench/large_data.py [examples=5000000] [words=10,20] [loss=con_dph] [steps=20] [folder=DIR] [threads=1] [keep=false]
        [out=FILE]

Writes `examples` pairs as JSON lines, prompt and answers of so many words each, and trains `model=tiny` on them twice with
`dataset.streaming=true`: the first run tokenises the file once, the second finds it tokenised. Then a run on the first hundred rows
of the same file in memory: what model, optimiser and libraries need by themselves. Of each run its first step, in seconds after the start
of the interpreter, and the peak of its resident memory, that of its workers not included.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, final

from measure import append_record, machine, parse_arguments, run_child, say

BASELINE_ROWS = 1000
"""Of the run that shows what everything but the data needs."""
LIMIT_BYTES = 2 * 2**30
LIMIT_SECONDS = 60.0
"""What is promised of a start after the first one."""


@final
@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments."""

    examples: int = 5_000_000
    words: tuple[int, ...] = (10, 20)
    loss: str = "con_dph"
    steps: int = 20
    folder: str = ""
    threads: int = 1
    keep: Literal["true", "false"] = "false"
    out: str = ""


def vocabulary() -> list[str]:
    """Words that the tiny model knows, so that a word is a token or two."""
    from alignkit.lab.reviews import ReviewsWorld

    world = ReviewsWorld(seed=0)
    return sorted({word for index in range(2000) for word in world.text(index).split()})


def write_pairs(file: Path, examples: int, words: tuple[int, ...]) -> None:
    """Pairs whose prompts all differ; a function of the arguments."""
    rng = random.Random(0)
    known = vocabulary()
    low, high = words

    def text() -> str:
        return " ".join(rng.choices(known, k=rng.randint(low, high)))

    with file.open("w") as lines:
        for number in range(examples):
            row = {"prompt": f"Film {number}: {text()}.", "chosen": f" {text()}", "rejected": f" {text()}"}
            lines.write(json.dumps(row) + "\n")


def train(name: str, file: Path, folder: Path, options: Options, *, streaming: bool) -> dict[str, Any]:
    """One run: seconds to its first step, and its peak memory."""
    run_dir, log = folder / name, folder / "run.log"
    command = [sys.executable, "-m", "alignkit.train", f"loss={options.loss}", "model=tiny", "dataset=local", f"dataset.path={file}"]
    command += [f"dataset.streaming={str(streaming).lower()}", f"steps={options.steps}", f"run_dir={run_dir}", "logger.every=1"]
    command += [
        "callbacks.progress_bar=false",
        "validation.samples=0",
        f"hardware.threads={options.threads}",
        "dataset.validation_examples=64",
    ]
    started = time.time()
    child = run_child(command, log, threads=options.threads)  # its cache lies beside the log: the same for all runs
    if child.exit_code != 0:
        raise SystemExit(f"alignkit ended with {child.exit_code}:\n{log.read_text()[-2000:]}")
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    first = next(row["time"] for row in rows if "train/loss" in row)
    at = datetime.fromisoformat(first).timestamp() if isinstance(first, str) else float(first)
    if at < started - 1:  # counted from the start of training
        raise SystemExit("metrics.jsonl does not tell the time of day.")
    say(f"{name}: first step after {at - started:.1f} s, peak {child.peak_bytes / 2**20:.0f} MiB, whole command {child.seconds:.1f} s")
    data = [line for line in log.read_text().splitlines() if line.startswith("data:")]
    return {"first_step_seconds": at - started, "seconds": child.seconds, "peak_bytes": child.peak_bytes, "said": data}


def measure(options: Options, folder: Path) -> dict[str, Any]:
    """All runs, and whether what is promised holds."""
    file, few = folder / "pairs.jsonl", folder / "few.jsonl"
    started = time.perf_counter()
    if not file.exists():
        write_pairs(file, options.examples, options.words)
    say(f"{options.examples} pairs, {file.stat().st_size / 2**30:.2f} GiB, written in {time.perf_counter() - started:.0f} s")
    with file.open() as lines:
        few.write_text("".join(line for line, _ in zip(lines, range(BASELINE_ROWS), strict=False)))
    alone = train("alone", few, folder, options, streaming=False)
    indexing = train("indexing", file, folder, options, streaming=True)
    again = train("again", file, folder, options, streaming=True)
    above = {name: run["peak_bytes"] - alone["peak_bytes"] for name, run in (("indexing", indexing), ("again", again))}
    say(f"above a run on {BASELINE_ROWS} rows in memory: {', '.join(f'{name} {peak / 2**20:.0f} MiB' for name, peak in above.items())}")
    kept = again["first_step_seconds"] <= LIMIT_SECONDS and max(above.values()) <= LIMIT_BYTES
    return {
        "examples": options.examples,
        "file_bytes": file.stat().st_size,
        "alone": alone,
        "indexing": indexing,
        "again": again,
        "above": above,
        "kept": kept,
        "machine": machine(),
    }


def main() -> None:
    """The command line. Exit code 1 where the start takes longer or more memory than promised."""
    options = parse_arguments(Options, sys.argv[1:])
    folder = Path(options.folder or tempfile.mkdtemp(prefix="large-data-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        record = measure(options, folder)
    finally:
        if options.keep == "false":
            shutil.rmtree(folder, ignore_errors=True)
    append_record(options.out, record)
    say("promised and kept" if record["kept"] else "NOT kept: 60 s and 2 GiB")
    raise SystemExit(0 if record["kept"] else 1)


if __name__ == "__main__":
    main()
