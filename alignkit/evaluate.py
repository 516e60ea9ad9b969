"""`python -m alignkit.evaluate`: measure a model by benchmarks, preferences, wins, or what alignment cost it. Nothing heavy is imported
until the config is known to be good."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from alignkit.command_line import check_paths
from alignkit.evaluating.config import Evaluation, carry_out, check_buildable, check_places, check_scorers, evaluation_of, rewrite
from alignkit.job import DONE, answer
from alignkit.single_run import flags_of_one, own_directory, read_one

RUN_DIR = "run_dir='runs/${now:%Y-%m-%d}/${now:%H-%M-%S}-evaluate-${model.name}'"
HELP = """\
alignkit-evaluate measures a model: what its heads and its log-probs know, whose answers win, and what alignment cost it.

  python -m alignkit.evaluate model.path=DIR evaluation=NAME [key=value ...]

Examples
  python -m alignkit.evaluate model.path=RUN evaluation=gpt4all scorer=dph     a suite, candidates ranked by the head dph of that run
  python -m alignkit.evaluate model=smollm2_135m evaluation=glue               by all there is: log-probs, and heads of a run
  python -m alignkit.evaluate model.path=RUN evaluation=gpt4all evaluation.path=DIR 'evaluation.tasks=[boolq,arc_easy]'
                                                       rows in their original format from a folder instead of the hub
  python -m alignkit.evaluate model.path=RUN evaluation=gpt4all reference.path=SFT_RUN/model scorer=[logp_mean,implicit]
  python -m alignkit.evaluate model.path=RUN evaluation=gpt4all against=EVALUATION     paired with another evaluation of the same rows
  python -m alignkit.evaluate model.path=RUN evaluation=rm_bench scorer=head scorer.path=REWARD_RUN
  python -m alignkit.evaluate model.path=RUN evaluation=win_rate scorer=vader evaluation.opponent=chosen
  python -m alignkit.evaluate model.path=RUN evaluation=win_rate judge=llm_likeliest judge.model=DIR reference.path=SFT_RUN/model
  python -m alignkit.evaluate model.path=RUN evaluation=judge_agreement judge=llm evaluation.path=DIR     does a judge agree with people?
  python -m alignkit.evaluate model.path=RUN evaluation=cost reference.path=SFT_RUN/model evaluation.text=held_out.txt
  python -m alignkit.evaluate model.path=RUN evaluation=lm_eval 'evaluation.tasks=[hellaswag]'     by lm-evaluation-harness

Keys of its own
  evaluation=NAME   an option of conf/evaluation/; its keys are evaluation.KEY
  scorer=NAME       or a list of names. Of questions: logp_mean, logp_sum and logp_characters are log p(candidate | prompt) by tokens, in
                    all and by characters; a head of the run; implicit: beta * (log pi - log pi_ref); or one option of scorer=, whose
                    keys are scorer.KEY. Left out: log-probs and every head, with reference.path also implicit. Of win rates: who judges
  judge=NAME        an option of conf/judge/, with keys judge.KEY: of win rates in the place of scorer=; of judge_agreement who is measured,
                    with judge=vote each of several: judge=vote 'judge.judges={dph: {judge: head, path: RUN}, llm: {judge: llm}}'
  against=DIR       another evaluation of the same questions: differences with their intervals
  samples max_tokens temperature top_k top_p     of evaluations that sample: short for rollout.samples and so on

An evaluation leaves config.yaml, results.json, evaluation.json (the same with intervals and counts) and questions.jsonl, samples.jsonl or
judgements.jsonl in its run directory. model.path is a run, a Hugging Face folder, a peft adapter, a hub id or builtin:tiny.

All groups and keys of a run: python -m alignkit.train --help
"""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A command line that is known to be good."""

    evaluation: Evaluation
    named: bool
    """Whether `run_dir=` was typed."""


def main() -> int:
    """The command.

    Returns:
        The exit code: 0 done, 1 a crash, 2 wrong input, 130 and 143 interrupted.
    """
    return answer(command, sys.argv[1:])


def command(argv: Sequence[str]) -> int:
    """Check everything that can be checked, then evaluate in a directory of its own.

    Raises:
        UserError: on the first mistake, before weights are loaded wherever that can be known.
    """
    if flags_of_one(argv, "evaluate").help:
        print(HELP, end="")
        return DONE
    request = parse(argv)
    check_places(request.evaluation)
    check_scorers(request.evaluation)
    check_buildable(request.evaluation)
    with own_directory(request.evaluation.run_dir, named=request.named) as run:
        carry_out(request.evaluation, run)
    return DONE


def parse(argv: Sequence[str]) -> Request:
    """Compose the config that was typed and check it, without torch.

    Raises:
        UserError: on the first mistake.
    """
    evaluation, named = read_one(argv, RUN_DIR, rewrite, evaluation_of)
    check_paths(evaluation.settings)
    return Request(evaluation=evaluation, named=named)


if __name__ == "__main__":
    sys.exit(main())
