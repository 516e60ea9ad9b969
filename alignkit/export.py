"""`python -m alignkit.export`: the model of a run that was stopped, in another form, or on the hub. Nothing heavy is imported until the
command is known to be good."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, final

from alignkit.config_checks import check_keys, check_no_secret
from alignkit.errors import UserError, check_choice
from alignkit.hub import check_upload
from alignkit.job import DONE, answer
from alignkit.models.location import is_here
from alignkit.resolution import to_record
from alignkit.resuming.resumption import CODE, code_typed, read_settings
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings

if TYPE_CHECKING:  # importing it would load torch
    from alignkit.checkpoint_weights import CheckpointWeights

HELP = """\
alignkit-export makes model/ out of a run's checkpoint: of a run that was killed, of its best step, with adapters merged or apart. It
writes the model's card and, where that is asked for, takes it all to the Hugging Face hub. It needs no data, and one process whatever
number of them wrote the checkpoint.

  python -m alignkit.export RUN [key=value ...]

Examples
  python -m alignkit.export RUN                                     model/ of a run that was stopped; the card of one that was not
  python -m alignkit.export RUN checkpoint=best out=DIR             the best step by the loss's monitor
  python -m alignkit.export RUN export=adapter out=DIR              the adapter alone, as a peft folder
  python -m alignkit.export RUN push=owner/name license=apache-2.0  to the hub, after: hf auth login

Keys
  run=RUN            the same as RUN alone
  checkpoint=last    last: the newest; best: the best by the loss's monitor. Default: what model/ holds, or the newest where that is later
  export=null        merged: a plain model; adapter: a peft folder. Default: as the run says, model.lora.export
  out=null           a new directory for model/ and heads; default: the run's own, whose model/ is written over only by later steps
  push=null          owner/name of a repository on the hub; one that is not there is made
  private=true       whether a repository that is made is for its owner alone
  license=unknown    of the model, by the hub's name for it
  allow_code=[]      packages of your own whose code the run names: a run's files cannot allow it

RUN/model loads in plain transformers, its README.md says how; alignkit.models.export.load_aligned(RUN) gives trunk and heads.
"""
LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
DRAFT = ".export"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSettings:
    """The keys of `alignkit.export`."""

    run: str
    """A run's directory."""
    checkpoint: str | None = None
    """`last` or `best`; null leaves a model that is as new as the newest checkpoint as it is."""
    export: str | None = None
    """`merged` or `adapter`; null is what the run says."""
    out: str | None = None
    """A new directory; null is the run's own."""
    push: str | None = None
    """`owner/name` on the hub; null keeps everything here."""
    private: bool = True
    """Of a repository that is made."""
    license: str = "unknown"
    """The hub's name of a license."""
    allow_code: list[str] = field(default_factory=list)
    """Packages outside alignkit whose code the run names and the user trusts."""

    def __post_init__(self) -> None:
        check_choice("checkpoint", self.checkpoint or "last", ("last", "best"))
        check_choice("export", self.export or "merged", ("merged", "adapter"))
        if not LICENSE.fullmatch(self.license):
            raise UserError(f"license = {self.license!r}; must be one of the hub's names, such as apache-2.0, mit or cc-by-4.0.")
        if not self.private and self.push is None:
            raise UserError("private = false has no effect without push. Type push=owner/name.")


def main() -> int:
    """The command.

    Returns:
        The exit code: 0 done, 1 a crash, 2 wrong input, 130 and 143 interrupted.
    """
    return answer(export, sys.argv[1:])


def export(argv: Sequence[str]) -> int:
    """Check everything that can be checked, then write, then push.

    Raises:
        UserError: on the first mistake, before weights are read wherever that can be known.
    """
    if any(argument in ("-h", "--help") for argument in argv):
        print(HELP, end="")
        return DONE
    own = read_own(argv)
    run = RunDir(Path(own.run).expanduser().resolve())
    settings = read_settings(run, "run", own.allow_code)
    check_form(own, settings)
    target = target_of(own, run)
    if own.push is not None:
        check_publishable(own, settings)
        check_upload("push", own.push)
    # The first import of torch's big users: everything that can be wrong without them has been checked.
    from alignkit.training import hush

    hush()
    write(own, run, settings, target)
    return DONE


def read_own(argv: Sequence[str]) -> ExportSettings:
    """The settings that were typed.

    Raises:
        UserError: on flags, unknown keys, values out of range, and where no run or more than one is named.
    """
    typed: dict[str, str] = {}
    for argument in argv:
        key, is_setting, value = argument.partition("=")
        if not is_setting:
            key, value = "run", argument
        check_no_secret(key, value)
        if argument.startswith("-"):
            raise UserError(f"{argument}: there is no such flag. Options are typed without dashes: push=owner/name. See --help.")
        if key in typed:
            raise UserError(f"{key} = {value}: {key}={typed[key]} was typed before. One command exports one run, once.")
        typed[key] = value.strip("'\"")
    if "run" not in typed:
        raise UserError("run is missing: which one? Type python -m alignkit.export RUN, the directory that a run's last line named.")
    check_keys("", typed, [field.name for field in fields(ExportSettings)], owner="alignkit.export")
    given: dict[str, object] = {key: None if value == "null" else value for key, value in typed.items()}
    if CODE in typed:
        given[CODE] = code_typed(argv)
    return to_record(ExportSettings, given, "")


def check_form(own: ExportSettings, settings: RunSettings) -> None:
    """Refuse a form that the run's weights cannot have.

    Raises:
        UserError: naming the other one.
    """
    if own.export == "adapter" and settings.model.adapter is None:
        raise UserError("export = 'adapter': the run trained no adapter but the model itself. Leave export out.")
    if own.export == "merged" and settings.model.quantize is not None:
        raise UserError(
            "export = 'merged': weights of 4 bits cannot take an adapter up without loss. Type export=adapter; as model.path it is merged "
            "into the unquantised model."
        )


def target_of(own: ExportSettings, run: RunDir) -> RunDir:
    """Where model and heads go.

    Raises:
        UserError: when the place that was typed holds something.
    """
    if own.out is None:
        return run
    target = RunDir(Path(own.out).expanduser().resolve())
    if target.path.exists() and (not target.path.is_dir() or any(target.path.iterdir())):
        raise UserError(f"out = {own.out!r}: holds something already, seen from {os.getcwd()}. Choose another.")
    return target


def check_publishable(own: ExportSettings, settings: RunSettings) -> None:
    """Refuse to take an adapter to the hub whose base model is on this machine alone.

    Raises:
        UserError: with what to type.
    """
    adapter = settings.model.adapter is not None and (own.export or settings.model.lora.export) == "adapter"
    path = settings.model.path
    if adapter and is_here(path):
        raise UserError(
            f"push = {own.push!r}: the adapter's base model {path!r} is on this machine alone, so that nobody could load it. "
            "Type export=merged out=DIR."
        )


def write(own: ExportSettings, run: RunDir, settings: RunSettings, target: RunDir) -> None:
    """`model/` with heads, the card, and the upload.

    Raises:
        UserError: when there is no checkpoint, it does not fit, or the hub refuses.
    """
    from alignkit.models.loading import load_tokenizer
    from alignkit.models.model_card import model_card, read_facts
    from alignkit.pushing import push

    results: dict[str, Scalar] = json.loads(run.results.read_text(encoding="utf-8")) if run.results.is_file() else {}
    checkpoint = newer(own, run, results)
    if checkpoint is not None:
        results = consolidate_into(own, run, settings, target, checkpoint, results)
    tokenizer = load_tokenizer("run", str(target.model))
    facts = read_facts(target, settings, tokenizer, results, license=own.license)
    target.card.write_text(str(model_card(facts)), encoding="utf-8")
    print(f"model: {target.model}", flush=True)
    if own.push is not None:
        facts = read_facts(target, settings, tokenizer, results, license=own.license, repository=own.push)
        print(f"hub: {push(target, model_card(facts), own.push, private=own.private)}", flush=True)


def newer(own: ExportSettings, run: RunDir, results: Mapping[str, Scalar]) -> CheckpointWeights | None:
    """The checkpoint that `model/` is made of; None where it is there, no older than the newest, and nothing else was asked for.

    Raises:
        UserError: when there is no such checkpoint, or a model that is as new would be written over.
    """
    from alignkit.checkpoint_weights import is_checkpoint, read_weights, steps_of, whole_checkpoint

    asked = own.checkpoint is not None or own.export is not None or own.out is not None
    path = whole_checkpoint(run, own.checkpoint or "last")
    if not is_checkpoint(path):
        if run.model.is_dir() and not asked:
            return None
        raise UserError(
            f"run = {str(run.path)!r}: there is no {path.relative_to(run.path)}: the run was stopped before its first checkpoint, or "
            "callbacks.checkpoints was false."
        )
    steps = results.get("steps")
    if own.out is None and run.model.is_dir() and isinstance(steps, int) and steps >= steps_of(path):
        if asked:
            raise UserError(f"run = {str(run.path)!r}: has a model/ of step {steps}, which is not written over. Type out=DIR for another.")
        return None
    return read_weights(path)


def consolidate_into(
    own: ExportSettings,
    run: RunDir,
    settings: RunSettings,
    target: RunDir,
    checkpoint: CheckpointWeights,
    results: Mapping[str, Scalar],
) -> dict[str, Scalar]:
    """Write a checkpoint's model and heads, whole or not at all; what is known of that step, as `results.json` would say it."""
    from alignkit.consolidation import consolidate, measured_until
    from alignkit.models.texts import load_texts

    draft = RunDir(target.path / DRAFT)
    shutil.rmtree(draft.path, ignore_errors=True)
    as_adapter = settings.model.adapter is not None and (own.export or settings.model.lora.export) == "adapter"
    try:
        done = consolidate(draft, settings, checkpoint, load_texts(run.texts), as_adapter=as_adapter)
        replace(draft, target)
    finally:
        shutil.rmtree(draft.path, ignore_errors=True)
    print(f"export: step {checkpoint.steps_done} of {settings.steps}", flush=True)
    if results.get("steps") == checkpoint.steps_done:
        keep_scales(run, target)
    elif done.normalized:
        print(f"export: scores of {', '.join(done.normalized)} as they are: their scale is measured on samples when a run ends", flush=True)
    lasting = {name: value for name, value in results.items() if name.startswith("data/") or name.endswith("_fingerprint")}
    measured = measured_until(run, checkpoint.steps_done)
    return {"formula": done.formula, **measured, **checkpoint.certificate, **lasting, "steps": checkpoint.steps_done}


def keep_scales(run: RunDir, target: RunDir) -> None:
    """Gain and bias of heads, which were measured when the run ended, for the same heads elsewhere."""
    from alignkit.scorers.saved_heads import saved_head

    if run.heads_description.is_file() and target.heads_description.is_file():
        for name, entry in json.loads(run.heads_description.read_text(encoding="utf-8")).items():
            if "gain" in entry:
                saved_head(target.path, name, "out").store_normalization(saved_head(run.path, name, "run").normalization)


def replace(draft: RunDir, target: RunDir) -> None:
    """Move what was written to its place."""
    old = draft.path / "old"
    if target.model.is_dir():
        target.model.rename(old)
    draft.model.rename(target.model)
    for name in ("heads", "heads_description", "texts"):
        new: Path = getattr(draft, name)
        if new.is_file():
            new.replace(getattr(target, name))


if __name__ == "__main__":
    sys.exit(main())
