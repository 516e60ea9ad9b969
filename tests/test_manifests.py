"""A checkpoint of which a byte is not what was written is named and passed over."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from alignkit.manifests import Manifest, damage, manifest_of, newest_intact, remove, step_checkpoints, step_name

CONTENT = bytes(range(256)) * 64
PAGE = 4096


def written(folder: Path, step: int) -> Path:
    """A checkpoint of one file."""
    path = folder / step_name(step)
    path.write_bytes(CONTENT)
    sealed(path, step, {"": CONTENT})
    return path


def sealed(path: Path, step: int, files: dict[str, bytes]) -> None:
    sums = {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()}
    Manifest(step=step, files=sums, config={}, versions={}).write(path)


def cut_to(fraction: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(CONTENT[: int(len(CONTENT) * fraction)])


def flipped(path: Path) -> None:
    path.write_bytes(CONTENT[:5000] + bytes([CONTENT[5000] ^ 1]) + CONTENT[5001:])


def zeroed(path: Path) -> None:
    path.write_bytes(CONTENT[:PAGE] + bytes(PAGE) + CONTENT[2 * PAGE :])


def manifest_with(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        values = json.loads(manifest_of(path).read_text())
        manifest_of(path).write_text(json.dumps({**values, **changes}))

    return change


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


DAMAGES = {
    "empty": (cut_to(0), "has 0 bytes instead of 16,384"),
    "one byte": (lambda path: path.write_bytes(b"P"), "has 1 bytes instead of 16,384"),
    "a tenth": (cut_to(0.1), "bytes instead of"),
    "half": (cut_to(0.5), "bytes instead of"),
    "nine tenths": (cut_to(0.9), "bytes instead of"),
    "nearly all": (cut_to(0.999), "bytes instead of"),
    "a flipped bit": (flipped, "has another checksum than when it was written"),
    "a page of zeros": (zeroed, "another checksum"),
    "zeros": (lambda path: path.write_bytes(bytes(len(CONTENT))), "another checksum"),
    "a folder in its place": (lambda path: (path.unlink(), path.mkdir()), "the file is missing"),
    "a link": (linked, "is a link"),
    "no manifest": (lambda path: manifest_of(path).unlink(), "was not written to its end: there is no step-000008.json"),
    "an empty manifest": (lambda path: manifest_of(path).write_text(""), "step-000008.json cannot be read"),
    "half a manifest": (lambda path: os.truncate(manifest_of(path), 30), "step-000008.json cannot be read"),
    "a manifest of a later version": (manifest_with(format=99), "step-000008.json is of format 99; this version reads 1"),
    "a manifest of something else": (manifest_with(files=None), "step-000008.json is no manifest"),
    "a list": (lambda path: manifest_of(path).write_text("[1]"), "is of format None"),
    "not UTF-8": (lambda path: manifest_of(path).write_bytes(b"\xff\xfe{"), "cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(name, tmp_path):
    harm, words = DAMAGES[name]
    before, newest = written(tmp_path, 4), written(tmp_path, 8)
    assert newest_intact(tmp_path) == (newest, [])
    harm(newest)
    found, (reason,) = newest_intact(tmp_path)
    assert found == before
    assert reason.startswith("step-000008.ckpt ")
    assert words in reason


def test_where_all_are_damaged_each_is_named(tmp_path):
    for step in (4, 8):
        flipped(written(tmp_path, step))
    found, reasons = newest_intact(tmp_path)
    assert found is None
    assert [reason.split()[0] for reason in reasons] == ["step-000008.ckpt", "step-000004.ckpt"]


def test_the_newest_is_that_of_the_largest_step_whatever_the_clock_said(tmp_path):
    for step in (1_000_000, 999_999, 20):
        written(tmp_path, step)
    os.utime(tmp_path / step_name(20), (4e9, 4e9))
    (tmp_path / "step-final.ckpt").write_bytes(b"")
    (tmp_path / "last.ckpt").symlink_to(step_name(20))
    assert [path.name for path in step_checkpoints(tmp_path)] == ["step-1000000.ckpt", "step-999999.ckpt", "step-000020.ckpt"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A checkpoint that two processes have written."""
    path = tmp_path / step_name(2)
    path.mkdir()
    parts = {"__0_0.distcp": b"zero", "__1_0.distcp": b"one", ".metadata": b"names"}
    for name, content in parts.items():
        (path / name).write_bytes(content)
    sealed(path, 2, parts)
    assert damage(path) is None
    return path


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: (path / "__1_0.distcp").unlink(), "__1_0.distcp is missing"),
        (lambda path: (path / "__1_0.distcp").write_bytes(b"two"), "__1_0.distcp has another checksum"),
        (lambda path: (path / ".metadata").write_bytes(b"name"), ".metadata has 4 bytes instead of 5"),
        (lambda path: (path / "more").write_bytes(b""), "more is not in its manifest"),
        (lambda path: (path / "more").symlink_to("/etc/hostname"), "more is no file"),
        (lambda path: (path / "more").mkdir(), "more is no file"),
    ],
)
def test_a_part_of_one_process_is_as_good_as_the_whole(harm, words, folder):
    harm(folder)
    assert words in str(damage(folder))


def test_what_is_removed_half_way_is_not_taken_for_one(folder, monkeypatch):
    monkeypatch.setattr("alignkit.manifests.shutil.rmtree", lambda *args, **kwargs: None)  # killed here
    remove(folder)
    assert "was not written to its end" in str(damage(folder))
