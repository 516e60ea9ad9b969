"""The tables of bad inputs beside this file, as records: what lies in the folder, what is typed, and what must come of it.

A table is a YAML file:

    defaults: {command: alignkit.train, argv: [model=tiny, "dataset.path={file}"]}     # argv stands before that of each case
    cases:
    - id: line-cut                             # unique among all tables
      what: the last line is cut               # for the reader
      files: {"pairs.jsonl": {good: 8, bad: ['{"prompt": "a"']}}
      argv: [steps=3]                          # `{file}` is the first of `files`, here and in the defaults
      also: [gz, streaming, generate]          # the same once more: gzipped, with dataset.streaming=true, as prompts of alignkit.generate
      refused: 'pairs\\.jsonl.*, line 4 is not JSON'        # regular expression of the message; exit code 2, or `exit: 3`
    - id: twins
      what: a pair of equal completions is left out and counted
      files: {"pairs.jsonl": {good: 9, bad: ['{"prompt": "a", "chosen": "b", "rejected": "b"}']}}
      counts: {identical: 1}                   # not refused: training would start, with these counts among those that results.json gets
      says: 'identical 1'                      # regular expression of standard output

A file is a text, `{good: N, bad: [LINES]}` (N sound rows, the others behind the third one), `{escaped: "\\xff\\x00"}` (bytes), or
`{make: NAME, ...}`: a function of `makers.py`, given the path and the other keys. Sound rows are pairs, or with `of: chat` another kind
of `GOOD`; they are JSON lines, and CSV in a file of that name. A name that ends in .gz is gzipped.

More keys of a case: `command`, a module with a `main`; `bare: true`, without the argv of the defaults; `until`, the function at which a
case counts as accepted (default: `UNTIL`); `stdin`; `environment`; `lines`, how many the message has when it
is not one; `real: true`, once more in a process of its own; `not_as_root: true`, where root may do what others may not; `shared: true`,
the config is composed once for all cases that type the same, for tables whose cases differ in their files; `growing: true`, somebody
writes to a file whenever it is opened.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import yaml

TABLES = Path(__file__).parent
UNTIL: Mapping[str, str] = {
    "alignkit.train": "alignkit.assembly:build_models",
    "alignkit.generate": "alignkit.generation.answering:load_backbone",
    "alignkit.label": "alignkit.labelling.run:open_bench",
}
"""Where a command would load its weights; others are run to their end."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One bad input."""

    id: str
    what: str
    command: str = "alignkit.train"
    argv: tuple[str, ...] = ()
    files: Mapping[str, object] = field(default_factory=dict)
    refused: str | None = None
    exit: int = 2
    counts: Mapping[str, int] | None = None
    says: str | None = None
    until: str | None = None
    stdin: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    lines: int = 1
    real: bool = False
    not_as_root: bool = False
    shared: bool = False
    growing: bool = False
    twin: bool = False

    def __post_init__(self) -> None:
        assert (self.refused is None) != (self.counts is None), f"{self.id}: either refused or counts"

    def write(self, folder: Path) -> None:
        """Its files."""
        for name, content in self.files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Mapping) and "make" in content:
                options = {key: value for key, value in content.items() if key != "make"}
                maker(content["make"])(file, **options)
            else:
                plain = content_bytes(name, content)
                file.write_bytes(gzip.compress(plain, mtime=0) if name.endswith(".gz") else plain)


def content_bytes(name: str, content: object) -> bytes:
    """What a table says that a file holds."""
    if isinstance(content, str):
        return content.encode()
    assert isinstance(content, Mapping), content
    if "escaped" in content:
        return str(content["escaped"]).encode("latin-1").decode("unicode_escape").encode("latin-1")
    rows = good_rows(content["good"], content.get("of", "pair"))
    bad = content.get("bad", ())
    if ".csv" not in name:
        good = [json.dumps(row) for row in rows]
        return "".join(f"{line}\n" for line in [*good[:3], *bad, *good[3:]]).encode()
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    good = written.getvalue().splitlines()
    return "".join(f"{line}\n" for line in [*good[:4], *bad, *good[4:]]).encode()


def turns(number: int, answer: str) -> list[dict[str, str]]:
    """A dialogue of two turns."""
    return [{"role": "user", "content": f"Is {number} a number?"}, {"role": "assistant", "content": answer}]


GOOD: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "pair": lambda n: {"prompt": f"Is {n} a number?", "chosen": f" Yes, {n} is.", "rejected": f" No, {n} is not."},
    "text": lambda n: {"prompt": f"Is {n} a number?", "completion": f" Yes, {n} is."},
    "chat": lambda n: {"chosen": turns(n, f"Yes, {n} is."), "rejected": turns(n, f"No, {n} is not.")},
    "messages": lambda n: {"messages": turns(n, f"Yes, {n} is.")},
    "label": lambda n: {"prompt": f"Is {n} a number?", "completion": f" Yes, {n} is.", "label": n % 2 == 0},
    "ranking": lambda n: {"prompt": f"Is {n} a number?", "completions": [f" Yes, {n}.", " No.", f" {n}?"], "scores": [3.0, 1.0, 2.0]},
    "margin": lambda n: {"prompt": f"Is {n} a number?", "chosen": f" Yes, {n} is.", "rejected": f" No, {n} is not.", "margin": 1.5},
    "rating": lambda n: {"prompt": f"Is {n} a number?", "completion": f" Yes, {n} is.", "helpfulness": 4.0},
    "prompt": lambda n: {"prompt": f"Is {n} a number?"},
    "hh_rlhf": lambda n: {
        "chosen": f"\n\nHuman: Is {n} a number?\n\nAssistant: Yes, {n} is.",
        "rejected": f"\n\nHuman: Is {n} a number?\n\nAssistant: No.",
    },
    "shp": lambda n: {"history": f"Is {n} a number?", "human_ref_A": "Yes.", "human_ref_B": "No.", "labels": 1, "score_A": 9, "score_B": 1},
    "sharegpt": lambda n: {"conversations": [{"from": "human", "value": f"Is {n}?"}, {"from": "gpt", "value": f"Yes, {n}."}]},
    "ultrafeedback": lambda n: {
        "instruction": f"Is {n} a number?",
        "completions": [
            {"response": answer, "overall_score": score, "annotations": {"helpfulness": {"Rating": "3"}}}
            for answer, score in ((f"Yes, {n} is.", 5.0), ("No.", 1.0))
        ],
    },
    "webgpt": lambda n: {"question": {"full_text": f"Is {n}?"}, "answer_0": "Yes.", "answer_1": "No.", "score_0": 0.5, "score_1": -0.5},
    "tldr": lambda n: {
        "info": {"post": f"Is {n} a number?", "title": "t", "subreddit": "s"},
        "summaries": [{"text": f"Yes, {n}."}, {"text": "No."}],
        "choice": 0,
    },
    "stack_exchange": lambda n: {"question": f"<p>Is {n}?</p>", "response_j": "Yes.", "response_k": "No."},
}
"""Sound rows of every kind, each unlike the others."""


def good_rows(count: int, kind: str) -> list[dict[str, Any]]:
    """The first ones of a kind."""
    return [GOOD[kind](number) for number in range(count)]


def maker(name: str) -> Callable[..., None]:
    """A function of `makers.py`."""
    spec = importlib.util.spec_from_file_location("makers", TABLES / "makers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Callable[..., None] = getattr(module, name)
    return made


def all_cases() -> list[Case]:
    """Those of every table, twins included."""
    cases = [case for table in sorted(TABLES.glob("*.yaml")) for case in read_table(table)]
    ids = [case.id for case in cases]
    assert len(set(ids)) == len(ids), sorted({name for name in ids if ids.count(name) > 1})
    return cases


def read_table(table: Path) -> Iterator[Case]:
    """The cases of one file."""
    read = yaml.safe_load(table.read_text(encoding="utf-8"))
    defaults: dict[str, Any] = {"argv": [], **read.get("defaults", {})}
    for written in read["cases"]:
        given = {**defaults, **written}
        also, bare = given.pop("also", ()), given.pop("bare", False)
        typed = list(written.get("argv", ()))
        keys = {argument.partition("=")[0] for argument in typed}
        typed = [*(argument for argument in defaults["argv"] if not bare and argument.partition("=")[0] not in keys), *typed]
        case = Case(**{**given, "argv": tuple(typed)})
        yield with_file(case)
        for way in also:
            yield with_file(TWINS[way](replace(case, id=f"{case.id}-{way}", real=False, twin=True)))


def with_file(case: Case) -> Case:
    """Told where its file is."""
    first = next(iter(case.files), "")
    return replace(case, argv=tuple(argument.replace("{file}", first) for argument in case.argv))


def gzipped(case: Case) -> Case:
    """The same in gzipped files."""
    return replace(case, files={f"{name}.gz": content for name, content in case.files.items()})


def streamed(case: Case) -> Case:
    """The same through the index of data sets that do not fit into memory."""
    return replace(case, argv=(*case.argv, "dataset.streaming=true"))


def asked(case: Case) -> Case:
    """The same file as prompts."""
    argv = ("model=tiny", "prompts={file}", "samples=1", "max_tokens=2", "hardware=cpu", "run_dir=run")
    return replace(case, command="alignkit.generate", argv=argv, until=None)


TWINS: Mapping[str, Callable[[Case], Case]] = {"gz": gzipped, "streaming": streamed, "generate": asked}
