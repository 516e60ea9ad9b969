"""Keep runs for the notebooks and their tests: python notebooks/store_runs.py runs/first_run tests/stored_runs/01_first_run

Type it where the runs were made. What is kept is what load_runs reads: no weights, no samples that alignkit.generate drew (they are large),
no second copy of results in sweep.json, and no path of this machine.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

RUN_FILES = ("config.yaml", "metrics.jsonl", "results.json", "samples.jsonl", "pairs.jsonl")
SWEEP = "sweep.json"
FILES = (*RUN_FILES, SWEEP, "pipeline.json", "experiment.json")
DRAWN = '"completions"'
"""In a row of samples that alignkit.generate drew."""


def store(runs: Path, stored: Path) -> None:
    """Copy what is kept of all runs below a folder; what the destination held before is removed."""
    shutil.rmtree(stored, ignore_errors=True)
    for file in sorted(runs.rglob("*")):
        if file.name not in FILES or not file.is_file():
            continue
        text = file.read_text(encoding="utf-8").replace(f"{Path.cwd()}/", "")
        if file.name == "samples.jsonl" and DRAWN in text.partition("\n")[0]:
            continue
        if file.name == SWEEP:
            text = json.dumps([{key: value for key, value in job.items() if key != "results"} for job in json.loads(text)], indent=2) + "\n"
        kept = stored / file.relative_to(runs)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    """Store the runs of one folder."""
    if len(arguments) != 2 or not Path(arguments[0]).is_dir():
        sys.exit(__doc__)
    store(Path(arguments[0]), Path(arguments[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
