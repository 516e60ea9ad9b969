"""Attention over packed examples, tile by tile: no pair of tokens of different examples is ever multiplied.

A dense [T, T] mask makes a row of T tokens cost T * T products a head, of which an example of L tokens needs L * L / 2 at
most. Here every branch of an example is cut into tiles of queries, and each tile meets the keys it may see: the example's
prompt, and its own branch up to itself. What is left to mask is the triangle at the end of a tile, which is the same
everywhere.

R rows   T tokens of a row   H query heads   G key and value heads   D head width
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignkit.batches import PackedBatch

TILE = 256
"""Queries of a tile: long enough for fast products, short enough that half a triangle of them is little waste."""
KEPT_KEYS = 512
"""Attention weights of tiles with at most so many keys are kept for the backward pass, longer ones are computed again: memory
grows with the tokens, not with their square."""


class Tile(NamedTuple):
    """Queries [begin, end) of a row, which see keys [prefix_begin, prefix_end) whole and [own_begin, end) causally."""

    begin: int
    end: int
    prefix_begin: int
    prefix_end: int
    own_begin: int


def tile_table(batch: PackedBatch, tile: int = TILE) -> Tensor:
    """The tiles of a batch, [1, 1, tiles, 5] int64 on the CPU; positions are those of all rows, one after the other.

    It travels through the language model in the place of the 4-D mask, which every model hands to its attention untouched.
    """
    example, branch = batch.example_ids.flatten().cpu(), batch.branch_ids.flatten().cpu()
    starts = torch.ones(len(example), dtype=torch.bool)
    # The first completion continues its prompt: one branch with it.
    joined = (branch[1:] == branch[:-1]) | ((branch[1:] == 1) & (branch[:-1] == 0))
    starts[1:] = (example[1:] != example[:-1]) | ~joined
    begins = starts.nonzero()[:, 0].tolist()
    tiles: list[Tile] = []
    prompt_begin = prompt_end = 0
    for begin, end in zip(begins, [*begins[1:], len(example)], strict=True):
        if branch[begin] == 0:
            prompt_begin, prompt_end = begin, begin + int((branch[begin:end] == 0).sum())
            prefix = (begin, begin)
        else:
            prefix = (prompt_begin, prompt_end)
        tiles += (Tile(first, min(first + tile, end), *prefix, begin) for first in range(begin, end, tile))
    return torch.tensor(tiles)[None, None]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def tiled_attention(query: Tensor, key: Tensor, value: Tensor, table: Tensor, scale: float) -> Tensor:
    """Attention of packed rows.

    Args:
        query: [R, H, T, D].
        key: [R, G, T, D].
        value: as key.
        table: what `tile_table` made.
        scale: of the products.

    Returns:
        [R, T, H, D] in the inputs' dtype; products run in it, the gradient of keys and values is summed in float32.
    """
    flat = (states.transpose(0, 1).flatten(1, 2) for states in (query, key, value))
    tiles = [Tile(*row) for row in table[0, 0].tolist()]
    output: Tensor = _TiledAttention.apply(*flat, tiles, scale)  # type: ignore[no-untyped-call]
    return output.view(query.shape[0], -1, *output.shape[1:])


class _TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, tiles: list[Tile], scale: float) -> Tensor:
        heads, tokens, width = query.shape
        groups = key.shape[0]
        query = query.view(groups, heads // groups, tokens, width)
        output = query.new_empty(tokens, groups, heads // groups, width)
        triangle = _triangle(max(tile.end - tile.begin for tile in tiles), query.dtype)
        weights = []
        for tile in tiles:
            probabilities = _probabilities(query, _seen(key, tile), tile, triangle, scale)
            mixed = torch.bmm(probabilities, _seen(value, tile))
            output[tile.begin : tile.end] = mixed.view(groups, heads // groups, -1, width).permute(2, 0, 1, 3)
            weights.append(probabilities if probabilities.shape[-1] <= KEPT_KEYS else None)
        ctx.save_for_backward(query, key, value, *weights)
        ctx.tiles, ctx.scale = tiles, scale
        return output.view(tokens, heads, width)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *weights = ctx.saved_tensors
        groups, share, tokens, width = query.shape
        gradient = gradients[0].view(tokens, groups, share, width)
        grad_query = torch.empty_like(query)
        # A prompt's keys collect a gradient from every completion: sums of bf16 products are float32.
        sums = torch.promote_types(torch.float32, key.dtype)
        grad_key, grad_value = torch.zeros_like(key, dtype=sums), torch.zeros_like(value, dtype=sums)
        triangle = _triangle(max(tile.end - tile.begin for tile in ctx.tiles), query.dtype)
        for tile, kept in zip(ctx.tiles, weights, strict=True):
            keys, values = _seen(key, tile), _seen(value, tile)
            probabilities = _probabilities(query, keys, tile, triangle, ctx.scale) if kept is None else kept
            rows = slice(tile.begin, tile.end)
            outer = gradient[rows].permute(1, 2, 0, 3).reshape(groups, -1, width)
            _add(grad_value, tile, torch.bmm(probabilities.transpose(1, 2), outer))
            change = torch.bmm(outer, values.transpose(1, 2))
            change = torch._softmax_backward_data(change, probabilities, -1, change.dtype).mul_(ctx.scale)
            grad_query[:, :, rows] = torch.bmm(change, keys).view(groups, share, -1, width)
            _add(grad_key, tile, torch.bmm(change.transpose(1, 2), query[:, :, rows].reshape(groups, -1, width)))
        return grad_query.view(-1, tokens, width), grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


def _probabilities(query: Tensor, keys: Tensor, tile: Tile, triangle: Tensor, scale: float) -> Tensor:
    """[G, H / G * queries, keys]"""
    groups, share, _, width = query.shape
    count = tile.end - tile.begin
    queries = (query[:, :, tile.begin : tile.end] * scale).reshape(groups, -1, width)
    scores = torch.bmm(queries, keys.transpose(1, 2))
    scores.view(groups, share, count, -1)[..., -count:] += triangle[:count, :count]
    return scores.softmax(-1)


def _seen(states: Tensor, tile: Tile) -> Tensor:
    """The keys or values [G, keys, D] of a tile."""
    own = states[:, tile.own_begin : tile.end]
    if tile.prefix_end == tile.prefix_begin:
        return own
    return torch.cat([states[:, tile.prefix_begin : tile.prefix_end], own], 1)


def _add(total: Tensor, tile: Tile, part: Tensor) -> None:
    prefix = tile.prefix_end - tile.prefix_begin
    if prefix:
        total[:, tile.prefix_begin : tile.prefix_end] += part[:, :prefix]
    total[:, tile.own_begin : tile.end] += part[:, prefix:]


def _triangle(size: int, dtype: torch.dtype) -> Tensor:
    return torch.full((size, size), torch.finfo(dtype).min, dtype=dtype).triu_(1)
