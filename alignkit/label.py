"""`python -m alignkit.label`: preference data out of a model's answers and a judge. Nothing heavy is imported until the config is known to
be good."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from alignkit.command_line import check_paths
from alignkit.generate_settings import STREAM
from alignkit.job import DONE, answer
from alignkit.labelling.config import Labelling, labelling_of, rewrite
from alignkit.labelling.resumption import has_begun, labelling_to_resume
from alignkit.labelling.work import carry_on, carry_out, check_buildable, check_places
from alignkit.resuming.resumption import RESUME
from alignkit.run_dir import RunDir, Scalar
from alignkit.single_run import flags_of_one, own_directory, read_one, same_directory
from alignkit.summary import print_table

RUN_DIR = "run_dir='runs/${now:%Y-%m-%d}/${now:%H-%M-%S}-label-${model.name}'"
HELP = """\
alignkit-label makes preference data: it samples a model, or takes answers that are there, has a judge say which ones are better, and
writes rows that dataset=local reads, each with where it comes from.

  python -m alignkit.label judge=NAME [key=value ...]

Examples
  python -m alignkit.label model.path=RUN judge=gold                                   pairs: the best of 4 samples over the worst
  python -m alignkit.label model.path=RUN judge=llm judge.model=DIR prompts=dataset:train samples=2
                                                        a language model compares two answers, in both orders
  python -m alignkit.label 'candidates=[a/samples.jsonl,b/samples.jsonl]' judge=head judge.path=REWARD_RUN form=rankings
                                                        answers that alignkit.generate has sampled, put together by prompt
  python -m alignkit.label candidates=dataset:train judge=gold query=margin scorer=head scorer.path=REWARD_RUN count=50
                                                        active learning: the 50 pairs that a reward model is least sure of
  python -m alignkit.label resume=DIR                   go on with a run that was stopped; nothing is judged twice
  python -m alignkit.train dataset=local dataset.path=RUN/labels.jsonl loss=dpo        train on what was labelled

Keys of its own
  judge=NAME        who judges, with keys judge.KEY: gold, a head, the policy itself, a language model, several that vote
  prompts=dataset   held-out prompts of dataset=; dataset:train: those to train on; a file (JSONL, JSON, CSV or Parquet with a column
                    prompt, or text with one prompt a line); -: lines of standard input
  column=prompt     the column of prompts in files
  candidates=[]     files with answers in place of samples: rows with completions, or with one completion or response, samples.jsonl of
                    alignkit.generate, labels of earlier runs; dataset, dataset:train: the completions of dataset= without their labels
  samples=4 max_tokens=48 temperature=1.0 top_k=0 top_p=1.0      how is sampled: short for rollout.samples and so on
  form=pairs        pairs: best over worst; rankings: all answers with ranks; scores: all with scores; unpaired: an answer, wanted or
                    not; revisions: answers as the judge, a language model, has criticised and revised them
  min_gap=0         with pairs and unpaired: the least difference of scores that makes a row, in the judge's units
  threshold=null    with unpaired: the score above which an answer is wanted; null: the mean score of the answers to its prompt
  constitution=FILE rounds=1      with revisions: principles, and how often an answer is criticised and revised
  query=all         which prompts: all; random: count of them; margin, ensemble: those of which scorer= is least sure
  count=null        label at most so many prompts
  earlier=[]        files of labels: their rows are copied first, and their prompts are not asked again
  out=null          a new file that all labels are copied to at the end; -: standard output
  resume=DIR        go on as DIR/config.yaml says; devices, logging and what a judge may cost may be others

A label run leaves config.yaml, labels.jsonl, judged.jsonl and results.json in its run directory. model.path is a run, a Hugging Face
folder, a peft adapter, a hub id or builtin:tiny; with candidates nothing but its tokenizer is read, unless it is the judge.
validation.gold=NAME measures how often a scorer agrees with the judge. batch.pairs prompts are judged together, and a run that is killed
loses one such batch at most.

All groups and keys of a run: python -m alignkit.train --help
"""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A command line that is known to be good."""

    labelling: Labelling
    named: bool
    """Whether `run_dir=` was typed."""


def main() -> int:
    """The command.

    Returns:
        The exit code: 0 done, 1 a crash, 2 wrong input, 130 and 143 interrupted.
    """
    return answer(command, sys.argv[1:])


def command(argv: Sequence[str]) -> int:
    """Check everything that can be checked, then label in a directory of its own, or in that of the run that goes on.

    Raises:
        UserError: on the first mistake, before weights are loaded wherever that can be known.
    """
    flags = flags_of_one(argv, "label")
    if flags.help:
        print(HELP, end="")
        return DONE
    stopped = labelling_to_resume(flags)
    request = parse(argv) if stopped is None else Request(labelling=stopped[1], named=True)
    labelling = request.labelling
    check_paths(labelling.settings)
    check_places(labelling)
    check_buildable(labelling)
    rows = sys.stdout
    printing = contextlib.redirect_stdout(sys.stderr) if labelling.own.out == STREAM else contextlib.nullcontext()
    place = own_directory(labelling.run_dir, named=request.named) if stopped is None else same_directory(stopped[0])
    with printing, place as run, telling_how_to_go_on(run):
        conclude(carry_out(labelling, run, rows=rows) if stopped is None else carry_on(labelling, run, rows=rows))
    return DONE


def parse(argv: Sequence[str]) -> Request:
    """Compose the config that was typed and check it, without torch.

    Raises:
        UserError: on the first mistake.
    """
    labelling, named = read_one(argv, RUN_DIR, rewrite, labelling_of)
    return Request(labelling=labelling, named=named)


@contextmanager
def telling_how_to_go_on(run: RunDir) -> Iterator[None]:
    """Whatever stops what is inside, say how it goes on, if there is something to go on from."""
    try:
        yield
    except BaseException as error:
        if has_begun(run) and not str(error).startswith(f"{RESUME} = "):
            print(f"What was judged is kept. Go on with: python -m alignkit.label {RESUME}={run.path}", file=sys.stderr, flush=True)
        raise


def conclude(results: dict[str, Scalar]) -> None:
    """The table."""
    from alignkit.labelling.results import results_table

    print_table(results_table(results))


if __name__ == "__main__":
    sys.exit(main())
