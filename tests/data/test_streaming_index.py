"""The index of a streamed set: made once, by one process, whole or not at all, and in little memory."""

from __future__ import annotations

import ast
import gc
import json
import multiprocessing
import os
import signal
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pytest
from transformers import PreTrainedTokenizerFast

from alignkit.configuration import dataset_settings, packaged
from alignkit.data import hub, hub_stream, indexing
from alignkit.data.conversion import Converter
from alignkit.data.encoding import Encoder
from alignkit.data.example_index import ABOUT, DATA
from alignkit.data.forms import Form
from alignkit.data.indexing import Indexing, index_of
from alignkit.data.packing import Packing
from alignkit.data.preparation import PreparedData, prepare
from alignkit.data.sources.local import Local
from alignkit.data.steps import Steps
from alignkit.data.streams import RowStream, stream_file
from alignkit.errors import UserError

Characters = Callable[..., PreTrainedTokenizerFast]
LOCAL = Local(columns={}, ratings=[])
SETTINGS = replace(
    dataset_settings(packaged("dataset")["local"], []), max_length=32, validation_examples=6, streaming=True, options={}, path="a.jsonl"
)
Row = Mapping[str, Any]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def said() -> list[str]:
    """What the user is told."""
    return []


@pytest.fixture
def kept(said: list[str]) -> Indexing:
    return Indexing(folder=Path("kept").absolute(), say=said.append, workers=0)


def pair(number: int) -> Row:
    return {"prompt": f"p{number}", "chosen": f" yes {number}", "rejected": f" no {number}"}


def write(count: int, name: str = "a.jsonl") -> None:
    with Path(name).open("w") as lines:
        lines.writelines(json.dumps(pair(number)) + "\n" for number in range(count))


def converter(tokenizer: PreTrainedTokenizerFast) -> Converter:
    return Converter(source=LOCAL, form=Form.pairs(), encoder=Encoder(tokenizer, format="auto", max_length=32, overflow="trim"))


def load(tokenizer: PreTrainedTokenizerFast, kept: Indexing, **changes: Any) -> PreparedData:
    return prepare(replace(SETTINGS, **changes), LOCAL, tokenizer, form=Form.pairs(), indexing=kept)


def folders(kept: Indexing) -> list[str]:
    return sorted(path.name for path in kept.folder.iterdir() if path.is_dir())


def test_rows_are_tokenised_once_whatever_is_chosen_of_them(
    characters: Characters, kept: Indexing, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(40)
    first = load(characters(), kept)
    monkeypatch.setattr(Converter, "__call__", lambda self, first, rows: pytest.fail("rows were tokenised again"))
    again = load(characters(), kept)
    assert (list(again.train), again.counts) == (list(first.train), first.counts)
    assert len(load(characters(), kept, train_examples=5, validation_examples=2).train) == 5
    assert said[-1].startswith("data: dataset.path = a.jsonl is tokenised already, 40 rows in ")
    assert len(folders(kept)) == 1


@pytest.mark.parametrize(
    "change", [{"max_length": 16}, {"overflow": "drop"}, {"template": "x"}, {"rows": 41}, {"form": Form.single()}], ids=str
)
def test_whatever_changes_the_tokens_is_another_index(characters: Characters, kept: Indexing, change: dict[str, Any]) -> None:
    write(40)
    load(characters(), kept)
    write(change.pop("rows", 40))
    tokenizer = characters(template="{{ 'abc' }}alignkit</s>") if change.pop("template", None) else characters()
    prepare(
        replace(SETTINGS, **{k: v for k, v in change.items() if k != "form"}),
        LOCAL,
        tokenizer,
        form=change.get("form", Form.pairs()),
        indexing=kept,
    )
    assert len(folders(kept)) == 2


def test_the_first_one_makes_it_and_the_others_wait(
    characters: Characters, kept: Indexing, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(40)
    convert, waiting, calls = Converter.__call__, threading.Event(), []

    def slowly(self: Converter, first: int, rows: Any) -> Any:
        calls.append(first)
        assert waiting.wait(30)
        return convert(self, first, rows)

    def say(line: str) -> None:
        said.append(line)
        if "waiting for another process" in line:
            waiting.set()

    monkeypatch.setattr(Converter, "__call__", slowly)
    shared = replace(kept, say=say)
    stream, tokenizers = stream_file("a.jsonl", "dataset.path"), [characters(), characters()]
    with ThreadPoolExecutor(2) as threads:
        made = list(threads.map(lambda tokenizer: index_of(stream, converter(tokenizer), shared), tokenizers))
    assert calls == [0]
    assert made[0].folder == made[1].folder
    assert len(made[0]) == len(made[1]) == 40


def index_until_killed(stop_at: int, folder: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """In a process of its own: stops before row `stop_at` and never goes on."""
    os.chdir(folder)
    stream = stream_file("a.jsonl", "dataset.path")

    def read() -> Any:
        for number, row in enumerate(stream.read()):
            if number == stop_at:
                Path("reached").touch()
                time.sleep(60)
            yield row

    indexing.ROWS, indexing.PENDING_ROWS = 8, 16
    place = Indexing(folder=Path("kept").absolute(), say=print, workers=0)
    index_of(replace(stream, read=read), converter(tokenizer), place)


def test_what_a_killed_process_left_is_never_read(characters: Characters, kept: Indexing, tmp_path: Path) -> None:
    write(60)
    process = multiprocessing.get_context("spawn").Process(target=index_until_killed, args=(50, str(tmp_path), characters()))
    process.start()
    while not Path("reached").exists():
        assert process.is_alive()
        time.sleep(0.05)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    (draft,) = folders(kept)
    assert draft.endswith(".part")
    assert (kept.folder / draft / DATA).stat().st_size > 0
    assert load(characters(), kept).counts["rows"] == 60
    (whole,) = folders(kept)
    assert not whole.endswith(".part")


@pytest.mark.parametrize("harm", ["cut", "no account", "an empty account"])
def test_a_damaged_index_is_made_anew(characters: Characters, kept: Indexing, harm: str) -> None:
    write(30)
    first = load(characters(), kept)
    expected, place = list(first.train), kept.folder / folders(kept)[0]
    if harm == "cut":
        (place / DATA).write_bytes((place / DATA).read_bytes()[:-100])
    elif harm == "no account":
        (place / ABOUT).unlink()
    else:
        (place / ABOUT).write_text("{}")
    assert list(load(characters(), kept).train) == expected


def test_a_failure_while_indexing_leaves_nothing(characters: Characters, kept: Indexing) -> None:
    write(30)
    with Path("a.jsonl").open("a") as lines:
        lines.write(json.dumps({**pair(30), "chosen": 5}) + "\n")
    with pytest.raises(UserError, match=r"^dataset\.path = a\.jsonl, line 31: 'chosen' is 5 \(int\); must be text"):
        load(characters(), kept)
    assert folders(kept) == []


def test_other_processes_make_the_same_index(characters: Characters, kept: Indexing, monkeypatch: pytest.MonkeyPatch) -> None:
    write(50)
    monkeypatch.setattr(indexing, "ROWS", 8)
    monkeypatch.setattr(indexing, "ALONE", 2)
    alone = index_of(stream_file("a.jsonl", "dataset.path"), converter(characters()), kept)
    helped = index_of(
        stream_file("a.jsonl", "dataset.path"), converter(characters()), replace(kept, folder=kept.folder / "other", workers=1)
    )
    assert (helped.folder / DATA).read_bytes() == (alone.folder / DATA).read_bytes()
    assert helped.about == alone.about


def test_a_process_that_helps_and_is_killed_costs_no_row(
    characters: Characters, kept: Indexing, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(80)
    monkeypatch.setattr(indexing, "ROWS", 8)
    monkeypatch.setattr(indexing, "ALONE", 2)
    stream = stream_file("a.jsonl", "dataset.path")
    alone = index_of(stream, converter(characters()), kept)
    killed: list[int] = []

    def read() -> Iterator[Row]:
        for number, row in enumerate(stream.read()):
            for helper in multiprocessing.active_children() if number > 40 else ():
                helper.kill()
                helper.join()
                killed.append(number)
            yield row

    helped = index_of(replace(stream, read=read), converter(characters()), replace(kept, folder=kept.folder / "other", workers=1))
    assert killed
    assert (helped.folder / DATA).read_bytes() == (alone.folder / DATA).read_bytes()
    assert sum("a process that tokenises was killed" in line for line in said) == 1


@pytest.mark.parametrize("harm", ["flipped", "zeroed"])
def test_a_byte_that_changed_on_the_disk_makes_the_index_anew(characters: Characters, kept: Indexing, said: list[str], harm: str) -> None:
    write(30)
    expected, place = list(load(characters(), kept).train), kept.folder / folders(kept)[0] / DATA
    content = bytearray(place.read_bytes())
    middle = content.index(b" yes 1")  # of a text, where no reader of Arrow would notice
    content[middle : middle + 4] = b"\0\0\0\0" if harm == "zeroed" else b" yas"
    place.write_bytes(content)
    assert list(load(characters(), kept).train) == expected
    assert any("is damaged, and is made anew" in line for line in said)


def test_no_loader_has_processes_that_could_be_killed() -> None:
    package = Path(indexing.__file__).parents[1]
    calls = [
        (file.name, {keyword.arg for keyword in call.keywords})
        for file in package.rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("DataLoader")
    ]
    assert len(calls) >= 4
    assert [name for name, keywords in calls if "num_workers" in keywords or None in keywords] == []


def generated(count: int) -> RowStream:
    """Rows that are on no disk."""
    return RowStream(
        place="generated",
        columns=lambda: ("prompt", "chosen", "rejected"),
        digest=f"{count}",
        read=lambda: (pair(number) for number in range(count)),
    )


def test_memory_does_not_grow_with_the_set(characters: Characters, kept: Indexing, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 and 10,000 pairs: what indexing and training need beyond the columns of numbers, of which each example has a few bytes."""
    monkeypatch.setattr(indexing, "PENDING_ROWS", 1024)
    converted = converter(characters())
    index_of(generated(100), converted, kept)
    growth: dict[int, int] = {}
    arrow: dict[int, int] = {}
    for count in (1_000, 10_000):
        gc.collect()
        tracemalloc.start()
        before = pa.total_allocated_bytes()
        index = index_of(generated(count), converted, kept)
        growth[count] = tracemalloc.get_traced_memory()[1]
        arrow[count] = pa.total_allocated_bytes() - before
        tracemalloc.stop()
        assert len(index) == count
    # In memory 9,000 more examples take 9,000 * (3 texts, 2 records, 30 token ids) > 12 MB.
    assert growth[10_000] - growth[1_000] < 2e6
    assert arrow[10_000] - arrow[1_000] < 2e6


def test_training_reads_its_examples_and_no_others(characters: Characters, kept: Indexing) -> None:
    write(3_000)
    data = load(characters(), kept)
    steps = Steps(data.train, pairs=8, steps=50, seed=0, packing=Packing(layout="packed", tokens=400))
    steps[0]
    gc.collect()
    tracemalloc.start()
    for step in range(50):
        steps[step]
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 400_000


def test_the_order_of_training_is_what_it_was_as_a_list() -> None:
    # torch.randperm's values, as a list of Python numbers held them in earlier versions.
    class Counted(list[int]):
        pass

    for seed, epoch, expected in ((0, 0, [8, 0, 5, 9, 7, 4, 2, 10, 3, 1, 11, 6]), (7, 3, [6, 5, 7, 10, 4, 11, 0, 8, 3, 9, 1, 2])):
        steps = Steps(Counted(range(12)), pairs=4, steps=99, seed=seed, packing=Packing(layout="packed", tokens=40))  # type: ignore[arg-type]
        assert [index for step in range(3) for index in steps.global_batch(3 * epoch + step)] == expected
        assert all(type(index) is int for index in steps.global_batch(0))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`some/set` on a hub of our own: what it answers, and how its files are asked for."""
    state: dict[str, Any] = {"silence": None, "sha": "1" * 40, "calls": []}
    (tmp_path / "set").mkdir()
    write(30, str(tmp_path / "set" / "train.jsonl"))
    real = datasets.load_dataset

    def fake(path: str, **options: Any) -> Any:
        state["calls"].append(options)
        options.pop("revision", None)
        return real(str(tmp_path / "set"), **options) if path == "some/set" else real(path, **options)

    class Api:
        def __init__(self, endpoint: str) -> None: ...

        def dataset_info(self, name: str) -> Any:
            return type("Info", (), {"sha": state["sha"]})

    monkeypatch.setattr(datasets, "load_dataset", fake)
    for module in (hub, hub_stream):
        monkeypatch.setattr(module, "ask_hub", lambda *_: state["silence"])
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return state


def test_a_hub_data_set_is_streamed_and_found_again_without_the_hub(
    characters: Characters, kept: Indexing, said: list[str], repository: dict[str, Any]
) -> None:
    write(30)
    memory = load(characters(), kept, streaming=False)
    repository["calls"].clear()
    online = load(characters(), kept, path=None, hub="some/set")
    assert [item.prompt_ids for item in online.train] == [item.prompt_ids for item in memory.train]
    assert repository["calls"] == [{"streaming": True}]
    repository["silence"] = "no network"
    offline = load(characters(), kept, path=None, hub="some/set")
    assert list(offline.train) == list(online.train)
    assert len(repository["calls"]) == 1
    repository.update(silence=None, sha="2" * 40)
    load(characters(), kept, path=None, hub="some/set")
    assert len(folders(kept)) == 2, "a newer revision is another set"


def test_a_hub_data_set_that_nobody_has_is_told_as_without_streaming(
    characters: Characters, kept: Indexing, repository: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=r"^dataset\.split = 'trian'; dataset\.hub = some/set has train\. Did you mean 'train'\?"):
        load(characters(), kept, path=None, hub="some/set", split="trian")
