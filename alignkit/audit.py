"""`python -m alignkit.audit`: what the model will see, under a config of `alignkit.train`, or what it saw in a step that was not taken.
Writes nothing but what its checks of the data found, where that is asked for, and loads no weights but for such a step."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

from alignkit.audit_page import page_text
from alignkit.command_line import check_buildable, check_models, is_question, read_command, read_flags
from alignkit.errors import UserError, check_range, did_you_mean
from alignkit.job import DONE, answer
from alignkit.quality.names import CHECKS
from alignkit.resolution import to_record
from alignkit.resuming.resumption import CODE, code_typed, read_settings
from alignkit.row_files import replace_text
from alignkit.run_dir import RunDir
from alignkit.settings import RunSettings

OWN = "audit."
"""Prefix of the keys that no run has."""
CHECKING = "checks"
"""The key that asks for checks of the data."""
FAILURE = "failure"
"""The key that asks for a step that a run did not take."""
HELP = """\
alignkit-audit shows what the model will see: what was dropped and cut, how long the texts are, how they are packed, how completions
end, and some examples token by token. It loads the tokenizer and no weights, and writes nothing but audit.out.

With failure=DIR it shows a step instead that a run skipped or stopped at: the batch that the run kept, once more under its last good
weights, example by example.

  python -m alignkit.audit [group=option ...] [key=value ...]
  python -m alignkit.audit failure=RUN/failures/step-000123

With checks= it also says what the data are worth, from their texts alone: duplicates and leaks, contradictions, what goes with length and
position, how many labels are wrong, and which look it.

Examples
  python -m alignkit.audit                                          the defaults of alignkit.train
  python -m alignkit.audit loss=dpo model=gpt2 dataset=hh_rlhf      what that run would train on
  python -m alignkit.audit loss=sft dataset=local dataset.path=FILE.jsonl audit.examples=10
  python -m alignkit.audit dataset=hh_rlhf checks=all audit.out=quality.json
  python -m alignkit.audit dataset=local dataset.path=FILE.jsonl 'checks=[contradictions,noise]' audit.suspects=20

Keys of its own
  audit.examples=3    training examples shown token by token
  audit.tokens=200    longest prompt or completion that is shown whole; 0 shows all of them whole
  checks=all          or a list of duplicates, contradictions, length, position, noise
  audit.suspects=5    pairs shown whose labels look wrong
  audit.out=FILE      what the checks found, as JSON; the report shows RUN/quality.json

All groups and keys of a run: python -m alignkit.train --help
"""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class AuditSettings:
    """`audit.`: how much is shown."""

    examples: int = 3
    """Training examples shown token by token."""
    tokens: int = 200
    """Longest prompt or completion that is shown whole; 0 shows all of them whole."""
    suspects: int = 5
    """Pairs shown whose labels look wrong; with `checks=`."""
    out: str | None = None
    """File for what the checks found, as JSON; with `checks=`."""
    checks: list[str] = field(default_factory=list)
    """Names of the checks of the data, from `checks=`; none by default."""

    def __post_init__(self) -> None:
        check_range("audit.examples", self.examples, low=0)
        check_range("audit.tokens", self.tokens, low=0, hint="It is the longest text that is shown whole; 0 shows everything.")
        check_range("audit.suspects", self.suspects, low=0)


def main() -> int:
    """The command.

    Returns:
        The exit code: 0 done, 1 a crash, 2 wrong input, 130 and 143 interrupted.
    """
    return answer(lambda argv: audit(*read_own(argv)), sys.argv[1:])


def read_own(argv: Sequence[str]) -> tuple[AuditSettings, list[str]]:
    """The audit's own settings, and the arguments that a run knows.

    Raises:
        UserError: on a key or a check that the audit does not have, or a value out of its range.
    """
    typed = [argument.lstrip("+").partition("=")[2] for argument in argv if argument.lstrip("+").partition("=")[0] == CHECKING]
    checks = read_checks(typed[-1]) if typed else []
    argv = [argument for argument in argv if argument.lstrip("+").partition("=")[0] != CHECKING]
    own = [argument.lstrip("+").removeprefix(OWN) for argument in argv if argument.lstrip("+").startswith(OWN)]
    values = {key: value for key, _, value in (argument.partition("=") for argument in own)}
    rest = [argument for argument in argv if not argument.lstrip("+").startswith(OWN)]
    settings = replace(to_record(AuditSettings, values, OWN.rstrip(".")), checks=checks)
    check_out(settings.out, checks)
    return settings, rest


def read_checks(typed: str) -> list[str]:
    """The checks that `checks=` names, in their usual order.

    Raises:
        UserError: on one that there is not, or none.
    """
    named = [name.strip().strip("'\"") for name in typed.strip().strip("'\"").strip("[]()").split(",")]
    if named == ["all"]:
        return list(CHECKS)
    for name in named:
        if name not in CHECKS:
            guess = did_you_mean(name, CHECKS)
            raise UserError(f"checks = {typed}: there is no check {name!r}.{guess} Type checks=all, or 'checks=[{','.join(CHECKS)}]'.")
    return [name for name in CHECKS if name in named]


def check_out(out: str | None, checks: Sequence[str]) -> None:
    """Refuse a file that cannot be written, before anything is read.

    Raises:
        UserError: naming `audit.out`.
    """
    if out is None:
        return
    file = Path(out).expanduser().absolute()
    if not checks:
        raise UserError(f"audit.out = {out} has no effect without checks: it holds what they find. Type checks=all, or leave it out.")
    if file.is_dir() or not file.parent.is_dir():
        raise UserError(
            f"audit.out = {out}: {'is a folder' if file.is_dir() else f'there is no folder {file.parent}'}. Type audit.out=FILE.json."
        )
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UserError(f"audit.out = {out}: cannot be written. Choose another with audit.out=FILE.json.")


def show_failure(lines: Sequence[str]) -> int:
    """Run a step again that a run did not take, and print what its numbers were.

    Raises:
        UserError: when there is nothing of the kind, or more was typed.
    """
    typed = dict(line.lstrip("+").partition("=")[::2] for line in lines)
    others = [line for line in lines if line.lstrip("+").partition("=")[0] not in (FAILURE, CODE, "debug")]
    folder = Path(typed[FAILURE].strip("'\"")).expanduser().resolve()
    if others:
        raise UserError(f"failure = {folder}: the step is run as its run's config.yaml says, so that {others[0]} has no place here.")
    run = kept_by(folder)
    settings = read_settings(run, FAILURE, allow_code=code_typed(lines))
    # From here on torch and transformers are needed.
    from alignkit.replaying.page import replay_text
    from alignkit.replaying.replay import replay

    told = replay(folder, settings)
    show_any_character()
    print(replay_text(told), end="", flush=True)
    return DONE


def kept_by(folder: Path) -> RunDir:
    """The run that kept a failure.

    Raises:
        UserError: when the folder is not where a run keeps them.
    """
    if not folder.is_dir():
        raise UserError(f"failure = {folder}: there is no such folder, seen from {os.getcwd()}.")
    run = RunDir(folder.parent.parent)
    if folder.parent != run.failures:
        raise UserError(f"failure = {folder}: is no folder in a run's failures/. Type failure=RUN/failures/step-000123, where it was kept.")
    return run


def show_any_character() -> None:
    """Data hold characters that not every terminal has."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def audit(own: AuditSettings, argv: Sequence[str]) -> int:
    """Check the config as for training, look, and print.

    Raises:
        UserError: what training would say before it loads weights.
    """
    flags = read_flags(argv)
    if flags.help:
        print(HELP, end="")
        return DONE
    if any(line.lstrip("+").partition("=")[0] == FAILURE for line in flags.overrides):
        if own.checks:
            raise UserError("checks with failure: checks look at all data, failure at one step. Leave one of them out.")
        return show_failure(flags.overrides)
    if is_question(flags) or flags.multirun:
        raise UserError("alignkit.audit looks at one run. Leave the flags out; for --cfg and the like type python -m alignkit.train.")
    command = read_command(flags)
    check_models(command.jobs)
    check_buildable(command.jobs)
    # The first import of torch's big users: everything that can be wrong without them has been checked.
    from alignkit.inspection import inspect_run

    settings = command.jobs[0].settings
    if own.checks and settings.dataset.streaming:
        raise UserError("checks with dataset.streaming = true: checks hold all texts in memory. Type dataset.streaming=false.")
    inspection = inspect_run(settings, examples=own.examples)
    show_any_character()
    print(page_text(inspection, longest=own.tokens), end="", flush=True)
    if own.checks:
        report_quality(own, settings)
    return DONE


def report_quality(own: AuditSettings, settings: RunSettings) -> None:
    """Check the data, print what was found, and write it where that was asked for.

    Raises:
        UserError: when the file cannot be written.
    """
    # scikit-learn takes a second, which no other audit waits for.
    from alignkit.quality_account import account, quality_of
    from alignkit.quality_page import quality_text

    quality, places = quality_of(settings, own.checks, suspects=own.suspects)
    print(quality_text(quality, places), end="", flush=True)
    if own.out is None:
        return
    try:
        replace_text(Path(own.out).expanduser(), json.dumps(account(quality, places), indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"audit.out = {own.out}: cannot be written ({error.strerror}). Choose another with audit.out=FILE.json.") from None
    print(f"\nquality: {own.out}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
