"""Data sets are data: no file of one is executed, and a run on files of this machine opens no connection."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignkit.data.hub import check_hub_name, load_splits, read_hub
from alignkit.data.hub_stream import stream_hub
from alignkit.data.tables import quiet_datasets, read_file
from alignkit.errors import UserError

SCRIPT = """
import pathlib
pathlib.Path({mark!r}).touch()
import datasets
class Evil(datasets.GeneratorBasedBuilder):
    pass
"""


@pytest.mark.parametrize("name", ["pandas", "json", "csv", "arrow", "parquet", "webdataset", "imagefolder"])
def test_readers_of_the_library_are_no_data_sets(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: Path, evil_pickle: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.pkl").write_bytes(evil_pickle)
    for read in (lambda: read_hub(name, None, "train"), lambda: stream_hub(name, None, "train")):
        with pytest.raises(UserError, match="must be the name of a data set on the hub"):
            read()


@pytest.mark.parametrize("name", ["../x", "/x", "~/x", "a/b/c", "https://evil.example/x", "x\0y", "", "a b", "s3://x", "owner/..", "."])
def test_folders_and_addresses_are_no_data_sets_of_the_hub(name: str) -> None:
    with pytest.raises(UserError, match="must be the name of a data set on the hub"):
        check_hub_name(name)


def test_scripts_of_a_data_set_are_not_run(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "owner" / "evil"
    folder.mkdir(parents=True)
    (folder / "evil.py").write_text(SCRIPT.format(mark=str(mark)))
    (folder / "train.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    monkeypatch.chdir(tmp_path)
    with quiet_datasets() as datasets, suppress(Exception):  # refused, or read without it
        load_splits(datasets, "owner/evil", None)


def test_a_column_of_a_foreign_type_is_not_unpickled(tmp_path: Path, mark: Path, evil_pickle: bytes) -> None:
    for number, name in enumerate((b"arrow.py_extension_type", b"datasets.features.features.Array2DExtensionType", b"evil")):
        field = pa.field("prompt", pa.string(), metadata={b"ARROW:extension:name": name, b"ARROW:extension:metadata": evil_pickle})
        features = {"prompt": {"_type": "os.system", "dtype": "string"}, "chosen": {"_type": "Value", "dtype": "string"}}
        told = {b"huggingface": json.dumps({"info": {"features": features}}).encode(), b"pandas": evil_pickle}
        schema = pa.schema([field, pa.field("chosen", pa.string())], metadata=told)
        table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], schema=schema)
        file = tmp_path / f"{number}.parquet"
        pq.write_table(table, file)
        try:
            rows = list(read_file(str(file), "dataset.path"))
        except UserError:
            continue
        assert [row["chosen"] for row in rows] == ["b"]


@pytest.mark.parametrize(
    "name", ["x.pkl", "x.pickle", "x.npy", "x.pt", "x.h5", "x.py", "x.yaml", "x.tar", "x.zip", "x.sqlite", "x.arrow", "x.jsonl"]
)
def test_a_file_of_another_kind_is_refused(name: str, tmp_path: Path, mark: Path, evil_pickle: bytes) -> None:
    (tmp_path / name).write_bytes(evil_pickle)
    with pytest.raises(UserError):
        list(read_file(str(tmp_path / name), "dataset.path"))


def test_formulas_and_tags_in_cells_stay_texts(tmp_path: Path, mark: Path) -> None:
    (tmp_path / "x.csv").write_text(f"prompt,chosen\n\"=cmd|'touch {mark}'!A0\",!!python/object/apply:os.system [touch {mark}]\n")
    (row,) = read_file(str(tmp_path / "x.csv"), "dataset.path")
    assert row["prompt"] == f"=cmd|'touch {mark}'!A0"
    assert str(row["chosen"]).startswith("!!python/object")


def test_a_zip_that_claims_to_be_gzip_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(b"PK\x03\x04" + struct.pack("<I", 0) * 20)
    with pytest.raises(UserError):
        list(read_file(str(tmp_path / "x.jsonl.gz"), "dataset.path"))


def test_a_run_on_local_files_opens_no_connection(tmp_path: Path, model_folder: Path, commands: Any) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Question {number}", "chosen": " good words", "rejected": f" bad {number}"} for number in range(40)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = tmp_path / "log.txt"
    argv = (
        *("loss=dpo", f"model.path={model_folder}", "dataset=local", f"dataset.path={pairs}", "steps=2", "schedule.warmup_steps=0"),
        *("dataset.validation_examples=4", "batch.pairs=4", "validation.every=2", "validation.samples=1", "callbacks.progress_bar=false"),
        *("logger=jsonl", f"run_dir={tmp_path / 'run'}"),
    )
    # The hub is not switched off: nothing is to be asked of it.
    online = {"huggingface_hub.constants:HF_HUB_OFFLINE": False, "datasets.config:HF_HUB_OFFLINE": False}
    assert commands(*argv, log=log, constants=online, no_sockets=True) == 0, log.read_text()
    assert "a connection was tried" not in log.read_text()
