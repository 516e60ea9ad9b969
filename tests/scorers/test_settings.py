"""What a user may type after `scorer=`, and what the answer is when it is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from alignkit.command_line import precheck
from alignkit.configuration import config_yaml
from alignkit.errors import UserError
from alignkit.resolution import build_scorer
from alignkit.scorers.head import Head
from alignkit.scorers.length import Length
from alignkit.scorers.vader import Vader
from alignkit.scorers.weighted import Weighted


def built(*typed: str) -> object:
    (settings,) = precheck(list(typed))
    return build_scorer(settings.scorer, settings.allow_code)


def test_a_scorer_is_built_from_what_was_typed_and_what_its_file_says() -> None:
    assert built("scorer=vader") == Vader()
    assert built("scorer=length", "scorer.target=3") == Length(target=3)
    assert built("scorer=head", "scorer.path=a/run") == Head(path="a/run", head=None, normalized=True)


def test_a_sum_is_built_with_the_files_of_its_parts() -> None:
    sum_of = built("scorer=weighted", "scorer.parts={tone: {scorer: vader}, short: {scorer: length, weight: -0.5}}")
    assert sum_of == Weighted(parts={"tone": (1.0, Vader()), "short": (-0.5, Length(target=20))})


def test_the_config_that_is_saved_builds_the_same_scorer() -> None:
    (settings,) = precheck(["scorer=weighted", "scorer.parts={tone: {scorer: vader, weight: 2}}"])
    saved = yaml.safe_load(config_yaml(settings))["scorer"]
    assert saved == {"name": "weighted", "parts": {"tone": {"scorer": "vader", "weight": 2.0}}}
    (again,) = precheck(["scorer=weighted", "scorer.parts={tone: {scorer: vader, weight: 2.0}}"])
    assert again.scorer == settings.scorer


WRONG = [
    ("scorer=vadre", r"^unknown scorer 'vadre'; .* Did you mean 'vader'\?"),
    ("scorer=vader scorer.target=3", r"^scorer\.target: vader has no option 'target'; length has it\."),
    ("scorer=length scorer.targt=3", r"^scorer\.targt: no such key\. Did you mean 'target'\?"),
    ("scorer=length scorer.target=far", r"^scorer\.target = 'far'; must be a whole number"),
    ("scorer=length scorer.target=-1", r"^scorer\.target = -1; must be a number in \[0, inf\)"),
    ("scorer=regex", r"^scorer\.pattern is missing\. Type scorer\.pattern=VALUE\."),
    ("scorer=regex scorer.pattern='('", r"^scorer\.pattern = '\('; must be a regular expression"),
    ("scorer=head", r"^scorer\.path is missing\. Type scorer\.path=VALUE\."),
    ("scorer=implicit scorer.path=a scorer.beta=0", r"^scorer\.beta = 0"),
    ("scorer=http scorer.url=ftp://x", r"^scorer\.url = 'ftp://x'; must be an address"),
    # Sums
    ("scorer=weighted", r"^scorer\.parts = \{\}; must name the scorers of the sum\. Try 'scorer\.parts="),
    ("scorer=weighted scorer.parts={a: vader}", r"^scorer\.parts\.a = 'vader'; must say which scorer it is\. Try "),
    ("scorer=weighted scorer.parts={a: {scorer: vadr}}", r"^scorer\.parts\.a\.scorer = 'vadr'; must be one of .* Did you mean 'vader'\?"),
    ("scorer=weighted scorer.parts={a: {scorer: none}}", r"^scorer\.parts\.a\.scorer = 'none'; must be one of"),
    ("scorer=weighted scorer.parts={a: {scorer: weighted}}", r"^scorer\.parts\.a\.scorer = 'weighted'; must be one of"),
    ("scorer=weighted scorer.parts={a: {scorer: length, targt: 3}}", r"^scorer\.parts\.a\.targt: no such key\. Did you mean 'target'\?"),
    (
        "scorer=weighted scorer.parts={a: {scorer: vader, target: 3}}",
        r"^scorer\.parts\.a\.target: vader has no option 'target'; length has",
    ),
    ("scorer=weighted scorer.parts={a: {scorer: length, target: -3}}", r"^scorer\.parts\.a: scorer\.target = -3"),
    ("scorer=weighted scorer.parts={a: {scorer: vader, weight: much}}", r"^scorer\.parts\.a\.weight = 'much'; must be a number"),
    ("scorer=weighted scorer.parts={a: {scorer: vader, name: b}}", r"^scorer\.parts\.a\.name: no such key"),
    ("scorer=weighted scorer.parts={a: {scorer: head}}", r"^scorer\.parts\.a\.path is missing\. Type scorer\.parts\.a\.path=VALUE\."),
    ("scorer=weighted scorer.parts={a/b: {scorer: vader}}", r"a/b"),
    # Code
    ("scorer.name=os.path", r"^'os\.path' names code outside alignkit\. If you trust it, type allow_code=\[os\]"),
    ("scorer=python scorer.callable=os.getpid", r"^'os\.getpid' names code outside alignkit\. If you trust it, type allow_code=\[os\]"),
    ("scorer=python scorer.callable=politeness", r"^scorer\.callable = 'politeness'; must be the dotted path"),
    ("scorer=weighted scorer.parts={a: {scorer: python, callable: os.getpid}}", r"^'os\.getpid' names code outside alignkit"),
    ("scorer=weighted scorer.parts={a: {scorer: os.path}}", r"^'os\.path' names code outside alignkit"),
    (
        "allow_code=[os] scorer=python scorer.callable=os.getpd",
        r"^scorer\.callable = 'os\.getpd': os has no 'getpd'\. Did you mean 'getpid'\?",
    ),
]


@pytest.mark.parametrize(("typed", "message"), WRONG, ids=[typed for typed, _ in WRONG])
def test_a_mistake_gets_one_message(typed: str, message: str) -> None:
    words = typed.split(" scorer.parts=")
    words = [*words[0].split(), *(f"scorer.parts={parts}" for parts in words[1:])]
    with pytest.raises(UserError, match=message):
        built(*words)


@pytest.fixture
def my_pkg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of somebody's that leaves a trace when it is imported."""
    folder = tmp_path / "somebodys_rewards"
    folder.mkdir()
    (folder / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()")
    (folder / "rewards.py").write_text("def long(prompts, completions):\n    return [len(text) for text in completions]")
    scorer = """
        from dataclasses import dataclass
        from alignkit.scorers.scorer import TextScorer
        @dataclass(frozen=True, kw_only=True, slots=True)
        class Constant(TextScorer):
            value: float = 3.0
            def score(self, prompts, completions):
                return [self.value] * len(completions)
    """
    (folder / "constant.py").write_text("\n".join(line[8:] for line in scorer.splitlines()))
    monkeypatch.syspath_prepend(tmp_path)
    for module in [name for name in sys.modules if name.startswith("somebodys_rewards")]:
        monkeypatch.delitem(sys.modules, module)
    return tmp_path


def test_code_that_is_not_allowed_is_refused_before_anything_of_it_runs(my_pkg: Path) -> None:
    typed = ["scorer=python", "scorer.callable=somebodys_rewards.rewards.long"]
    for parts in (typed, ["scorer=weighted", "scorer.parts={a: {scorer: python, callable: somebodys_rewards.rewards.long}}"]):
        with pytest.raises(UserError, match=r"type allow_code=\[somebodys_rewards\]"):
            precheck(parts)
    assert not (my_pkg / "imported").exists()
    assert built(*typed, "allow_code=[somebodys_rewards]").score(["", ""], ["abc", ""]) == [3.0, 0.0]
    assert (my_pkg / "imported").exists()


def test_settings_that_were_checked_by_nobody_are_checked_when_the_scorer_is_built(my_pkg: Path) -> None:
    (settings,) = precheck(["scorer=python", "scorer.callable=somebodys_rewards.rewards.long", "allow_code=[somebodys_rewards]"])
    (my_pkg / "imported").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"type allow_code=\[somebodys_rewards\]"):
        build_scorer(settings.scorer)


def test_a_scorer_of_another_package_is_built_like_ours(my_pkg: Path) -> None:
    typed = ["scorer=vader", "scorer.name=somebodys_rewards.constant", "allow_code=[somebodys_rewards]"]
    assert built(*typed, "scorer.value=2").score([""], ["a"]) == [2.0]
    with pytest.raises(UserError, match=r"^scorer\.valeu: no such key\. Did you mean 'value'\?"):
        built(*typed, "scorer.valeu=2")
