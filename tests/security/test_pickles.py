"""A pickle in any file that alignkit reads is not unpickled, or only by a reader that knows a handful of harmless names."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pickle
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

import alignkit
from alignkit.caches.store import Store
from alignkit.callbacks.shard_reader import ForeignMetadataError, read_metadata
from alignkit.callbacks.sharded_checkpoints import OTHERS, apart, read_whole
from alignkit.checkpoint_weights import read_weights, steps_of
from alignkit.data.example_index import ABOUT, DATA
from alignkit.data.indexing import finished
from alignkit.errors import UserError
from alignkit.export import export
from alignkit.manifests import Manifest
from alignkit.models.export import load_aligned
from alignkit.models.loading import load_lm, load_tokenizer
from alignkit.run_dir import RunDir
from alignkit.scorers.saved_heads import saved_head

SOURCES = sorted(Path(alignkit.__file__).parent.rglob("*.py"))
PICKLES = ("pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal")
ALLOWED: dict[tuple[str, str], str] = {
    ("alignkit/callbacks/shard_reader.py", "import pickle"): "the restricted reader itself: it allows names by an exact list",
    ("alignkit/checkpoint_weights.py", "import pickle"): "for the name of the error that torch raises",
}
"""File and what is done there, with the reason why it is no danger."""


def dangers(tree: ast.AST) -> Iterator[str]:
    """What runs code that is not the program's own, or may."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {alias.name}" for alias in node.names if alias.name.partition(".")[0] in PICKLES)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PICKLES:
            yield f"import {node.module}"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name == "torch.load" and keywords.get("weights_only") != "True":
            yield "torch.load without weights_only=True"
        if name.endswith(".load_checkpoint") and "super()" in name and keywords.get("weights_only") != "True":
            yield "load_checkpoint without weights_only=True"
        if name in ("np.load", "numpy.load", "pd.read_pickle", "pandas.read_pickle") or "allow_pickle" in keywords:
            yield name
        if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path", "runpy.run_module"):
            yield name
        if name.startswith(("os.exec", "os.spawn")) or keywords.get("shell") == "True":
            yield f"{name} in a shell"
        if name in ("yaml.full_load", "yaml.unsafe_load", "yaml.load_all") or (
            name == "yaml.load" and "SafeLoader" not in ast.unparse(node)
        ):
            yield name
        if keywords.get("trust_remote_code", "False") not in ("False", "None"):
            yield "trust_remote_code"
        if name.endswith(".from_pretrained") and name.startswith("Auto") and keywords.get("trust_remote_code") != "False":
            yield f"{name} that may ask whether to run code"
        if name in ("load", "save") and "checkpoint_id" in keywords and name == "load":
            yield "torch's own reader of shards, which unpickles"


def test_no_line_of_alignkit_unpickles_or_runs_what_it_reads() -> None:
    found: dict[tuple[str, str], Path] = {}
    for file in SOURCES:
        place = str(file.relative_to(Path(alignkit.__file__).parents[1]))
        found |= {(place, danger): file for danger in dangers(ast.parse(file.read_text(encoding="utf-8")))}
    assert found.keys() <= ALLOWED.keys(), sorted(found.keys() - ALLOWED.keys())


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(x)",
        "torch.load(x, weights_only=flag)",
        "import pickle",
        "from joblib import load",
        "np.load(x)",
        "yaml.load(x, Loader=yaml.FullLoader)",
        "yaml.unsafe_load(x)",
        "eval(x)",
        "subprocess.run(x, shell=True)",
        "f(trust_remote_code=True)",
        "AutoModel.from_pretrained(x)",
        "load(x, checkpoint_id=y)",
        "os.system(x)",
    ],
)
def test_the_scan_sees(line: str) -> None:
    assert list(dangers(ast.parse(line)))


def shards(folder: Path) -> Path:
    """A checkpoint that several processes have written."""
    tensors, others = apart({"state_dict": {"weight": torch.arange(6.0).view(2, 3)}, "alignkit": {"steps_done": 3}})
    save(tensors, storage_writer=FileSystemWriter(folder), no_dist=True)
    torch.save(others, folder / OTHERS)
    return folder


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_shards_are_read_without_their_pickle(tmp_path: Path) -> None:
    folder = shards(tmp_path / "last.ckpt")
    assert torch.equal(read_whole(folder)["state_dict"]["weight"], torch.arange(6.0).view(2, 3))
    metadata = read_metadata(folder)
    assert metadata.state_dict_metadata["state_dict.weight"].size == torch.Size([2, 3])


class Calls:
    """Unpickled, it calls something that a list of prefixes would let through."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def by_name(module: str, name: str, argument: str) -> bytes:
    """A pickle of protocol 4 that calls a function by a dotted name."""

    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value.encode())]) + value.encode()

    return b"\x80\x04" + text(module) + text(name) + b"\x93" + text(argument) + b"\x85R."


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("kind", ["plain", "inside", "by name", "by dotted name", "torch.load", "persistent"])
def test_a_table_of_contents_that_is_a_program_is_not_run(kind: str, tmp_path: Path, mark: Path, evil_pickle: bytes) -> None:
    folder = shards(tmp_path / "last.ckpt")
    table = folder / ".metadata"
    whole = pickle.loads(table.read_bytes())
    if kind == "inside":
        whole.planner_data = Calls(os.system, f"touch {mark}")
    content = {
        "plain": evil_pickle,
        "inside": pickle.dumps(whole),
        "by name": by_name("posix", "system", f"touch {mark}"),
        "by dotted name": by_name("torch.serialization", "os.system", f"touch {mark}"),
        "torch.load": pickle.dumps(Calls(torch.load, str(tmp_path / "x"))),
        "persistent": b"\x80\x04\x8c\x01xQ.",
    }[kind]
    table.write_bytes(content)
    with pytest.raises(ForeignMetadataError):
        read_metadata(folder)
    for read in (read_whole, read_weights):
        with pytest.raises((ForeignMetadataError, UserError)):
            read(folder)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_table_of_contents_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    folder = shards(tmp_path / "last.ckpt")
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    for info in metadata.storage_data.values():
        info.relative_path = "../../secret"
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ForeignMetadataError, match="not in its folder"):
        read_metadata(folder)


@pytest.mark.parametrize("slot", ["file", "meta.pt", "raw pickle"])
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_checkpoint_that_is_a_program_is_not_run(
    slot: str, tmp_path: Path, mark: Path, evil_checkpoint: Path, evil_pickle: bytes
) -> None:
    path = tmp_path / "last.ckpt"
    if slot == "meta.pt":
        shutil.copy(evil_checkpoint, shards(path) / OTHERS)
    else:
        path.write_bytes(evil_checkpoint.read_bytes() if slot == "file" else evil_pickle)
    for read in (steps_of, read_weights):
        with pytest.raises(UserError, match="the checkpoint cannot be read"):
            read(path)


def test_a_run_whose_checkpoints_are_programs_is_neither_resumed_nor_exported(
    stopped: Path, commands: Any, mark: Path, evil_checkpoint: Path, tmp_path: Path
) -> None:
    run, log = RunDir(stopped), tmp_path / "log.txt"
    steps = [path for path in run.checkpoints.glob("*.ckpt") if not path.is_symlink()]
    assert steps
    for path in steps:
        manifest = Manifest.read(path)
        shutil.copy(evil_checkpoint, path)
        content = path.read_bytes()
        forged = {"": (len(content), hashlib.sha256(content).hexdigest())}  # whoever makes a checkpoint makes its manifest
        Manifest(step=manifest.step, files=forged, config=manifest.config, versions=manifest.versions).write(path)
    shutil.copy(evil_checkpoint, run.checkpoints / "best.ckpt")
    assert commands(f"resume={stopped}", log=log) == 2
    assert "is no checkpoint that a run wrote" in log.read_text()
    with pytest.raises(UserError, match="cannot be read"):
        export([str(stopped), f"out={tmp_path / 'out'}"])
    with pytest.raises(UserError, match="cannot be read"):
        export([str(stopped), f"out={tmp_path / 'out'}", "checkpoint=best"])


def test_weights_that_are_a_pickle_are_refused(model_folder: Path, mark: Path, evil_checkpoint: Path) -> None:
    (model_folder / "model.safetensors").unlink()
    shutil.copy(evil_checkpoint, model_folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"its weights are a pickle, for it can run code\. .*save_pretrained"):
        load_lm("model.path", str(model_folder), torch.float32)


def test_files_of_other_tools_beside_a_model_are_not_opened(stopped: Path, mark: Path, evil_pickle: bytes) -> None:
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth", "pytorch_model.bin", "tokenizer.pkl", "vocab.pkl"):
        (stopped / "model" / name).write_bytes(evil_pickle)
        (stopped / name).write_bytes(evil_pickle)
    assert load_aligned(str(stopped)).tokenizer is not None


@pytest.mark.parametrize("name", ["heads.safetensors", "model/model.safetensors"])
def test_what_is_called_safetensors_is_read_as_such(name: str, stopped: Path, mark: Path, evil_pickle: bytes) -> None:
    (stopped / name).write_bytes(evil_pickle)
    with pytest.raises(UserError, match=r"cannot be loaded|do not fit"):
        load_aligned(str(stopped))
    if name.startswith("heads"):
        with pytest.raises(UserError, match="cannot be loaded"):
            saved_head(stopped, None).load()


def test_a_tokenizer_that_is_a_pickle_is_refused(model_folder: Path, mark: Path, evil_pickle: bytes) -> None:
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json"):
        (model_folder / name).write_bytes(evil_pickle)
    with pytest.raises(UserError, match="no tokenizer"):
        load_tokenizer("model.path", str(model_folder))


def test_a_cache_that_is_a_pickle_is_set_aside(tmp_path: Path, mark: Path, evil_pickle: bytes) -> None:
    (tmp_path / f"{'0' * 32}.safetensors").write_bytes(evil_pickle)
    said: list[str] = []
    assert Store(tmp_path, {}, said.append).read({b"x" * 32: 1}) == {}
    assert "damaged" in said[0]


def test_an_index_that_is_a_pickle_is_none(tmp_path: Path, mark: Path, evil_pickle: bytes) -> None:
    (tmp_path / DATA).write_bytes(evil_pickle)
    about = {"rows": 1, "examples": 1, "candidates": 1, "is_text": True, "counts": {}, "attributes": [], "bytes": len(evil_pickle)}
    (tmp_path / ABOUT).write_text(json.dumps(about))
    assert finished(tmp_path) is None
    (tmp_path / ABOUT).write_bytes(evil_pickle)
    assert finished(tmp_path) is None


def test_a_studys_file_holds_no_pickles(tmp_path: Path) -> None:
    import optuna

    optuna.create_study(study_name="alignkit", storage=f"sqlite:///{tmp_path / 'study.db'}").ask(
        {"x": optuna.distributions.FloatDistribution(0, 1)}
    )
    with sqlite3.connect(tmp_path / "study.db") as data:
        tables = [name for (name,) in data.execute("select name from sqlite_master where type = 'table'")]
        kinds = {kind.upper() for table in tables for _, _, kind, *_ in data.execute(f"pragma table_info({table})")}
    assert tables
    assert not {kind for kind in kinds if "BLOB" in kind or "PICKLE" in kind}
