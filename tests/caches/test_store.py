"""Files of values: whole, verified, shared; a damaged one is set aside and a missing place is no reason to stop."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import Tensor

from alignkit.caches import store as store_file
from alignkit.caches.store import Segment, Store

ABOUT = {"values": "token_logps", "function": "f"}


def digest(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


def ragged(count: int, *width: int, dtype: torch.dtype = torch.float32) -> dict[bytes, Tensor]:
    """Values with 1, 2, 3, ... rows."""
    generator = torch.Generator().manual_seed(count)
    return {digest(n): torch.randn(n + 1, *width, generator=generator).to(dtype) for n in range(count)}


def rows(values: Mapping[bytes, Tensor]) -> dict[bytes, int]:
    return {key: len(value) for key, value in values.items()}


def same(left: Mapping[bytes, Tensor], right: Mapping[bytes, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) and left[key].dtype == right[key].dtype for key in left)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    return Store(tmp_path / "f", ABOUT, said.append)


def only_file(store: Store) -> Path:
    (file,) = store.folder.glob("*.safetensors")
    return file


@pytest.mark.parametrize(("width", "dtype"), [((), torch.float32), ((5,), torch.float32), ((5,), torch.bfloat16)])
def test_what_is_written_is_read_to_the_bit(width: tuple[int, ...], dtype: torch.dtype, store: Store, said: list[str]) -> None:
    first, second = ragged(7, *width, dtype=dtype), {digest("x"): torch.ones(3, *width, dtype=dtype)}
    assert store.write(first)
    assert store.write(second)
    assert same(store.read(rows(first | second)), first | second)
    assert said == []


def test_only_what_is_asked_for_is_read_and_what_is_not_there_is_left_out(store: Store) -> None:
    values = ragged(5)
    store.write(values)
    wanted = dict(list(rows(values).items())[1:3])
    assert store.read({**wanted, digest("x"): 4}).keys() == wanted.keys()


def test_a_folder_that_does_not_exist_holds_nothing_and_is_not_made_by_reading(store: Store) -> None:
    assert store.read({digest(1): 1}) == {}
    assert not store.folder.exists()


def overwrite(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size - 4096)
        opened.write(bytes(4096))


@pytest.mark.parametrize("harm", [overwrite, Path.unlink, lambda file: os.truncate(file, 100)], ids=["zeroed page", "deleted", "truncated"])
def test_what_happens_to_a_file_later_reaches_no_value_that_was_read(harm: Callable[[Path], None], store: Store) -> None:
    values = ragged(200)
    store.write(values)
    read = store.read(rows(values))
    harm(only_file(store))
    assert same(read, values)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_what_is_more_than_memory_is_to_hold_is_mapped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = ragged(50), {digest("x"): torch.ones(999)}
    store.write(first)
    file = only_file(store)
    store.write(second)
    (other,) = set(store.folder.glob("*.safetensors")) - {file}
    monkeypatch.setattr(store_file, "IN_MEMORY", other.stat().st_size)
    read = store.read(rows(second))
    read |= store.read(rows(first))
    maps = Path("/proc/self/maps").read_text()
    assert file.name in maps
    assert other.name not in maps
    assert same(read, first | second)
    assert len({read[key].untyped_storage().data_ptr() for key in first}) == 1


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_is_left_out_and_touches_nothing_outside(kind: str, store: Store, said: list[str], tmp_path: Path) -> None:
    values = ragged(3)
    store.write(values)
    file = only_file(store)
    outside = tmp_path / "outside.safetensors"
    file.rename(outside)
    content = outside.read_bytes()
    if kind == "link":
        file.symlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.mkdir()
    assert store.read(rows(values)) == {}
    (line,) = said
    assert "cannot be read (no file of its own) and is left out" in line
    assert store.write({digest("x"): torch.ones(2)})
    assert same(store.read({digest("x"): 2}), {digest("x"): torch.ones(2)})
    assert outside.read_bytes() == content


def test_a_draft_and_a_lock_that_are_links_lead_nowhere(store: Store, tmp_path: Path) -> None:
    values = ragged(3)
    precious = tmp_path / "thesis.tex"
    precious.write_text("all of it")
    store.folder.mkdir()
    (store.folder / f"{Segment.of(values).checksum()[:32]}.{os.getpid()}.part").symlink_to(precious)
    (store.folder / "lock").symlink_to(precious)
    with store.locked("waiting"):
        assert store.write(values)
    assert same(store.read(rows(values)), values)
    assert precious.read_text() == "all of it"


def test_files_are_named_by_their_content(store: Store) -> None:
    values = ragged(3)
    store.write(values)
    store.write(values)
    assert only_file(store).stem == Segment.of(values).checksum()[:32]
    assert [file.name for file in store.folder.iterdir()] == [only_file(store).name]


@pytest.mark.parametrize("place", [0.0, 0.005, 0.02, 0.3, 0.5, 0.8, 0.999])
def test_a_changed_byte_anywhere_is_noticed_said_and_set_aside(place: float, store: Store, said: list[str]) -> None:
    values = ragged(40)
    store.write(values)
    file = only_file(store)
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)
    read = store.read(rows(values))
    # a changed digest is no longer asked for; all that is read is what was written
    assert all(torch.equal(read[key], values[key]) for key in read)
    assert read == {}
    assert len(said) == 1
    assert "is damaged" in said[0]
    assert not file.exists()
    assert file.with_suffix(".bad").exists()
    assert store.read(rows(values)) == {}
    assert len(said) == 1
    # and what is computed again takes its place
    store.write(values)
    assert same(store.read(rows(values)), values)


@pytest.mark.parametrize("length", [0, 7, 100, 0.5, 0.99])
def test_a_file_that_was_cut_is_set_aside(length: float, store: Store, said: list[str]) -> None:
    values = ragged(40)
    store.write(values)
    file = only_file(store)
    content = file.read_bytes()
    file.write_bytes(content[: int(length * len(content)) if length < 1 else int(length)])
    assert store.read(rows(values)) == {}
    assert "is damaged" in said[0]


def test_values_of_another_length_than_the_example_are_set_aside(store: Store, said: list[str]) -> None:
    values = ragged(4)
    store.write(values)
    assert store.read({digest(2): 7}) == {}
    assert "its shapes are wrong" in said[0]


def test_a_file_from_another_folder_is_not_used(store: Store, said: list[str], tmp_path: Path) -> None:
    values = ragged(4)
    other = Store(tmp_path / "g", {**ABOUT, "function": "g"}, said.append)
    other.write(values)
    store.folder.mkdir()
    only_file(other).rename(store.folder / "0.safetensors")
    assert store.read(rows(values)) == {}
    assert "belongs elsewhere" in said[0]


def test_a_damaged_file_does_not_hide_the_others(store: Store, said: list[str]) -> None:
    values = ragged(4)
    store.write({digest("x"): torch.ones(2)})
    store.write(values)
    (store.folder / "0.safetensors").write_bytes(b"nonsense")
    assert same(store.read(rows(values)), values)
    assert len(said) == 1


WRITER = """
import sys, torch
from pathlib import Path
from alignkit.caches.store import Store
store = Store(Path(sys.argv[1]), {"values": "token_logps", "function": "f"}, print)
for n in range(10**9):
    store.write({n.to_bytes(32, "little"): torch.full((2**18,), float(n))})
    print(n, flush=True)
"""


def test_a_writer_that_is_killed_leaves_no_half_file_and_loses_nothing_that_was_written(store: Store, said: list[str]) -> None:
    for pause in (0.0, 0.004, 0.009):  # somewhere inside of a write
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(store.folder)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(5):
            done = int(process.stdout.readline())
        time.sleep(pause)
        process.kill()
        done += process.communicate()[0].count("\n")
    assert done >= 4
    read = store.read({n.to_bytes(32, "little"): 2**18 for n in range(done + 2)})
    assert len(read) >= done
    assert all(torch.equal(value, torch.full((2**18,), float(int.from_bytes(key, "little")))) for key, value in read.items())
    assert said == []


def test_drafts_of_killed_writers_are_removed_when_they_are_old(store: Store) -> None:
    store.folder.mkdir()
    old, young = store.folder / "1.2.part", store.folder / "3.4.part"
    for draft in (old, young):
        draft.touch()
    os.utime(old, (0, time.time() - store_file.ABANDONED_SECONDS - 1))
    with store.locked("waiting"):
        assert not old.exists()
        assert young.exists()


def test_where_nothing_can_be_written_that_is_said_once_and_no_error(said: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / "f", ABOUT, said.append)
    values = ragged(3)
    with store.locked("waiting"):
        assert store.write(values) is False
        assert store.write(values) is False
        assert store.write({})
    assert store.read(rows(values)) == {}
    assert store.writable is False
    assert len(said) == 1
    assert "cannot be written (Not a directory), so values are kept in memory for this run alone." in said[0]


def test_a_full_disk_leaves_no_draft(store: Store, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert store.write(ragged(3)) is False
    assert list(store.folder.iterdir()) == []
    assert "No space left on device" in said[0]


def test_one_holds_the_folder_and_the_other_says_that_it_waits(store: Store, said: list[str]) -> None:
    store.folder.mkdir()
    events: list[str] = []

    def second() -> None:
        with store.locked("waiting for another process"):
            events.append("second")

    with FileLock(store.folder / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        wait_for(lambda: said == ["waiting for another process"])
        time.sleep(0.3)
        events.append("first")
    thread.join(10)
    assert events == ["first", "second"]


def wait_for(happened: Callable[[], bool]) -> None:
    for _ in range(1000):
        if happened():
            return
        time.sleep(0.01)
    raise AssertionError("did not happen")


def test_the_lock_is_free_after_an_error_inside(store: Store, said: list[str]) -> None:
    with pytest.raises(KeyError), store.locked("waiting"):
        raise KeyError
    with store.locked("waiting"):
        assert said == []


def test_without_locks_work_goes_on(store: Store, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with store.locked("waiting"):
        assert store.write(ragged(3))
    assert said == []
