"""Examples of memory-mapped files as a sequence: what is in memory is a few bytes of each, not the examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final, overload

import numpy as np

from alignkit.data.example_index import ExampleIndex, Numbers
from alignkit.data.examples import EncodedExample, PreferenceExample


@final
class ArrowExamples(Sequence[EncodedExample]):
    """Rows of one index or of several, in a given order; each is read from its file when it is asked for. Pickles by the files' names."""

    def __init__(self, indices: Sequence[tuple[str, ExampleIndex]], *, parts: Numbers, rows: Numbers, keys: Numbers) -> None:
        """`indices` come with the name of the part of a mixture whose examples they hold.

        Example n is row `rows[n]` of index `parts[n]` and has the key `keys[n]`; keys ascend. All three are [n] integers.
        """
        assert len(parts) == len(rows) == len(keys)
        self._indices = indices
        self._parts = parts.astype(np.uint8)
        self._rows = rows.astype(np.int32)
        self._keys = keys
        self.tokens = self._gathered("tokens")
        """[n] int32, of each example, its prompt once."""
        self.longest_prompt = int(self._gathered("prompt_tokens").max(initial=0))
        """Tokens of the longest prompt."""
        self.longest_branch = int(self._gathered("branch").max(initial=0))
        """Tokens of the longest prompt with one completion."""

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> EncodedExample: ...
    @overload
    def __getitem__(self, place: slice) -> list[EncodedExample]: ...
    def __getitem__(self, place: int | slice) -> EncodedExample | list[EncodedExample]:
        if isinstance(place, slice):
            return [self._read(number) for number in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return self._read(place % len(self))

    @property
    def source_counts(self) -> dict[str, int]:
        """Examples of each part of a mixture."""
        counts = np.bincount(self._parts, minlength=len(self._indices))
        return {name: int(count) for (name, _), count in zip(self._indices, counts, strict=True) if count}

    def by_length(self) -> Iterator[EncodedExample]:
        """The longest first, equal ones in their order, each read as it is asked for."""
        for place in np.argsort(-self.tokens, kind="stable"):
            yield self._read(int(place))

    def texts(self) -> list[PreferenceExample]:
        """All of them as text, with the completions that the objective reads: for sets that fit into memory."""
        found = []
        for part, row in zip(self._parts, self._rows, strict=True):
            name, index = self._indices[part]
            found.append(index.text(int(row), source=name))
        return found

    def with_keys(self, keys: Sequence[int]) -> list[EncodedExample]:
        """The examples that have these keys."""
        places = np.searchsorted(self._keys, keys)
        assert np.array_equal(self._keys[places], keys), "no example has such a key"
        return [self._read(int(place)) for place in places]

    def _read(self, place: int) -> EncodedExample:
        name, index = self._indices[self._parts[place]]
        example: EncodedExample = index.example(int(self._rows[place]), key=int(self._keys[place]), source=name)
        return example

    def _gathered(self, name: str) -> Numbers:
        values = np.empty(len(self), dtype=np.int32)
        for number, (_, index) in enumerate(self._indices):
            chosen = self._parts == number
            values[chosen] = index.column(name)[self._rows[chosen]]
        return values
