"""What the command line of `alignkit.label` means, and mistakes that cost one message."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
import yaml
from omegaconf import OmegaConf

from alignkit.command_line import check_one, check_paths
from alignkit.composition import Composer, composing
from alignkit.errors import UserError
from alignkit.label import HELP
from alignkit.label_settings import PATIENCE, LabelSettings
from alignkit.labelling.config import OWN, Labelling, labelling_of, labelling_yaml, rewrite
from alignkit.labelling.sources import decides, decisive, without_patience
from alignkit.labelling.work import check_buildable, check_places

Read: TypeAlias = Callable[..., Labelling]


@pytest.fixture(scope="module")
def read() -> Iterator[Read]:
    """Composes and checks as the command does; calls share a reading of the files."""
    with composing(None) as hydra:
        composer = Composer(hydra)

        def compose(*argv: str) -> Labelling:
            for override in map(composer.parse, argv):
                check_one(override)
            labelling = labelling_of(composer.compose([line for typed in argv for line in rewrite(typed, composer)]))
            check_paths(labelling.settings)
            check_places(labelling)
            check_buildable(labelling)
            return labelling

        yield compose


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"prompt": "p", "completions": [" a", " b"]}\n')
    Path("taken.jsonl").write_text("{}\n")


def test_short_keys_are_those_of_rollout_and_one_file_is_a_list_of_one(read: Read) -> None:
    labelling = read("judge=gold", "samples=6", "max_tokens=9", "candidates=a.jsonl")
    assert (labelling.settings.rollout.samples, labelling.settings.rollout.max_tokens) == (6, 9)
    assert (labelling.own.candidates, labelling.own.form, labelling.own.judge.options) == (["a.jsonl"], "pairs", {"scorer": "vader"})


def test_a_config_says_all_that_was_typed(read: Read) -> None:
    typed = ("judge=scorer", "judge.scorer=length", "candidates=[a.jsonl]", "form=unpaired", "min_gap=0.5", "threshold=1", "seed=3")
    labelling = read(*typed)
    written = yaml.safe_load(labelling_yaml(labelling))
    assert {key: written[key] for key in ("candidates", "form", "min_gap", "threshold", "seed")} == {
        "candidates": ["a.jsonl"],
        "form": "unpaired",
        "min_gap": 0.5,
        "threshold": 1.0,
        "seed": 3,
    }
    assert labelling_of(OmegaConf.create(written)) == labelling


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "judge is missing: who says which answers are better? alignkit.label needs one. Type judge=NAME, one of "),
        (["judge=gld"], "unknown judge 'gld'"),
        (["judge=head"], "judge.path is missing"),
        (["judge=gold", "samples=1"], "samples = 1: form=pairs tells answers to a prompt apart. Type samples=2, or more."),
        (["judge=gold", "samples=1", "form=unpaired"], "samples = 1: form=unpaired"),
        (["judge=gold", "form=pair"], "form = 'pair'"),
        (["judge=gold", "forn=pairs"], "forn: no such key. Did you mean 'form'"),
        (["judge=gold", "min_gap=-1"], "min_gap = -1"),
        (["judge=gold", "min_gap=1", "form=scores"], "min_gap = 1.0 has no effect with form = 'scores'. Type form=pairs."),
        (["judge=gold", "threshold=1"], "threshold = 1.0 has no effect with form = 'pairs'. Type form=unpaired."),
        (["judge=gold", "rounds=2"], "rounds = 2 has no effect with form = 'pairs'. Type form=revisions."),
        (["judge=gold", "form=revisions"], "judge = 'scorer': form=revisions needs a critic that writes."),
        (["judge=gold", "query=random"], "query = 'random' chooses some of the prompts; how many? Type count=N."),
        (["judge=gold", "query=margin", "count=3"], "query = 'margin' goes by scores, and nobody scores."),
        (["judge=gold", "scorer=vader"], "scorer = 'vader' has no effect with query = 'all'"),
        (["judge=gold", "count=0"], "count = 0"),
        (["judge=gold", "prompts=nowhere.txt"], "prompts = 'nowhere.txt'; there is no such file"),
        (["judge=gold", "prompts=dataset:trian"], "prompts = 'dataset:trian'"),
        (["judge=gold", "prompts=chat"], "prompts = 'chat'"),
        (["judge=gold", "candidates=b.jsonl"], "candidates names 'b.jsonl'; there is no such file"),
        (["judge=gold", "candidates=[a.jsonl,a.jsonl]"], "candidates names 'a.jsonl' twice"),
        (["judge=gold", "candidates=[a.jsonl,dataset]"], "dataset stands alone"),
        (["judge=gold", "candidates=[a.jsonl]", "prompts=a.jsonl"], "prompts = 'a.jsonl' with candidates"),
        (["judge=gold", "earlier=[b.jsonl]"], "earlier names 'b.jsonl'; there is no such file"),
        (["judge=gold", "column=''"], "column = ''"),
        (["judge=gold", "out=taken.jsonl"], "out = 'taken.jsonl'; is there already."),
        (["judge=gold", "out=nowhere/rows.jsonl"], "there is no folder nowhere"),
        (["judge=gold", "model.path=./nowhere"], "there is no such folder"),
        (["judge=gold", "validation.gold=vadr"], "validation.gold = 'vadr'; must be one of"),
        (["judge=gold", "dataset.path=nowhere.jsonl"], "dataset.path = 'nowhere.jsonl'; there is no such file"),
        (["judge=gold", "rollout.backend=vllm"], "rollout.backend = 'vllm': alignkit.label samples with the model itself."),
        (["judge=gold", "evaluation=gpt4all"], "evaluation=gpt4all: measures a model"),
    ],
)
def test_a_mistake_is_answered_with_what_to_type(read: Read, arguments: list[str], words: str) -> None:
    with pytest.raises(UserError) as error:
        read(*arguments)
    assert words in str(error.value)


def test_settings_that_change_no_row_are_not_decisive(read: Read) -> None:
    said = decisive(read("judge=gold", "min_gap=0.5"))
    assert {
        "seed",
        "model.path",
        "judge.scorer",
        "min_gap",
        "rollout.samples",
        "dataset.source",
        "batch.pairs",
        "precision.lightning",
    } <= set(said)
    assert not [path for path in said if path.startswith(("hardware", "logger", "callbacks", "loss", "optimizer")) or path == "out"]
    assert all(not decides(f"judge.judges.a.{key}") and not decides(f"judge.{key}") for key in PATIENCE)
    assert not decides("cache_dir")
    assert decides("judge.judges.a.model")


def test_provenance_has_no_budgets() -> None:
    node = {"name": "vote", "judges": {"a": {"name": "http", "model": "m", "budget_tokens": 5, "authorization": "KEY"}}, "timeout": 3.0}
    assert dict(without_patience(node)) == {"name": "vote", "judges": {"a": {"name": "http", "model": "m"}}}


def test_the_help_page_names_every_key_and_its_default() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(LabelSettings)}
    for name in OWN:
        assert re.search(rf"^  (\w+=\S+ )*{name}=", HELP, re.MULTILINE), name
    for name in ("prompts", "form", "query", "column"):
        assert f"  {name}={defaults[name]}" in HELP


def test_no_heavy_import_stands_between_the_user_and_a_mistake() -> None:
    script = "import sys, alignkit.label as c; sys.argv = ['x', 'judge=gld']; code = c.main(); print(code, 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["2", "False"], said.stderr
