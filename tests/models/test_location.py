"""Where a model is looked for, and what a user sees when it is not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from alignkit.errors import UserError
from alignkit.models import location
from alignkit.models.location import locate


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Answers of the hub are remembered for the length of a process."""
    location._require_hub.cache_clear()
    yield
    location._require_hub.cache_clear()


@pytest.fixture
def no_network(monkeypatch) -> list[str]:
    """A machine without a network and with an empty cache. Holds what the hub was asked for."""
    asked: list[str] = []

    def refuse(self, name, **options):
        asked.append(name)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", refuse)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args: None)
    return asked


def refusal(path: str, where: str = "model.path") -> str:
    with pytest.raises(UserError) as caught:
        locate(where, path)
    # the cause is told in the message; a traceback of the library would say it again
    assert caught.value.__cause__ is None
    assert f"{where} = {path!r}" in str(caught.value)
    return str(caught.value)


def test_a_folder_is_taken_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    assert locate("model.path", str(tmp_path)) == str(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert locate("model.path", f"~/{tmp_path.name}") == str(tmp_path)


def test_the_models_in_the_package_are_found():
    assert (Path(locate("model.path", "builtin:tiny")) / "model.safetensors").is_file()
    assert "Type model=tiny" in refusal("builtin:huge")


@pytest.mark.parametrize("path", ["/nowhere/at/all", "./nowhere", "~/nowhere-at-all", "deep/down/nowhere"])
def test_a_missing_folder_is_named_with_the_place_that_was_looked_at(path):
    assert str(Path(path).expanduser().absolute()) in refusal(path)


def test_a_folder_without_a_config_is_refused(tmp_path):
    assert "config.json" in refusal(str(tmp_path), "reference.path")


def test_without_a_network_a_model_that_is_not_cached_is_refused_with_what_to_type(no_network):
    message = refusal("gpt2")
    assert "the hub cannot be reached (no route to host) and the model is not in the local cache." in message
    assert "type model=tiny, or model.path=FOLDER" in message
    assert no_network == ["gpt2"]


def test_with_the_hub_switched_off_nobody_is_asked(no_network, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal("gpt2")
    assert no_network == []


def test_without_a_network_a_cached_model_is_used_and_the_hub_is_not_asked_again(no_network, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args: "/cache/config.json")
    assert locate("model.path", "gpt2") == "gpt2"
    assert huggingface_hub.constants.HF_HUB_OFFLINE is True
    assert locate("model.path", "gpt2") == "gpt2"
    assert no_network == ["gpt2"]


@pytest.mark.parametrize(("kind", "expected"), [(GatedRepoError, "hf auth login"), (RepositoryNotFoundError, "the hub has no such model")])
def test_the_hubs_own_refusals_are_told_apart(kind, expected, no_network, monkeypatch):
    def refuse(*args, **kwargs):
        raise kind.__new__(kind)

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", refuse)
    assert expected in refusal("someone/something")


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("path", ["my model", "-gpt2", "org/a..b"])
def test_what_can_be_no_hub_id_is_refused(path, offline, monkeypatch):
    # the real client refuses the name before it asks anybody
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    refusal(path)


@pytest.mark.parametrize("case", ["no folder", "no config"])
def test_a_refusal_says_what_to_type(case, tmp_path):
    message = refusal("/nowhere" if case == "no folder" else str(tmp_path))
    assert "model.path=" in message or "model=" in message
