"""`python tests/bench/background_checkpoints.py [--gigabytes 1.6]`: how long training stands still while a checkpoint is written.

In turn (A B A B ...) with and without `callbacks.background_checkpoints`, for a state of so many bytes, medians. In the background training
waits for copies of the tensors alone, and a thread for the disk.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from alignkit.callbacks.checkpoint_files import CheckpointFiles
from alignkit.manifests import damage, step_name
from alignkit.modules.stepping import PROGRESS
from alignkit.run_dir import RunDir

ROUNDS = 5
TENSORS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.6)
    options = parser.parse_args()
    size = int(options.gigabytes * 1e9 / 4 / TENSORS)
    state = {PROGRESS: {"steps_done": 1}, "state_dict": {str(number): torch.randn(size) for number in range(TENSORS)}}
    folder = Path(tempfile.mkdtemp(prefix="alignkit-bench-"))
    waited: dict[bool, list[float]] = {False: [], True: []}
    try:
        for _ in range(ROUNDS):
            for background in (False, True):
                files = CheckpointFiles(RunDir(folder), print, background=background)
                begun = time.perf_counter()
                files.save_checkpoint(state, folder / step_name(1))
                waited[background].append(time.perf_counter() - begun)
                files.wait()
                assert damage(folder / step_name(1)) is None
    finally:
        shutil.rmtree(folder)
    plain, threaded = (statistics.median(waited[background]) for background in (False, True))
    print(f"{options.gigabytes} GB: training waits {plain:.2f} s, in the background {threaded:.2f} s: {threaded / plain:.2f} of it")


if __name__ == "__main__":
    main()
