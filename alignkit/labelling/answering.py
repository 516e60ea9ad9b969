"""Where the answers that are judged come from: sampled from a model, or there already.   E prompts   M answers to one prompt"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, final

import torch
from transformers import PreTrainedTokenizerBase

from alignkit.data.encoding import Encoder
from alignkit.data.examples import EncodedExample, PreferenceExample
from alignkit.errors import UserError
from alignkit.generation.answering import continuations, products, seed_of_batch
from alignkit.generation.prompt_reading import Prompt, PromptReader
from alignkit.judges.judge import Candidates
from alignkit.labelling.pool import Entry, Origin
from alignkit.sampling.sampler import Sampler
from alignkit.settings import RunSettings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A prompt with M answers that differ and are not blank, as training could read them."""

    candidates: Candidates
    place: str
    finished: tuple[bool, ...]
    """M: whether an answer ended by itself and was not cut."""
    origins: tuple[tuple[Origin, ...], ...]
    """M; empty where they were sampled."""
    drawn: int
    """Answers before equal and blank ones were left out."""
    tokens: int
    """Of all that were sampled; 0 where none were."""

    def row(self, batch: int) -> dict[str, Any]:
        """What it takes to have it again for the same entry: `of_row` reads it."""
        example = self.candidates.example
        return {
            "batch": batch,
            "prompt_ids": list(example.prompt_ids),
            "completions": list(self.candidates.completions),
            "completion_ids": [list(ids) for ids in example.completion_ids],
            "finished": list(self.finished),
            "drawn": self.drawn,
            "drawn_tokens": self.tokens,
        }

    @classmethod
    def of_row(cls, row: Mapping[str, Any], entry: Entry) -> Answered:
        """What `row` made a row of."""
        ids = tuple(map(tuple, row["completion_ids"]))
        example = EncodedExample(key=0, prompt_ids=tuple(row["prompt_ids"]), completion_ids=ids)
        return cls(
            candidates=Candidates(prompt=entry.example.prompt, completions=tuple(row["completions"]), example=example),
            place=entry.place,
            finished=tuple(row["finished"]),
            origins=entry.origins,
            drawn=row["drawn"],
            tokens=row["drawn_tokens"],
        )


class Answerer(Protocol):
    """Whoever has the answers."""

    def __call__(self, entries: Sequence[Entry], number: int) -> list[Answered]:
        """The answers to some prompts [E], which are batch `number`: what that is decides random numbers, and nothing else does."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Answers that a model gives."""

    settings: RunSettings
    reader: PromptReader
    tokenizer: PreTrainedTokenizerBase
    sampler: Sampler
    terminator: int
    device: torch.device

    @torch.no_grad()
    def __call__(self, entries: Sequence[Entry], number: int) -> list[Answered]:
        prompts = [entry.example for entry in entries]
        ids = [self.reader(prompt) for prompt in prompts]
        with products(self.settings, self.device):
            drawn = self.sampler(ids, samples=self.settings.rollout.samples, seed=seed_of_batch(self.settings.seed, number))
        answered = []
        for entry, own, samples in zip(entries, ids, drawn, strict=True):
            whole = EncodedExample(key=0, prompt_ids=own, completion_ids=tuple(sample.ids for sample in samples))
            texts = continuations(self.tokenizer, whole, joined=self.reader.joins(entry.example))
            kept = distinct(texts)
            example = replace(whole, completion_ids=tuple(whole.completion_ids[place] for place in kept))
            answered.append(
                Answered(
                    candidates=Candidates(prompt=entry.example.prompt, completions=tuple(texts[place] for place in kept), example=example),
                    place=entry.place,
                    finished=tuple(completion[-1] == self.terminator for completion in example.completion_ids),
                    origins=(),
                    drawn=len(samples),
                    tokens=sum(len(sample.ids) for sample in samples),
                )
            )
        return answered


@final
class Given:
    """Answers that are there already."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.left_out: Counter[str] = Counter()
        """By reason, a key of `alignkit.data.dropping.REASONS`, or `one_answer`."""
        self.cut = 0
        """Answers whose end does not fit into the model's positions. Judges that read text have them whole."""
        self.trimmed = 0
        """Prompts whose beginning does not."""
        self._encoded: dict[str, EncodedExample] = {}

    def usable(self, entries: Sequence[Entry], fewest: int) -> list[Entry]:
        """The entries that the model could have answered, without blank answers and with each of those that are the same once; with fewer
        than `fewest` there is nothing to be judged.

        Raises:
            UserError: when none is left.
        """
        several = [kept for entry in entries if len((kept := only(entry, distinct(entry.example.completions))).origins) >= max(1, fewest)]
        self.left_out["one_answer"] += len(entries) - len(several)
        usable = []
        outcomes = self.encoder.outcomes({place: entry.example for place, entry in enumerate(several)})
        for entry, outcome in zip(several, outcomes, strict=True):
            if outcome.example is None:
                self.left_out[str(outcome.reason)] += 1
                continue
            self.cut += outcome.cut
            self.trimmed += outcome.trimmed
            self._encoded[entry.identity] = outcome.example
            usable.append(entry)
        if not usable:
            account = ", ".join(f"{reason} {count}" for reason, count in self.left_out.items())
            raise UserError(f"candidates: there is no prompt whose answers can be judged ({account or 'no row'}). Choose other files.")
        return usable

    def __call__(self, entries: Sequence[Entry], number: int) -> list[Answered]:
        answered = []
        for entry in entries:
            example = self._encoded[entry.identity]
            terminator = self.encoder.render(entry.example)[2]
            answered.append(
                Answered(
                    candidates=Candidates(prompt=entry.example.prompt, completions=entry.example.completions, example=example),
                    place=entry.place,
                    finished=tuple(ids[-1] == terminator for ids in example.completion_ids),
                    origins=entry.origins,
                    drawn=len(entry.example.completions),
                    tokens=0,
                )
            )
        return answered


def distinct(texts: Sequence[str]) -> list[int]:
    """Places of texts that training could read, of equal ones the first: it takes none that is blank or, as a model of bytes may sample it,
    has the character NUL. White space around a text makes no difference, as in training."""
    first: dict[str, int] = {}
    for place, text in enumerate(texts):
        if text.strip() and "\0" not in text:
            first.setdefault(text.strip(), place)
    return list(first.values())


def only(entry: Entry, places: Sequence[int]) -> Entry:
    """An entry with some of its answers."""
    example = entry.example
    return replace(
        entry,
        example=PreferenceExample(
            prompt=example.prompt,
            completions=tuple(example.completions[place] for place in places),
            ranks=tuple(example.ranks[place] for place in places) if example.ranks else (),
            source=example.source,
        ),
        origins=tuple(entry.origins[place] for place in places),
    )


def as_prompts(entries: Sequence[Entry]) -> list[Prompt]:
    """Entries without their answers."""
    return [Prompt(example=entry.example, place=entry.place) for entry in entries]
