"""`python tests/golden/record.py --reason TEXT [LOSSES...]`: record the golden curves again, because they move on purpose.

Trains every objective (or those that are named), writes the curves that moved, and adds a line to REASONS.md: when, why, at which commit,
and which. Without a reason nothing is recorded.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parents[1])]  # its own modules, and the tree that it stands in
REASONS = FOLDER / "REASONS.md"
NOT_ON_RECORD = "new"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Record the golden curves again.")
    parser.add_argument("losses", nargs="*", metavar="LOSS", help="an option of loss=; all of them where none is named")
    parser.add_argument("--reason", required=True, help="why curves move: it goes into REASONS.md")
    options = parser.parse_args(arguments)
    if not options.reason.strip():
        parser.error("--reason is empty: say why curves move")
    moved = record(options.losses)
    if moved:
        line = f"- {datetime.date.today().isoformat()}, {commit()}: {options.reason.strip()}. Moved: {', '.join(moved)}.\n"
        with REASONS.open("a", encoding="utf-8") as file:
            file.write(line)
    print(f"{len(moved)} moved" + (f": {', '.join(moved)}" if moved else ""))
    return 0


def record(wanted: Sequence[str]) -> list[str]:
    """Write the curves that are not those on record; which they are."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from curves import MODELS, SHARED, Curve, curve_of, losses_on, record_of, settings_of

    from alignkit.training import hush

    torch.set_num_threads(1)
    hush()
    moved = []
    for model in MODELS:
        if model != "tiny" and not (SHARED / "models" / model).is_dir():
            print(f"{model}: not at {SHARED / 'models'}, its curves stay", file=sys.stderr)
            continue
        for loss in losses_on(model):
            if wanted and loss not in wanted:
                continue
            file, curve = record_of(model, loss), curve_of(settings_of(loss, model))
            before = Curve.from_json(file.read_text(encoding="utf-8")) if file.exists() else None
            if before == curve:
                continue
            if before is None or (before.loss, before.gradient_norm) != (curve.loss, curve.gradient_norm):
                moved.append(f"{model}/{loss}" + (f" {NOT_ON_RECORD}" if before is None else ""))
            file.parent.mkdir(exist_ok=True)
            file.write_text(curve.to_json(), encoding="utf-8")
    return moved


def commit() -> str:
    """The commit that the tree stands on, and whether it has changes."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return f"commit {head}" + (" with changes" if _git("status", "--porcelain", "--", ":/alignkit", ":/conf") else "")
    except (OSError, subprocess.CalledProcessError):
        return "no commit"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=FOLDER, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())
