"""The settings that `alignkit.label` has beside those of a run: which answers are judged, by whom, and what becomes of the judgements."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from alignkit.errors import UserError, check_choice, check_range
from alignkit.generate_settings import CHAT, HELD_OUT, STREAM, TRAINING
from alignkit.judge_settings import JudgeSettings

PAIRS = "pairs"
RANKINGS = "rankings"
SCORES = "scores"
UNPAIRED = "unpaired"
REVISIONS = "revisions"
FORMS = (PAIRS, RANKINGS, SCORES, UNPAIRED, REVISIONS)
ALL = "all"
RANDOM = "random"
MARGIN = "margin"
ENSEMBLE = "ensemble"
QUERIES = (ALL, RANDOM, MARGIN, ENSEMBLE)
UNCERTAIN = (MARGIN, ENSEMBLE)
"""Queries for which a scorer says what is uncertain."""
OF_DATASET = (HELD_OUT, TRAINING)
"""Candidates that are completions of `dataset=`."""
PATIENCE = (
    "timeout",
    "retries",
    "backoff",
    "requests_per_minute",
    "concurrency",
    "budget_requests",
    "budget_tokens",
    "authorization",
    "tokens",
)
"""Options of judges that change when they answer and at what cost, and never what they say: they may be others when a run goes on."""
DEFAULT_ROUNDS = 1
"""A critique and a revision."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSettings:
    """The keys of `alignkit.label`."""

    judge: JudgeSettings
    """`judge=`: who says which answers are better; with `form=revisions` the language model that criticises and revises."""
    prompts: str = HELD_OUT
    """A file with a column of prompts (JSONL, JSON, CSV, Parquet) or with one prompt a line; `-`: lines of standard input; `dataset`: the
    held-out prompts of `dataset=`; `dataset:train`: those that it trains on. Not read where there are `candidates`."""
    column: str = "prompt"
    """The column of prompts in files."""
    candidates: list[str] = field(default_factory=list)
    """Files with answers that are judged, so that none are sampled: of one prompt they are put together, equal ones once. `[dataset]` and
    `[dataset:train]`: the completions of `dataset=`, each example for itself, without its labels."""
    form: str = PAIRS
    """What a row of `labels.jsonl` is: `pairs`: best and worst answer of a prompt; `rankings`: all of them with ranks; `scores`: all with
    scores; `unpaired`: one answer, wanted or not; `revisions`: an answer as it was and as its own critic has revised it."""
    min_gap: float | None = None
    """With `pairs` and `unpaired`: the least difference of scores that counts, in the judge's units, >= 0: between best and worst, or from
    the threshold. null is 0."""
    threshold: float | None = None
    """With `unpaired`: the score above which an answer is wanted; null is the mean score of the answers to its prompt."""
    query: str = ALL
    """Which prompts are labelled: `all`; `random`: `count` of them; `margin`: those whose answers `scorer=` can least tell apart;
    `ensemble`: those on which the parts of `scorer=` differ most."""
    count: int | None = None
    """Prompts that are labelled at most, >= 1; null is all of them."""
    earlier: list[str] = field(default_factory=list)
    """Files of labels: their rows are copied first, each once, and their prompts are not asked again."""
    constitution: str | None = None
    """With `revisions`: a file of principles; null is the packaged one."""
    rounds: int | None = None
    """With `revisions`: critiques, each followed by a revision, >= 1; null is 1."""
    out: str | None = None
    """A new file that the labels are copied to at the end; `-`: standard output, and everything else goes to standard error."""

    def __post_init__(self) -> None:
        if not self.prompts:
            raise UserError("prompts = ''; must be a file, '-' for standard input, dataset or dataset:train.")
        if self.prompts == CHAT:
            raise UserError("prompts = 'chat': alignkit.label reads prompts that are there. Type prompts=FILE.")
        if self.prompts.startswith(f"{HELD_OUT}:"):
            check_choice("prompts", self.prompts, OF_DATASET)
        check_choice("form", self.form, FORMS)
        check_choice("query", self.query, QUERIES)
        self._check_sources()
        self._check_owners()
        check_range("min_gap", self.least_gap, low=0.0, hint="It is in the judge's units. Try 0.1.")
        if self.count is not None:
            check_range("count", self.count, low=1, hint="It is the number of prompts that are labelled.")
        if self.query in (RANDOM, *UNCERTAIN) and self.count is None:
            raise UserError(f"query = {self.query!r} chooses some of the prompts; how many? Type count=N.")
        check_range("rounds", self.revision_rounds, low=1, hint="Each is a critique and a revision. Try 1.")

    def _check_sources(self) -> None:
        if not self.column:
            raise UserError("column = ''; must be the name of the column that holds prompts. Type column=prompt.")
        of_dataset = [name for name in self.candidates if name in OF_DATASET]
        if of_dataset and len(self.candidates) > 1:
            raise UserError(f"candidates = {self.candidates}: {of_dataset[0]} stands alone. Leave the others out, or name files.")
        if self.candidates and self.prompts != HELD_OUT:
            raise UserError(f"prompts = {self.prompts!r} with candidates: their prompts are in the same rows. Leave one of the two out.")
        for key, names in (("candidates", self.candidates), ("earlier", self.earlier)):
            if not all(names):
                raise UserError(f"{key} = {names}; must be a list of files, e.g. {key}=[a.jsonl,b.jsonl].")
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise UserError(f"{key} names {twice!r} twice. Leave one of them out.")

    def _check_owners(self) -> None:
        """Refuse keys of one form where another one was chosen."""
        for name, value, owners in (
            ("min_gap", self.min_gap, (PAIRS, UNPAIRED)),
            ("threshold", self.threshold, (UNPAIRED,)),
            ("constitution", self.constitution, (REVISIONS,)),
            ("rounds", self.rounds, (REVISIONS,)),
        ):
            if value is not None and self.form not in owners:
                raise UserError(f"{name} = {value} has no effect with form = {self.form!r}. Type form={owners[0]}.")

    @property
    def least_gap(self) -> float:
        """The least difference of scores that counts."""
        return 0.0 if self.min_gap is None else self.min_gap

    @property
    def revision_rounds(self) -> int:
        """The rounds of `form=revisions`."""
        return DEFAULT_ROUNDS if self.rounds is None else self.rounds

    @property
    def fewest_answers(self) -> int:
        """Answers to a prompt without which it has no label."""
        return 2 if self.form in (PAIRS, RANKINGS) or (self.form == UNPAIRED and self.threshold is None) else 1

    @property
    def pool(self) -> str:
        """Where prompts come from, in the words of a command line."""
        return f"candidates={','.join(self.candidates)}" if self.candidates else f"prompts={self.prompts}"

    @property
    def reads_stream(self) -> bool:
        """Whether prompts are read from standard input, which cannot be read twice."""
        return self.prompts == STREAM and not self.candidates
