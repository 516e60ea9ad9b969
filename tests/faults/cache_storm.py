"""`python tests/faults/cache_storm.py --seconds 300 --processes 8 --seed 0`: processes share one cache while it is being destroyed.

Each process asks again and again for the values of some of the examples, and what it is given is compared with what the function says.
Meanwhile processes are killed with SIGKILL, and files are cut, flipped, zeroed, deleted, replaced and turned into links, pipes and folders:
those with values, half-written ones and the lock. A value that is wrong, an error, and a process that gets nowhere are counted.

The function is a stand-in: a token's value is known from its number and its place alone, and computing it takes a moment.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import math
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from alignkit.batches import PackedBatch
from alignkit.caches import filling
from alignkit.caches.filling import Filler, Quantity
from alignkit.caches.store import SUFFIX, Store
from alignkit.data.collate import micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing

EXAMPLES = 400
ASKED = 60
"""Examples that a process asks for at a time."""
MOMENT = 0.002
"""Seconds that a batch takes to compute."""
STUCK = 60.0
"""Seconds without a step after which a process is stuck: a machine under load may be slow."""
COUNTS = ("asked", "read", "computed", "wrong", "errors")
"""Requests, and values of examples: found in the cache, computed, wrong; and requests that ended in an error."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Storm:
    """What happened."""

    counts: dict[str, int]
    """Of all processes, killed ones too."""
    kills: int
    stuck: int
    damages: dict[str, int]

    @property
    def is_survived(self) -> bool:
        """Whether every value was right, and nobody failed or stood still."""
        return self.counts["wrong"] == self.counts["errors"] == self.stuck == 0

    def __str__(self) -> str:
        harm = ", ".join(f"{name} {count}" for name, count in sorted(self.damages.items()))
        told = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        return f"{told}, kills {self.kills}, stuck {self.stuck}; damages {sum(self.damages.values())}: {harm}"


def make_examples() -> list[EncodedExample]:
    """Examples of 2 completions of 1 to 30 tokens each."""
    generator = random.Random(0)
    made = []
    for key in range(EXAMPLES):
        prompt, first, second = (tuple(generator.randrange(1000) for _ in range(generator.randint(1, 30))) for _ in range(3))
        made.append(EncodedExample(key=key, prompt_ids=prompt, completion_ids=(first, second)))
    return made


def truth(example: EncodedExample) -> Tensor:
    """The value of each token of the completions [N]: known from the token alone."""
    return value_of(torch.tensor([token for ids in example.completion_ids for token in ids]))


def value_of(ids: Tensor) -> Tensor:
    return (ids.double() * math.pi).sin().float()


def compute(backbone: Any, batch: PackedBatch) -> Tensor:
    time.sleep(MOMENT)
    return value_of(batch.target_ids)


def tokens_of(example: EncodedExample) -> int:
    return sum(map(len, example.completion_ids))


@contextmanager
def no_bar(tokens: int) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


def batches(examples: Sequence[EncodedExample]) -> list[PackedBatch]:
    return micro_batches(examples, Packing(layout="packed", tokens=300, row_tokens=300))


QUANTITY = Quantity(name="stand_in", words="numbers", rows=tokens_of, compute=compute)
FILLER = Filler(quantity=QUANTITY, backbone=None, batches=batches, progress=no_bar)  # type: ignore[arg-type]


def work(folder: Path, seed: int, counts: Any, beats: Any, place: int) -> None:
    """Ask and compare until killed. `counts` and `beats[place]` are seen by the one who kills."""
    faulthandler.register(signal.SIGUSR1)
    os.dup2(os.open(folder.parent / "said.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT), 1)
    torch.set_num_threads(1)
    filling.SEGMENT_SECONDS = 0.02  # many small files
    examples, draw = make_examples(), random.Random(seed)
    expected = [truth(example) for example in examples]
    while True:
        start = draw.randrange(EXAMPLES)
        chosen = [examples[(start + step) % EXAMPLES] for step in range(ASKED)]
        try:
            store = Store(folder, {"values": "stand_in"}, lambda line: print(line, flush=True))
            filled = FILLER.fill(store, chosen, "waiting")
        except Exception:
            traceback.print_exc()
            counts[COUNTS.index("errors")] += 1
            continue
        for _ in range(draw.randrange(3)):  # what is read is used for a while
            time.sleep(0.01)
        wrong = sum(not torch.equal(filled.values[example.key], expected[example.key]) for example in chosen)
        for name, count in (("asked", 1), ("read", filled.reused), ("computed", filled.computed), ("wrong", wrong)):
            counts[COUNTS.index(name)] += count
        beats[place] = time.monotonic()


def cut(file: Path, draw: random.Random) -> None:
    os.truncate(file, draw.randrange(1 + file.stat().st_size))


def flip(file: Path, draw: random.Random) -> None:
    with file.open("r+b") as opened:
        place = draw.randrange(max(1, file.stat().st_size))
        opened.seek(place)
        byte = opened.read(1) or b"\0"
        opened.seek(place)
        opened.write(bytes([byte[0] ^ (1 << draw.randrange(8))]))


def zero(file: Path, draw: random.Random) -> None:
    with file.open("r+b") as opened:
        opened.seek(draw.randrange(1 + file.stat().st_size) // 4096 * 4096)
        opened.write(bytes(4096))


def delete(file: Path, draw: random.Random) -> None:
    file.unlink()


def swap(file: Path, draw: random.Random) -> None:
    """Another file's content under this one's name."""
    other = draw.choice(sorted(file.parent.glob(f"*{SUFFIX}")))
    shutil.copyfile(other, file.with_suffix(".swap"))
    file.with_suffix(".swap").replace(file)


def link(file: Path, draw: random.Random) -> None:
    file.unlink()
    file.symlink_to(file.parent.parent / "outside")


def pipe(file: Path, draw: random.Random) -> None:
    file.unlink()
    os.mkfifo(file)


def make_folder(file: Path, draw: random.Random) -> None:
    file.unlink()
    file.mkdir()


HARMS = (cut, cut, flip, flip, flip, zero, delete, swap, link, pipe, make_folder)


def harm(folder: Path, draw: random.Random) -> str | None:
    """Damage a file of the cache, and say how; None where nothing could be."""
    files = [file for file in folder.glob("*") if file.suffix in (SUFFIX, ".part", "") and file.is_file() and not file.is_symlink()]
    if not files:
        return None
    chosen = draw.choice(HARMS)
    with contextlib.suppress(OSError, IndexError, shutil.SameFileError):
        chosen(draw.choice(sorted(files)), draw)
        return chosen.__name__
    return None


def clean(folder: Path) -> None:
    """Take away what stands in the way for ever, as a user would, and start anew now and then."""
    for file in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError):
            if file.is_symlink() or file.is_fifo():
                file.unlink()
            elif file.is_dir():
                file.rmdir()


def weather(folder: Path, *, seconds: float, processes: int, seed: int) -> Storm:
    """Let it storm."""
    (folder.parent / "outside").write_text("not to be touched")
    context = multiprocessing.get_context("fork")
    draw = random.Random(seed)
    every: list[Any] = []
    beats = RawArray("d", processes)
    kills = stuck = begun = 0
    damages: dict[str, int] = {}

    def start(place: int) -> BaseProcess:
        nonlocal begun
        begun += 1
        every.append(RawArray("q", len(COUNTS)))
        beats[place] = time.monotonic()
        process = context.Process(target=work, args=(folder, seed * 1_000_003 + begun, every[-1], beats, place), daemon=True)
        process.start()
        return process

    running = [start(place) for place in range(processes)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(draw.uniform(0.0, 0.05))
        if draw.random() < 0.5 and (how := harm(folder, draw)) is not None:
            damages[how] = damages.get(how, 0) + 1
        if draw.random() < 0.02:
            clean(folder)
        if draw.random() < 0.1:
            place = draw.randrange(processes)
            running[place].kill()
            running[place].join()
            kills += 1
            running[place] = start(place)
        for place, process in enumerate(running):
            if not process.is_alive():
                print(f"a process ended by itself with {process.exitcode}", file=sys.stderr)
                every[0][COUNTS.index("errors")] += 1
                running[place] = start(place)
            elif time.monotonic() - beats[place] > STUCK:
                os.kill(process.pid or 0, signal.SIGUSR1)  # says where it stands
                stuck += 1
                beats[place] = time.monotonic()
    for process in running:
        process.kill()
        process.join()
    if (folder.parent / "outside").read_text() != "not to be touched":
        every[0][COUNTS.index("errors")] += 1
    summed = {name: sum(counts[place] for counts in every) for place, name in enumerate(COUNTS)}
    return Storm(counts=summed, kills=kills, stuck=stuck, damages=damages)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        storm = weather(Path(place) / "cache", seconds=asked.seconds, processes=asked.processes, seed=asked.seed)
    print(f"{asked.processes} processes, {asked.seconds:g} s, seed {asked.seed}: {storm}")
    return 0 if storm.is_survived else 1


if __name__ == "__main__":
    sys.exit(main())
