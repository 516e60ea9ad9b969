"""The packed mask as FlexAttention's block mask, for GPUs: blocks that nobody looks at are never computed, and no [T, T]
matrix is ever made. On CPUs FlexAttention aborts the process (torch 2.13): `tiled_attention` is for them.

R rows   T tokens of a row
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from alignkit.batches import PackedBatch

BLOCK = 128


def block_mask(batch: PackedBatch) -> BlockMask:
    """Who sees whom, in blocks of `BLOCK` queries by `BLOCK` keys.

    A block is left out where no example of its queries is among those of its keys, or where all keys come later; it is
    full, and needs no mask inside, where all of its pairs are seen. Both follow from the first and last example and branch
    of each block, since examples lie in order.

    Raises:
        ValueError: when T is no multiple of `BLOCK`.
    """
    rows, tokens = batch.example_ids.shape
    if tokens % BLOCK:
        raise ValueError(f"rows of {tokens} tokens; block masks need a multiple of {BLOCK}")
    example, branch = batch.example_ids, batch.branch_ids

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same_branch = (branch[row, key] == 0) | (branch[row, key] == branch[row, query])
        return (key <= query) & (example[row, key] == example[row, query]) & same_branch

    # Padding is at a row's end, with example -1: as the largest number it keeps blocks in order. It needs to see itself only,
    # for a softmax over something.
    nobody = torch.iinfo(example.dtype).max
    owners = torch.where(example < 0, nobody, example).view(rows, -1, BLOCK)
    branches = branch.view(rows, -1, BLOCK)
    first, last = owners.amin(-1), owners.amax(-1)
    lowest, highest = branches.amin(-1), branches.amax(-1)
    blocks = torch.arange(tokens // BLOCK, device=example.device)
    earlier = blocks[:, None] > blocks[None, :]
    real = first < nobody
    overlap = (first[:, :, None] <= last[:, None, :]) & (first[:, None, :] <= last[:, :, None]) & real[:, :, None]
    met = (overlap & earlier) | (blocks[:, None] == blocks)
    one_example = (first[:, :, None] == last[:, None, :]) & (first[:, None, :] == last[:, :, None])
    one_branch = (lowest[:, :, None] == highest[:, None, :]) & (lowest[:, None, :] == highest[:, :, None])
    full = met & earlier & one_example & (one_branch | (highest[:, None, :] == 0))
    return BlockMask.from_kv_blocks(*_listed(met & ~full), *_listed(full), BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(tokens, tokens))


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Counts [R, 1, queries] and, first in each line, the numbers [R, 1, queries, keys] of the key blocks that are set."""
    order = blocks.to(torch.int32).argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[:, None], order.to(torch.int32)[:, None]
