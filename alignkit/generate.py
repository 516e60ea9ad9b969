"""`python -m alignkit.generate`: sample a model, rank its answers, and keep some of them. Nothing heavy is imported until the config is
known to be good."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from alignkit.command_line import check_paths
from alignkit.generate_settings import STREAM
from alignkit.generation.config import Generation, carry_out, check_buildable, check_places, generation_of
from alignkit.job import DONE, answer
from alignkit.run_dir import Scalar
from alignkit.single_run import flags_of_one, own_directory, read_one
from alignkit.summary import print_table

RUN_DIR = "run_dir='runs/${now:%Y-%m-%d}/${now:%H-%M-%S}-generate-${model.name}'"
HELP = """\
alignkit-generate samples a model: it answers each prompt several times, lets a scorer rank the answers, says what the best of N of them
is worth, and keeps the good ones to train on.

  python -m alignkit.generate model.path=DIR [key=value ...]

Examples
  python -m alignkit.generate model.path=RUN rank_by=dph samples=16                   best-of-N by a head of that run
  python -m alignkit.generate model.path=RUN prompts=questions.txt out=answers.jsonl  one prompt a line
  python -m alignkit.generate model.path=RUN prompts=chat max_tokens=300              a dialogue in the terminal
  python -m alignkit.generate model.path=RUN rank_by=head scorer.path=REWARD_RUN samples=64 validation.gold=vader
                                                      over-optimisation: what gold says of the best of N by a reward model
  python -m alignkit.generate model.path=RUN rank_by=vader samples=32 keep=rso prompts=dataset:train
                                                      pairs for python -m alignkit.train dataset=local dataset.path=.../kept.jsonl

Keys of its own
  prompts=dataset   held-out prompts of dataset=; dataset:train: those to train on; a file (JSONL, JSON, CSV or Parquet with a column
                    prompt, or text with one prompt a line); -: lines of standard input; chat: a dialogue, until Ctrl-D
  rank_by=null      a head of the run at model.path, or an option of scorer=, whose keys are scorer.KEY; null: nobody ranks
  samples=4 max_tokens=48 temperature=1.0 top_k=0 top_p=1.0      how is sampled: short for rollout.samples and so on
  keep=all          all: every sample is written, none is chosen; best: the best of each prompt; quantile: those above a quantile of all
                    scores; pairs: best and worst of each prompt; rso: pairs by statistical rejection sampling
  quantile=0.7      with keep=quantile: share of the samples that is left out
  beta=0.5 count=N  with keep=rso: temperature of acceptance, and how many of a prompt are accepted (default: an eighth)
  out=null          a new file for what is kept, or for all samples with keep=all; -: standard output

A generate run leaves config.yaml, samples.jsonl, kept.jsonl and results.json in its run directory. model.path is a run, a Hugging Face
folder, a peft adapter, a hub id or builtin:tiny. reference.path=DIR measures the KL of the model from another one. batch.pairs prompts
are answered together, and seed decides the samples.

All groups and keys of a run: python -m alignkit.train --help
"""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A command line that is known to be good."""

    generation: Generation
    named: bool
    """Whether `run_dir=` was typed."""


def main() -> int:
    """The command.

    Returns:
        The exit code: 0 done, 1 a crash, 2 wrong input, 130 and 143 interrupted.
    """
    return answer(command, sys.argv[1:])


def command(argv: Sequence[str]) -> int:
    """Check everything that can be checked, then generate in a directory of its own.

    Raises:
        UserError: on the first mistake, before weights are loaded wherever that can be known.
    """
    if flags_of_one(argv, "generate").help:
        print(HELP, end="")
        return DONE
    request = parse(argv)
    check_places(request.generation)
    check_buildable(request.generation)
    rows = sys.stdout
    to_stream = request.generation.own.out == STREAM
    printing = contextlib.redirect_stdout(sys.stderr) if to_stream else contextlib.nullcontext()
    with printing, own_directory(request.generation.run_dir, named=request.named) as run:
        conclude(carry_out(request.generation, run, rows=rows))
    return DONE


def parse(argv: Sequence[str]) -> Request:
    """Compose the config that was typed and check it, without torch.

    Raises:
        UserError: on the first mistake.
    """
    generation, named = read_one(argv, RUN_DIR, lambda line, composer: [composer.rewrite(line)], generation_of)
    check_paths(generation.settings)
    return Request(generation=generation, named=named)


def conclude(results: dict[str, Scalar]) -> None:
    """The table."""
    from alignkit.generation.results import results_table

    print_table(results_table(results))


if __name__ == "__main__":
    sys.exit(main())
