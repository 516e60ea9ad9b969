"""What the command line of `alignkit.generate` means, and mistakes that cost one message."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
import yaml

from alignkit.command_line import check_one
from alignkit.composition import Composer, composing
from alignkit.errors import UserError
from alignkit.generate import HELP, parse
from alignkit.generate_settings import GenerateSettings
from alignkit.generation.config import OWN, SHORT, Generation, check_buildable, check_places, generation_of, generation_yaml

Read: TypeAlias = Callable[..., Generation]


@pytest.fixture(scope="module")
def read() -> Iterator[Read]:
    """Composes and checks as the command does; calls share a reading of the files."""
    with composing(None) as hydra:
        composer = Composer(hydra)

        def compose(*argv: str) -> Generation:
            for override in map(composer.parse, argv):
                check_one(override)
            generation = generation_of(composer.compose([composer.rewrite(line) for line in argv]))
            check_places(generation)
            check_buildable(generation)
            return generation

        yield compose


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory with the head `dph`, as far as it is looked at without loading it; the working directory is beside it."""
    folder = tmp_path / "it's mine"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "heads.json").write_text(json.dumps({"dph": {}}))
    monkeypatch.chdir(tmp_path)
    return folder


def test_short_keys_are_those_of_rollout(read: Read) -> None:
    settings = read("samples=16", "max_tokens=9", "temperature=0.5", "top_k=5", "top_p=0.9").settings.rollout
    assert (settings.samples, settings.max_tokens, settings.temperature, settings.top_k, settings.top_p) == (16, 9, 0.5, 5, 0.9)
    assert read("rollout.samples=3").settings.rollout.samples == 3


def test_a_run_directory_stands_for_its_model(read: Read, run: Path) -> None:
    for path in (run, run / "model"):
        quoted = str(path).replace("'", "\\'")
        generation = read(f"model.path='{quoted}'", "rank_by=dph")
        assert generation.settings.model.path == str(run / "model")
        assert generation.settings.scorer.name == "head"
        assert generation.settings.scorer.options == {"path": str(run), "head": "dph", "normalized": True}


def test_a_scorer_is_named_by_rank_by_and_its_keys_are_the_scorers(read: Read) -> None:
    settings = read("rank_by=regex", "scorer.pattern=good", "scorer.found=2").settings
    assert settings.scorer.name == "regex"
    assert settings.scorer.options == {"pattern": "good", "found": 2, "missing": 0.0}
    assert settings == read("scorer=regex", "scorer.pattern=good", "scorer.found=2", f"run_dir={settings.run_dir}").settings


def test_the_directory_is_named_after_the_model_and_may_be_chosen() -> None:
    assert parse([]).generation.run_dir.endswith("-generate-tiny")
    assert not parse([]).named
    request = parse(["run_dir=mine"])
    assert (request.generation.run_dir, request.named) == ("mine", True)


def test_prompts_and_out_are_typed_as_they_are_meant(read: Read) -> None:
    for prompts in ("-", "chat", "dataset", "dataset:train"):
        assert read(f"prompts={prompts}", "out=-").own == GenerateSettings(prompts=prompts, out="-")


def test_what_is_saved_is_what_was_asked_for(read: Read) -> None:
    saved = yaml.safe_load(generation_yaml(read("rank_by=vader", "samples=8", "keep=rso", "beta=0.1", "prompts=-")))
    assert saved["scorer"] == {"name": "vader"}
    assert saved["rollout"]["samples"] == 8
    assert {key: saved[key] for key in OWN} == {"prompts": "-", "keep": "rso", "quantile": None, "beta": 0.1, "count": None, "out": None}


@pytest.mark.parametrize(("samples", "count"), [(64, 8), (16, 2), (4, 2)])
def test_statistical_rejection_accepts_an_eighth_as_its_authors_do(samples: int, count: int) -> None:
    assert GenerateSettings(keep="rso").accepted(samples) == count
    assert GenerateSettings(keep="rso", count=3).accepted(samples) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["promts=x"], "promts: no such key. Did you mean 'prompts'?"),
        (["epsilon=0.1"], "epsilon: no such key. Did you mean loss.epsilon?"),
        (["prompts=nowhere.txt"], "prompts = 'nowhere.txt'; there is no such file"),
        (["prompts=datset"], "Did you mean 'dataset'?"),
        (["prompts=dataset:tran"], "prompts = 'dataset:tran'; must be one of dataset, dataset:train. Did you mean 'dataset:train'?"),
        (["keep=bst"], "keep = 'bst'; must be one of all, best, quantile, rso, pairs. Did you mean 'best'?"),
        (["keep=best"], "keep = 'best' goes by scores, and nobody scores. Type rank_by=vader"),
        (["keep=best", "prompts=chat", "rank_by=vader"], "keep = 'best' with prompts = 'chat'"),
        (["keep=pairs", "rank_by=vader", "samples=1"], "samples = 1: keep=pairs needs 2 samples of a prompt. Type samples=8."),
        (["keep=rso", "rank_by=vader", "count=5"], "samples = 4: keep=rso needs 5 samples"),
        (["keep=quantile", "rank_by=vader", "quantile=1"], "quantile = 1.0; must be a number in [0, 1)"),
        (["keep=rso", "rank_by=vader", "beta=0"], "beta = 0.0; must be a number in (0, inf)"),
        (["keep=rso", "rank_by=vader", "count=1"], "count = 1; must be a number in [2, inf)"),
        (["beta=0.5"], "beta = 0.5 has no effect with keep = 'all'. Type keep=rso."),
        (["rank_by=dhp", "model.path='it\\'s mine'"], "it's mine has no head of that name; must be one of dph, ensemble, head, "),
        (["rank_by=dph"], "rank_by = 'dph'; must be one of ensemble, head, http, "),
        (["rank_by=vadr"], "Did you mean 'vader'?"),
        (["rank_by=vader", "scorer=regex"], "rank_by = 'vader' with scorer = 'regex'"),
        (["rank_by=vader", "scorer.pattern=x"], "scorer.pattern: vader has no option 'pattern'; regex has it."),
        (["rank_by=regex", "scorer.pattern='('"], "scorer.pattern = '('"),
        (["samples=0"], "rollout.samples = 0"),
        (["samples=many"], "rollout.samples = 'many'; must be a whole number."),
        (["samples=1,2"], "samples = 1,2; several values"),
        (["reference.path=builtin:tiny", "top_k=5"], "reference.path measures the KL of the model"),
        (["rollout.backend=vllm"], "rollout.backend = 'vllm': alignkit.generate samples with the model itself."),
        (["validation.gold=vadr"], "validation.gold = 'vadr'; must be one of"),
        (["model.path=./nowhere"], "there is no such folder"),
        (["out=nowhere/rows.jsonl"], "out = 'nowhere/rows.jsonl'; there is no folder nowhere"),
        (["out=taken.jsonl"], "out = 'taken.jsonl'; is there already."),
    ],
)
def test_a_mistake_is_answered_with_what_to_type(read: Read, run: Path, arguments: list[str], words: str) -> None:
    Path("taken.jsonl").write_text("{}\n")
    with pytest.raises(UserError) as error:
        read(*arguments)
    assert words in str(error.value)


def test_help_names_every_key_of_its_own() -> None:
    words = HELP.replace("=", " ").split()
    assert {*OWN, *SHORT, "rank_by"} <= set(words)
    own = GenerateSettings()
    assert f"quantile={own.kept_quantile}" in HELP
    assert f"beta={own.acceptance_beta}" in HELP


def test_nothing_heavy_is_imported_before_the_config_is_known_to_be_good() -> None:
    heavy = "{'torch', 'transformers', 'lightning', 'datasets'} & sys.modules.keys()"
    code = f"import sys, alignkit.generate as g; g.parse(['rank_by=vader', 'samples=8']); print(sorted({heavy}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
