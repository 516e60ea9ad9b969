"""Encoded examples to packed batches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from alignkit.batches import Layout, PackedBatch
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing, Row, group_rows, level_rows, pack_rows


def micro_batches(examples: Sequence[EncodedExample], packing: Packing, *, at_least: int = 0) -> list[PackedBatch]:
    """Cut examples, in any order, into batches of at most `packing.tokens` positions, of which as few as can be are padding.

    Every example is whole in one batch, whatever the layout: losses of pairs need both sides. In rows layout an example
    takes one row a completion. Empty batches follow where there are fewer than `at_least`.
    """
    multiple = packing.multiple if packing.layout == "packed" else 1
    cut = [[[examples[item] for item in row] for row in batch] for batch in cut_batches(examples, packing)]
    missing = [empty_batch(packing) for _ in range(at_least - len(cut))]
    return [*(collate(rows, packing.layout, multiple) for rows in cut), *missing]


def cut_batches(examples: Sequence[EncodedExample], packing: Packing) -> list[list[Row]]:
    """Which examples, by their places, share a row and a batch: rows of each batch; in rows layout a row is an example."""
    tokens = packing.tokens
    if packing.layout == "packed":
        lengths = [example.packed_tokens for example in examples]
        if packing.row_tokens is None:
            return [[row] for row in level_rows(pack_rows(lengths, tokens), lengths)]
        # Rows as long as the longest example that fits hold several of the shorter ones; an outlier gets a row of its own.
        capacity = max([min(packing.row_tokens, tokens), *(length for length in lengths if length <= tokens)])
        return group_rows(pack_rows(lengths, capacity), lengths, tokens)
    widths = [_longest_branch(example) for example in examples]
    batches: list[list[Row]] = []
    rows = width = 0
    for item in sorted(range(len(examples)), key=lambda i: -widths[i]):
        added = len(examples[item].completion_ids)
        if batches and (rows + added) * width <= tokens:
            batches[-1].append([item])
            rows += added
        else:
            batches.append([[item]])
            rows, width = added, widths[item]
    return batches


def empty_batch(packing: Packing) -> PackedBatch:
    """A batch of one token and no example: a forward pass of which every sum is 0.

    Where weights are cut between processes, all of them must run the same number of passes.
    """
    width = packing.multiple if packing.layout == "packed" else 1
    none = torch.zeros(0, dtype=torch.int64)
    zeros = torch.zeros(1, width, dtype=torch.int64)
    owners = torch.full((1, width), -1, dtype=torch.int32)
    owners[0, 0] = 0  # a row without any token is nothing that a model knows
    return PackedBatch(
        input_ids=zeros,
        position_ids=zeros.clone(),
        example_ids=owners,
        branch_ids=torch.zeros(1, width, dtype=torch.int32),
        predictor_index=none,
        target_ids=none.clone(),
        completion_index=none.clone(),
        terminal_index=none.clone(),
        prompt_index=none.clone(),
        example_index=none.clone(),
        example_keys=(),
        completion_counts=(),
        margins=(),
        ranks=(),
        desirable=(),
        ratings={},
        sources=(),
        layout=packing.layout,
    )


def collate(rows: Sequence[Sequence[EncodedExample]], layout: Layout, multiple: int = 1) -> PackedBatch:
    """One batch from examples already assigned to rows, padded to a multiple; see `alignkit.batches` for a worked example."""
    builder = _Builder()
    for row in rows:
        if layout == "packed":
            builder.start_row()
        for example in row:
            builder.add(example, layout)
    return builder.finish(layout, multiple)


def _longest_branch(example: EncodedExample) -> int:
    return len(example.prompt_ids) + max(map(len, example.completion_ids))


class _Builder:
    def __init__(self) -> None:
        self.rows: list[list[tuple[int, int, int, int]]] = []  # of (token id, position, example, branch)
        self.predictors: list[tuple[int, int]] = []  # of (row, column)
        self.terminals: list[tuple[int, int]] = []
        self.targets: list[int] = []
        self.completion_index: list[int] = []
        self.example_index: list[int] = []
        self.prompts: list[tuple[int, int]] = []
        self.examples: list[EncodedExample] = []

    def start_row(self) -> None:
        self.rows.append([])

    def add(self, example: EncodedExample, layout: Layout) -> None:
        number = len(self.examples)
        self.examples.append(example)
        for branch, completion in enumerate(example.completion_ids, start=1):
            if layout == "rows":
                self.start_row()
            if layout == "rows" or branch == 1:
                prompt_end = self._prompt(example, number)
            if branch == 1:
                self.prompts.append((len(self.rows) - 1, prompt_end))
            self._completion(completion, number, branch, prompt_end, len(example.prompt_ids))

    def _prompt(self, example: EncodedExample, number: int) -> int:
        row = self.rows[-1]
        row.extend((token, position, number, 0) for position, token in enumerate(example.prompt_ids))
        return len(row) - 1

    def _completion(self, completion: tuple[int, ...], number: int, branch: int, prompt_end: int, position: int) -> None:
        row, row_number = self.rows[-1], len(self.rows) - 1
        predictor = prompt_end
        for offset, token in enumerate(completion):
            self.predictors.append((row_number, predictor))
            self.targets.append(token)
            self.completion_index.append(len(self.example_index))
            predictor = len(row)
            row.append((token, position + offset, number, branch))
        self.terminals.append((row_number, predictor))
        self.example_index.append(number)

    def finish(self, layout: Layout, multiple: int) -> PackedBatch:
        width = -(-max(map(len, self.rows)) // multiple) * multiple
        padding = (0, 0, -1, 0)
        table = torch.tensor([row + [padding] * (width - len(row)) for row in self.rows])  # [R, T, 4]
        ids, positions, examples, branches = (column.contiguous() for column in table.unbind(-1))

        def flat(places: list[tuple[int, int]]) -> torch.Tensor:
            return torch.tensor([row * width + column for row, column in places])

        return PackedBatch(
            input_ids=ids,
            position_ids=positions,
            example_ids=examples.to(torch.int32),
            branch_ids=branches.to(torch.int32),
            predictor_index=flat(self.predictors),
            target_ids=torch.tensor(self.targets),
            completion_index=torch.tensor(self.completion_index),
            terminal_index=flat(self.terminals),
            prompt_index=flat(self.prompts),
            example_index=torch.tensor(self.example_index),
            example_keys=tuple(example.key for example in self.examples),
            completion_counts=tuple(len(example.completion_ids) for example in self.examples),
            margins=tuple(example.margin for example in self.examples),
            ranks=tuple(rank for example in self.examples for rank in example.ranks or range(len(example.completion_ids))),
            desirable=tuple(label for example in self.examples for label in _labels(example)),
            ratings={attribute: self._ratings(attribute) for attribute in sorted({name for e in self.examples for name in e.ratings})},
            sources=tuple(example.source for example in self.examples),
            layout=layout,
        )

    def _ratings(self, attribute: str) -> tuple[float, ...]:
        unrated = math.nan
        return tuple(
            rating for example in self.examples for rating in example.ratings.get(attribute, (unrated,) * len(example.completion_ids))
        )


def _labels(example: EncodedExample) -> tuple[bool, ...]:
    return example.desirable or (True,) + (False,) * (len(example.completion_ids) - 1)
