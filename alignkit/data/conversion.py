"""Some rows of a table to entries of an index: in this process or in another one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from alignkit.data.dropping import fault
from alignkit.data.encoding import Encoder
from alignkit.data.example_index import Entry, record_batch, schema
from alignkit.data.examples import PreferenceExample
from alignkit.data.faults import Faults
from alignkit.data.forms import Form
from alignkit.data.holdout import content_digest, prompt_digest
from alignkit.data.oddities import Oddities, of_all_processes
from alignkit.data.outcomes import Outcome
from alignkit.data.rows import DroppedRow, RowError
from alignkit.data.source import RowSource


@final
class RowFault(Exception):  # noqa: N818  becomes a UserError where the table is known
    """Rows that are not in their format."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(faults)
        self.faults = faults


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """What became of some rows that stood together."""

    batch: Any
    """Arrow record batch of `example_index.schema`."""
    rows: int
    candidates: int
    """Examples that could have been made of them, those that had to be dropped included."""
    counts: Counter[str]
    """`no_preference`, and examples dropped by reason before there was anything to index."""
    oddities: Oddities
    kinds: tuple[tuple[int, bool], ...]
    """The first row of each kind of prompt that is there, and whether that is plain text."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Converter:
    """Reads rows as one source does, for one objective and one tokenizer."""

    source: RowSource
    form: Form
    encoder: Encoder

    def __call__(self, first: int, rows: Sequence[Mapping[str, object]]) -> Chunk:
        """Entries of the rows `first`, `first + 1`, ...

        Raises:
            RowFault: when some are not in their format.
        """
        faults, oddities = Faults(), Oddities(of_all_processes)
        counts = Counter(identical=0, empty=0, no_preference=0)
        examples: list[tuple[int, PreferenceExample]] = []
        candidates = 0
        for number, row in enumerate(rows, start=first):
            try:
                found = self.source.to_examples(row)
            except RowError as error:
                faults.add(number, f": {error}")
                continue
            except DroppedRow as verdict:
                counts[verdict.reason] += 1
                candidates += 1
                continue
            counts["no_preference"] += not found
            candidates += len(found)
            for example in found:
                reason = fault(example)
                if reason is not None:
                    counts[reason] += 1
                else:
                    oddities.look(example)
                    examples.append((number, example))
        if faults.count:
            raise RowFault(faults)
        kinds: dict[bool, int] = {}
        for number, example in examples:
            kinds.setdefault(isinstance(example.prompt, str), number)
        return Chunk(
            batch=record_batch(self._entries(examples), schema(len(self.encoder.tokenizer))),
            rows=len(rows),
            candidates=candidates,
            counts=counts,
            oddities=oddities,
            kinds=tuple((row, is_text) for is_text, row in kinds.items()),
        )

    def _entries(self, examples: Sequence[tuple[int, PreferenceExample]]) -> list[Entry]:
        formed: dict[int, PreferenceExample] = {}
        outcomes: dict[int, Outcome] = {}
        for place, (_, example) in enumerate(examples):
            try:
                formed[place] = self.form.of(example)
            except DroppedRow as verdict:
                outcomes[place] = Outcome(reason=verdict.reason)
        outcomes.update(zip(formed, self.encoder.outcomes(formed), strict=True))
        return [
            Entry(
                row=row,
                prompt=prompt_digest(example),
                content=content_digest(example),
                formed=formed.get(place),
                outcome=outcomes[place],
            )
            for place, (row, example) in enumerate(examples)
        ]
