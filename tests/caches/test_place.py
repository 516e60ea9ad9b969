"""Where the cache lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignkit.caches.place import cache_root, short
from alignkit.errors import UserError


def test_the_setting_comes_before_the_variables_and_those_before_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ALIGNKIT_CACHE", "/a/variable")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/cache")
    assert cache_root("/typed") == Path("/typed")
    assert cache_root(None) == Path("/a/variable")
    monkeypatch.delenv("ALIGNKIT_CACHE")
    assert cache_root(None) == Path("/x/cache/alignkit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root(None) == tmp_path / ".cache/alignkit"
    assert cache_root("~/mine") == tmp_path / "mine"
    assert list(tmp_path.iterdir()) == []


def test_a_relative_place_is_seen_from_where_the_command_was_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert cache_root("cache") == tmp_path / "cache"


def test_without_a_home_a_place_must_be_typed() -> None:
    with pytest.raises(UserError, match="Type cache_dir=DIR"):
        cache_root("~nobody-of-this-name/cache")


def test_a_path_is_shown_as_it_would_be_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert short(tmp_path / ".cache" / "x") == "~/.cache/x"
    assert short(Path("/elsewhere")) == "/elsewhere"
