"""The scorer that counts the words of a list."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from alignkit.errors import UserError
from alignkit.scorers.lexicon import Lexicon, listed_share, read_phrases


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def to_file(written: str) -> str:
        (tmp_path / "words.txt").write_text(written, encoding="utf-8")
        return str(tmp_path / "words.txt")

    return to_file


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("What a damn day", 1 / 4),
        ("DAMN, damn! Damned.", 2 / 3),  # whole words, whatever their case and the marks around them
        ("a class of asses", 0.0),
        ("ass.", 1.0),
        ("he is full of  it,\ntruly", 3 / 6),  # a phrase counts its words, whatever white space parts them
        ("full of hope", 0.0),
        ("don't and don’t", 2 / 3),
        ("son of a gun of war", 4 / 6),  # the longest of phrases that begin alike, and of overlapping ones the first
        ("ÄRGER ärger", 1.0),
        ("so what 🖕", 1 / 3),  # a listed mark is a word
        ("so what 🙂", 0.0),
        ("a$$ hole", 1 / 2),
        ("a hole", 0.0),
        ("", 0.0),
        ("...", 0.0),
    ],
)
def test_the_share_of_listed_words(write: Callable[[str], str], text: str, share: float) -> None:
    words = ["Damn", "ass", "full of it", "don't", "son", "son of a gun", "gun of", "Ärger", "🖕", "a$$", "", "  "]
    assert listed_share(text, read_phrases(write("\n".join(words)))) == share


def test_a_reward_is_higher_where_fewer_words_are_listed(write: Callable[[str], str]) -> None:
    scorer = Lexicon(path=write("\ufeffbad\r\nworse\r\n"))
    assert scorer.score(["bad"] * 3, ["good", "bad day", "bad, worse"]) == [0.0, -0.5, -1.0]


def test_a_file_that_is_none_is_told_when_the_scorer_is_made(write: Callable[[str], str], tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    start = re.escape(f"scorer.path = {str(path)!r}: ")
    with pytest.raises(UserError, match=f"^{start}cannot be read \\(No such file or directory\\)\\. Type scorer\\.path=FILE"):
        Lexicon(path=str(path))
    write("\n \n")
    with pytest.raises(UserError, match=f"^{start}holds no words"):
        Lexicon(path=str(path))
    path.write_bytes(b"\xff\xfeb")
    with pytest.raises(UserError, match=f"^{start}is not UTF-8 text"):
        Lexicon(path=str(path))
