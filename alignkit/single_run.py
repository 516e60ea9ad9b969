"""Commands that are one run: read from what was typed, carried out in a directory of its own."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from omegaconf import DictConfig

from alignkit.command_line import check_foreign, check_one, is_question, read_flags
from alignkit.composition import Composer, composing
from alignkit.errors import UserError
from alignkit.job import WRONG_INPUT, claim, ending, give_up
from alignkit.launching.output import steady_output
from alignkit.run_dir import RunDir
from alignkit.run_lock import only_here

Meant = TypeVar("Meant")


def flags_of_one(argv: Sequence[str], command: str) -> Namespace:
    """Hydra's flags and the overrides of a command that takes no flag but `--help`.

    Raises:
        UserError: on another flag.
    """
    flags = read_flags(argv)
    if not flags.help and (is_question(flags) or flags.multirun):
        raise UserError(f"alignkit.{command} is one run. Leave the flags out; for --cfg and the like type python -m alignkit.train.")
    return flags


def read_one(
    argv: Sequence[str], run_dir: str, rewrite: Callable[[str, Composer], list[str]], read: Callable[[DictConfig], Meant]
) -> tuple[Meant, bool]:
    """What a command line means, without torch, and whether `run_dir=` was typed; `run_dir` is the override where it was not.

    `rewrite` gives an override as Hydra is given it, `read` says what the config means.

    Raises:
        UserError: on the first mistake.
    """
    flags = read_flags(argv)
    with composing(flags.config_dir) as hydra:
        composer = Composer(hydra)
        for override in map(composer.parse, flags.overrides):
            check_one(override)
        typed = [line for given in flags.overrides for line in rewrite(given, composer)]
        overrides = [composer.rewrite(run_dir), *typed]
        check_foreign(hydra, composer, overrides, flags.config_dir)
        named = any(composer.parse(line).key_or_group == "run_dir" for line in typed)
        return read(composer.compose(overrides)), named


@contextmanager
def own_directory(path: str, *, named: bool) -> Iterator[RunDir]:
    """A fresh directory; however what is inside ends, the last line says where it is, unless it never began.

    Raises:
        UserError: as `claim` does.
    """
    run = claim(path, named=named)
    with same_directory(run):
        yield run


@contextmanager
def same_directory(run: RunDir) -> Iterator[RunDir]:
    """The directory of a run that goes on, or has just been made, while nobody else works there; ends as `own_directory` does."""
    try:
        with steady_output(), only_here(run.path):
            yield run
    except BaseException as error:
        if not (ending(error)[0] == WRONG_INPUT and give_up(run)):
            print(f"run: {run.path}", flush=True)
        raise
    print(f"run: {run.path}", flush=True)
