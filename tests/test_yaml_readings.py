"""YAML that says something else than was meant: told with its line. What YAML makes of it is asserted by the library itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from alignkit.errors import UserError
from alignkit.yaml_readings import check_readings

SURPRISES = [
    ("seed: 1\nseed: 2\n", {"seed": 2}, "mine.yaml:2: found duplicate key seed; it is in line 1"),
    ("a:\n  b: 1\n  c: 2\n  b: 3\n", {"a": {"b": 3, "c": 2}}, "mine.yaml:4: found duplicate key b; it is in line 2"),
    ("no: 1\n", {False: 1}, "mine.yaml:1: the key no is read as bool"),
    ("seed: 010\n", {"seed": 8}, "mine.yaml:1: 010 is read as 8"),
    ("x: [1:30]\n", {"x": [90]}, "mine.yaml:1: 1:30 is read as 90"),
    ("a: 1\n---\nb: 2\n", None, "mine.yaml:2: a second document"),
    ("- 1\n", [1], "mine.yaml:1: must hold keys with values"),
    ("seed: !!float 1\n", {"seed": 1.0}, r"mine.yaml:1: tags \(!!float\) are not read"),
    ("a: 1\n? [b]\n: 2\n", None, "mine.yaml:2: a key must be a word"),
]
PLAIN = [
    "",
    "# only words\n",
    "'no': 1\n\"010\": '010'\n",
    "seed: 0\nlr: 1e-4\nsteps: 1_000\nname: 08\ntext: 'a: b'\nempty:\nlist: [a, a, {a: 1}, {a: 2}]\n",
    "path: ???\n",
]


@pytest.mark.parametrize(("text", "read", "answer"), SURPRISES)
def test_a_surprise_is_told_with_its_line(tmp_path: Path, text: str, read: object, answer: str) -> None:
    if read is not None:
        assert yaml.safe_load(text) == read  # without a word
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=answer):
        check_readings(file, text)


@pytest.mark.parametrize("text", PLAIN)
def test_plain_files_pass(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    check_readings(file, text)


def test_an_open_value_is_refused_where_it_would_be_laid_over_another(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("path: ???\n")
    with pytest.raises(UserError, match=r"mine.yaml:1: path: \?\?\? would leave it as it is"):
        check_readings(file, "path: ???\n", whole=False)


def test_a_byte_order_mark_is_refused_though_yaml_takes_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"\xef\xbb\xbfseed: 1\n")
    assert yaml.safe_load(file.read_bytes()) == {"seed": 1}
    with pytest.raises(UserError, match="byte order mark"):
        check_readings(file, file.read_text(encoding="utf-8-sig"))


def test_the_packaged_files_pass() -> None:
    from alignkit.configuration import conf_dir

    files = list(conf_dir().rglob("*.yaml"))
    assert len(files) > 100
    for file in files:
        check_readings(file, file.read_text(encoding="utf-8"))
