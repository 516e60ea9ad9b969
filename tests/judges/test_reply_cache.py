"""Replies that were paid for are kept, whole or not at all, whatever happens to processes and files."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alignkit.judges import reply_cache
from alignkit.judges.reply_cache import ReplyCache

TEXTS = {f"digest{number}": f"reply {number} é\n🙂\0 end" for number in range(1200)}


def opened(folder: Path, said: list[str] | None = None) -> ReplyCache:
    return ReplyCache(folder, print if said is None else said.append)


def filled(folder: Path, count: int = 40) -> ReplyCache:
    cache = opened(folder)
    for digest, text in list(TEXTS.items())[:count]:
        cache.write(digest, text)
    return cache


def test_what_was_written_is_read_by_others_and_nothing_else(tmp_path: Path) -> None:
    assert opened(tmp_path).read(["digest0"]) == {}
    assert not list(tmp_path.iterdir())  # reading makes nothing
    filled(tmp_path)
    assert opened(tmp_path).read(list(TEXTS)) == dict(list(TEXTS.items())[:40])


def test_what_another_process_has_written_first_stays(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    assert one.read(["d"]) == other.read(["d"]) == {}
    assert one.write("d", "mine") == "mine"
    assert other.write("d", "yours") == "mine"
    assert other.read(["d"]) == opened(tmp_path).read(["d"]) == {"d": "mine"}


WRITER = """
import sys
from pathlib import Path
from alignkit.judges.reply_cache import ReplyCache
cache = ReplyCache(Path(sys.argv[1]), print)
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    cache.write(f"digest{number}", f"{number} " * 2000)
"""


def writing(folder: Path, start: int, end: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(start), str(end)], stdout=subprocess.PIPE, text=True)


def written(end: int) -> dict[str, str]:
    return {f"digest{number}": f"{number} " * 2000 for number in range(end)}


def test_several_processes_write_at_once_and_lose_nothing(tmp_path: Path) -> None:
    workers = [writing(tmp_path, start, 60) for start in (0, 20, 40)]
    assert [(worker.communicate()[0], worker.returncode) for worker in workers] == [("", 0)] * 3
    assert opened(tmp_path).read(list(written(70))) == written(60)


def test_what_a_killed_process_wrote_is_whole(tmp_path: Path) -> None:
    for _ in range(2):
        with writing(tmp_path, 0, 10**9) as worker:
            deadline = time.monotonic() + 60
            while not (tmp_path / reply_cache.FILE).exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.15)
            worker.kill()
    said: list[str] = []
    asked = written(5000)
    found = opened(tmp_path, said).read(list(asked))
    assert found
    assert found == written(len(found))  # whole, and none before the last is missing
    assert said == []


def test_a_commit_that_was_killed_half_way_is_undone(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    half = f"""
import os, sqlite3
database = sqlite3.connect({str(tmp_path / reply_cache.FILE)!r}, isolation_level=None)
database.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the commit
database.execute("BEGIN")
database.execute("UPDATE replies SET text = 'wrong'")
database.executemany("INSERT INTO replies VALUES (?, ?, ?)", [(f"d{{n}}", "x" * 5000, "") for n in range(50)])
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", half]).returncode == -9
    assert (tmp_path / (reply_cache.FILE + reply_cache.JOURNAL)).exists()
    said: list[str] = []
    assert opened(tmp_path, said).read(["digest0", "digest1", "digest2", "d0"]) == dict(list(TEXTS.items())[:3])
    assert said == []


def garbage(file: Path) -> None:
    file.write_bytes(b"no database " * 1000)


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def zeros(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[100:8000] = bytes(7900)
    file.write_bytes(data)


def another_letter(file: Path) -> None:
    data = file.read_bytes()
    assert b"reply 7 " in data
    file.write_bytes(data.replace(b"reply 7 ", b"reply 8 "))


def no_text(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"reply 7 ", b"\xff\xfeply 7 "))


def other_rows(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("UPDATE replies SET text = (SELECT text FROM replies WHERE digest = 'digest3') WHERE digest = 'digest7'")
    database.close()


def another_table(file: Path) -> None:
    file.unlink()
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE replies (a TEXT, b TEXT)")
    database.close()


def no_text_at_all(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("UPDATE replies SET text = 7 WHERE digest = 'digest7'")
    database.close()


@pytest.mark.parametrize(
    "damage",
    [garbage, truncated, zeros, another_letter, no_text, other_rows, another_table, no_text_at_all],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_file_is_put_aside_and_said_and_no_wrong_text_is_read(damage, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    filled(tmp_path)
    damage(tmp_path / reply_cache.FILE)
    said: list[str] = []
    cache = opened(tmp_path, said)
    found = cache.read(list(TEXTS))
    assert found.items() <= TEXTS.items()
    assert len(said) == 1
    assert "is damaged" in said[0]
    (bad,) = tmp_path.glob("*.bad")
    assert bad.name in said[0]
    assert cache.write("digest7", TEXTS["digest7"]) == TEXTS["digest7"]
    assert opened(tmp_path).read(["digest7", "digest8"]) == {"digest7": TEXTS["digest7"]}
    assert len(said) == 1


def test_damage_that_is_found_while_writing_loses_nothing_that_is_written(tmp_path: Path) -> None:
    filled(tmp_path)
    said: list[str] = []
    cache = opened(tmp_path, said)
    garbage(tmp_path / reply_cache.FILE)
    cache.write("new", "text")
    assert len(said) == 1
    assert opened(tmp_path).read(["new", "digest1"]) == {"new": "text"}


def test_where_nothing_can_be_written_replies_live_in_memory_and_that_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "replies").write_text("a file where the folder should be", encoding="utf-8")
    said: list[str] = []
    cache = opened(tmp_path / "replies", said)
    assert cache.write("a", "x") == "x"
    assert cache.write("b", "y") == "y"
    assert cache.read(["a", "b", "c"]) == {"a": "x", "b": "y"}
    assert len(said) == 1
    assert "kept in memory" in said[0]


def test_a_file_that_is_locked_for_too_long_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_cache, "WAITING", 0.05)
    filled(tmp_path, 1)
    holder = sqlite3.connect(tmp_path / reply_cache.FILE, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    said: list[str] = []
    assert opened(tmp_path, said).write("a", "x") == "x"
    assert "locked" in said[0]
    holder.close()
    assert not list(tmp_path.glob("*.bad"))
    assert opened(tmp_path).read(["digest0"]) == {"digest0": TEXTS["digest0"]}
