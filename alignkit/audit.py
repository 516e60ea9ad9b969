"""`python -m alignkit.audit`: what the model will see, under a config of `alignkit.train`, or what it saw in a step that was not taken.
Writes nothing, and loads no weights but for such a step."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from alignkit.audit_page import page_text
from alignkit.command_line import check_buildable, check_models, is_question, read_command, read_flags
from alignkit.errors import UserError, check_range
from alignkit.job import DONE, answer
from alignkit.resolution import to_record
from alignkit.resuming.resumption import CODE, code_typed, read_settings
from alignkit.run_dir import RunDir

OWN = "audit."
"""Prefix of the keys that no run has."""
FAILURE = "failure"
"""The key that asks for a step that a run did not take."""
HELP = """\
alignkit-audit shows what the model will see: what was dropped and cut, how long the texts are, how they are packed, how completions
end, and some examples token by token. It loads the tokenizer and no weights, and writes nothing.

With failure=DIR it shows a step instead that a run skipped or stopped at: the batch that the run kept, once more under its last good
weights, example by example.

  python -m alignkit.audit [group=option ...] [key=value ...]
  python -m alignkit.audit failure=RUN/failures/step-000123

Examples
  python -m alignkit.audit                                          the defaults of alignkit.train
  python -m alignkit.audit loss=dpo model=gpt2 dataset=hh_rlhf      what that run would train on
  python -m alignkit.audit loss=sft dataset=local dataset.path=FILE.jsonl audit.examples=10

Keys of its own
  audit.examples=3    training examples shown token by token
  audit.tokens=200    longest prompt or completion that is shown whole; 0 shows all of them whole

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

    def __post_init__(self) -> None:
        check_range("audit.examples", self.examples, low=0)
        check_range("audit.tokens", self.tokens, low=0, hint="It is the longest text that is shown whole; 0 shows everything.")


def main() -> int:
    """The command.

    Returns:
        The exit code: 0 done, 1 a crash, 2 wrong input, 130 and 143 interrupted.
    """
    return answer(lambda argv: audit(*read_own(argv)), sys.argv[1:])


def read_own(argv: Sequence[str]) -> tuple[AuditSettings, list[str]]:
    """The audit's own settings, and the arguments that a run knows.

    Raises:
        UserError: on a key that the audit does not have, or a value out of its range.
    """
    own = [argument.lstrip("+").removeprefix(OWN) for argument in argv if argument.lstrip("+").startswith(OWN)]
    values = {key: value for key, _, value in (argument.partition("=") for argument in own)}
    rest = [argument for argument in argv if not argument.lstrip("+").startswith(OWN)]
    return to_record(AuditSettings, values, OWN.rstrip(".")), rest


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
        return show_failure(flags.overrides)
    if is_question(flags) or flags.multirun:
        raise UserError("alignkit.audit looks at one run. Leave the flags out; for --cfg and the like type python -m alignkit.train.")
    command = read_command(flags)
    check_models(command.jobs)
    check_buildable(command.jobs)
    # The first import of torch's big users: everything that can be wrong without them has been checked.
    from alignkit.inspection import inspect_run

    inspection = inspect_run(command.jobs[0].settings, examples=own.examples)
    show_any_character()
    print(page_text(inspection, longest=own.tokens), end="", flush=True)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
