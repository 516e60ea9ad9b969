"""The settings that `alignkit.generate` has beside those of a run: which prompts are answered, and which answers are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from alignkit.errors import UserError, check_choice, check_range

STREAM = "-"
"""Standard input as `prompts`, standard output as `out`."""
CHAT = "chat"
HELD_OUT = "dataset"
TRAINING = "dataset:train"
ALL = "all"
BEST = "best"
QUANTILE = "quantile"
RSO = "rso"
PAIRS = "pairs"
KEEPS = (ALL, BEST, QUANTILE, RSO, PAIRS)
DEFAULT_QUANTILE = 0.7
"""The first one of trlx's rejection-sampling fine-tuning."""
DEFAULT_BETA = 0.5
FEWEST_ACCEPTED = 2
"""A pair needs two."""
ACCEPTED_SHARE = 8
"""One of so many samples is accepted: RSO's authors take 8 of 64 (arXiv:2309.06657)."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateSettings:
    """The keys of `alignkit.generate`."""

    prompts: str = HELD_OUT
    """A file with a column `prompt` (JSONL, JSON, CSV, Parquet) or with one prompt a line; `-`: lines of standard input; `dataset`: the
    held-out prompts of `dataset=`; `dataset:train`: those that it trains on; `chat`: a dialogue in the terminal."""
    keep: str = ALL
    """What is kept: `all`: nothing apart from all samples; `best`: the best of each prompt (RAFT, arXiv:2304.06767); `quantile`: those
    above a quantile of all scores, each once; `rso`: statistical rejection sampling, as pairs of the best accepted sample of a prompt
    and the others (arXiv:2309.06657; its authors pair what is accepted in other ways); `pairs`: best and worst of each prompt."""
    quantile: float | None = None
    """Share of the samples that `keep=quantile` leaves out, [0, 1); null is 0.7."""
    beta: float | None = None
    """Temperature of the acceptance of `keep=rso`, in units of the score, > 0; null is the authors' 0.5."""
    count: int | None = None
    """Samples of a prompt that `keep=rso` accepts, >= 2; null is an eighth of them, as the authors do, but two at least."""
    out: str | None = None
    """A new file for the rows that are kept, or for all samples where `keep` is `all`; `-`: standard output, and everything else goes to
    standard error; null for none beside those of the run directory."""

    def __post_init__(self) -> None:
        if not self.prompts:
            raise UserError("prompts = ''; must be a file, '-' for standard input, dataset, dataset:train or chat.")
        if self.prompts.startswith(f"{HELD_OUT}:"):
            check_choice("prompts", self.prompts, (HELD_OUT, TRAINING))
        check_choice("keep", self.keep, KEEPS)
        if self.prompts == CHAT and self.keep != ALL:
            raise UserError(f"keep = {self.keep!r} with prompts = 'chat': a dialogue is kept whole. Type keep=all.")
        for name, value, owner in (("quantile", self.quantile, QUANTILE), ("beta", self.beta, RSO), ("count", self.count, RSO)):
            if value is not None and self.keep != owner:
                raise UserError(f"{name} = {value} has no effect with keep = {self.keep!r}. Type keep={owner}.")
        check_range("quantile", self.kept_quantile, low=0.0, below=1.0, hint="It is the share of samples that is left out. Try 0.7.")
        check_range("beta", self.acceptance_beta, above=0.0, hint="Towards 0 the best are accepted, towards infinity any. Try 0.5.")
        if self.count is not None:
            check_range("count", self.count, low=FEWEST_ACCEPTED, hint="A pair needs two accepted samples.")

    @property
    def kept_quantile(self) -> float:
        """The quantile of `keep=quantile`."""
        return DEFAULT_QUANTILE if self.quantile is None else self.quantile

    @property
    def acceptance_beta(self) -> float:
        """The temperature of `keep=rso`."""
        return DEFAULT_BETA if self.beta is None else self.beta

    def accepted(self, samples: int) -> int:
        """How many of so many samples of a prompt `keep=rso` accepts."""
        return max(FEWEST_ACCEPTED, samples // ACCEPTED_SHARE) if self.count is None else self.count
