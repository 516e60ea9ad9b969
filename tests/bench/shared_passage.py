"""Questions about a passage: what four candidates cost when they share it, against one candidate a row.

    python tests/bench/shared_passage.py model=DIR rows=FILE [questions=1000] [rounds=2] [tokens=4096] [precision=fp32] [threads=2]
        [out=FILE]

`rows` are RACE in its original format; where there are fewer than `questions` they are asked again. Both sides are `QuestionScorer` on one
model in one process, A B A B: A packs candidates after their prompt, B gives each candidate a row with its own copy of the prompt, rows of
a length together. Scores are compared in every round.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from measure import append_record, machine, median, parse_arguments, say

from alignkit.data.encoding import Encoder
from alignkit.data.packing import Packing
from alignkit.data.question_encoding import EncodedQuestion, encode_questions
from alignkit.data.question_rows import read_questions
from alignkit.evaluation.scoring import QuestionScorer
from alignkit.evaluation.tasks.catalogue import find_task
from alignkit.models.backbone import Backbone
from alignkit.models.freezing import freeze
from alignkit.models.heads import Heads
from alignkit.models.loading import load_lm, load_tokenizer


@final
@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments."""

    model: str
    rows: str
    questions: int = 1000
    rounds: int = 2
    tokens: int = 4096
    precision: str = "fp32"
    threads: int = 2
    out: str = ""


def main() -> None:
    """Measure and say the ratio."""
    options = parse_arguments(Options, sys.argv[1:])
    torch.set_num_threads(options.threads)
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    backbone = freeze(Backbone(load_lm("model", options.model, dtype)).use_attention("auto", "cpu"))
    questions = read(options)
    sides = {layout: scorer(backbone, layout, options.tokens) for layout in ("packed", "rows")}
    say(f"{len(questions)} questions, {sum(len(one.spans) for one in questions)} candidates; tokens {counted(questions)}")
    seconds: dict[str, list[float]] = {layout: [] for layout in sides}
    scores: dict[str, torch.Tensor] = {}
    for _, layout in itertools.product(range(options.rounds), sides):
        begun = time.perf_counter()
        said = list(sides[layout](questions))
        seconds[layout].append(time.perf_counter() - begun)
        scores[layout] = torch.tensor([score for one in said for score in one.scores["logp_mean"]])
        say(f"{layout}: {seconds[layout][-1]:.1f} s")
    rounds = [packed / rows for packed, rows in zip(seconds["packed"], seconds["rows"], strict=True)]
    ratio = median(seconds["packed"]) / median(seconds["rows"])
    difference = float((scores["packed"] - scores["rows"]).abs().max())
    say(
        f"packed / rows: {ratio:.3f} ({', '.join(f'{one:.3f}' for one in rounds)}); largest difference of a mean log-prob: {difference:.1e}"
    )
    record = {"seconds": seconds, "ratio": ratio, "difference": difference, "machine": machine(), "options": dataclasses.asdict(options)}
    if options.out:
        append_record(Path(options.out), record)


def read(options: Options) -> list[EncodedQuestion]:
    """The questions, as many as are asked for."""
    tokenizer = load_tokenizer("model", options.model)
    asked = read_questions(find_task("race", "tasks", listed=None), "race", options.rows, train=False, where="rows").questions
    encoder = Encoder(tokenizer, format="auto", max_length=8192, overflow="trim")
    encoded = encode_questions(asked[: options.questions], encoder)
    again = itertools.islice(itertools.cycle(encoded), options.questions)
    return [dataclasses.replace(one, key=key) for key, one in enumerate(again)]


def scorer(backbone: Backbone, layout: str, tokens: int) -> QuestionScorer:
    """One side."""
    packing = Packing(layout="packed", tokens=tokens) if layout == "packed" else Packing(layout="rows", tokens=tokens)
    heads = Heads(backbone.hidden_width, {})
    return QuestionScorer(backbone=backbone, heads=heads, packing=packing, device=torch.device("cpu"), normalizations={})


def counted(questions: Sequence[EncodedQuestion]) -> str:
    """Tokens of each side, without padding."""
    examples = [example for one in questions for example in one.examples]
    rows = sum(len(example.prompt_ids) + len(ids) for example in examples for ids in example.completion_ids)
    packed = sum(example.packed_tokens for example in examples)
    return f"{packed:,} shared, {rows:,} one a row: {packed / rows:.3f}"


if __name__ == "__main__":
    main()
