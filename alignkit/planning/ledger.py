"""What is alive while something is computed, in bytes by what it is for."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, Self, cast, final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alignkit.planning.cutting import part_bytes

WEIGHTS = "weights"
REFERENCE = "reference"
COPIES = "copies of weights in bfloat16"
GRADIENTS = "gradients"
OPTIMIZER = "optimizer state"
ACTIVATIONS = "activations"
TEMPORARIES = "temporaries"

CPU = torch.device("cpu")


@final
class Ledger(TorchDispatchMode):
    """Counts the bytes of every storage from its first use to its end, while it is active."""

    def __init__(self, shards: int = 1, whole: Collection[torch.Size] = ()) -> None:
        """`shards`: ranks between which weights, gradients and optimizer state are cut. Here they are whole, and count in part; all but
        those of the shapes `whole`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._shards, self._whole = shards, whole
        self.kind = TEMPORARIES  # what new storages are for
        self.alive: Counter[str] = Counter()
        """Bytes by kind."""
        self.peak: Mapping[str, int] = {}
        """`alive` when its sum was greatest."""
        self._highest = self._total = 0
        self._kinds: dict[int, str] = {}
        self._sizes: dict[int, int] = {}
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __enter__(self) -> Self:
        gc.disable()  # half of the time otherwise
        return cast(Self, super().__enter__())  # type: ignore[no-untyped-call]

    def __exit__(self, *error: object) -> None:
        gc.enable()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def restart(self) -> None:
        """Forget the peak, not what is alive."""
        self.peak, self._highest = {}, 0

    def enter(self, tensor: Tensor, kind: str) -> None:
        """Count a tensor's storage under `kind`, from now on or again."""
        storage = tensor.untyped_storage()
        number, size = id(storage), self._counted(tensor, kind)
        if number in self._storages:
            self._forget(number)
        else:

            def leave(_: object) -> None:
                self._forget(number)
                del self._storages[number]

            self._storages[number] = weakref.ref(storage, leave)
        self._kinds[number], self._sizes[number] = kind, size
        self.alive[kind] += size
        self._total += size
        if self._total > self._highest:
            self._highest, self.peak = self._total, dict(self.alive)

    def _forget(self, number: int) -> None:
        size = self._sizes.pop(number)
        self.alive[self._kinds.pop(number)] -= size
        self._total -= size

    def _counted(self, tensor: Tensor, kind: str) -> int:
        is_weight = kind in (WEIGHTS, REFERENCE) and isinstance(tensor, nn.Parameter)
        if self._shards > 1 and (is_weight or kind in (GRADIENTS, OPTIMIZER)) and tensor.shape not in self._whole:
            return part_bytes(tensor, self._shards)
        return tensor.untyped_storage().nbytes()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # two of three calls, and slow
            return CPU
        result = func(*args, **(kwargs or {}))
        for tensor in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in self._storages:
                # Autocast keeps what it casts, for the rest of the step.
                is_cast = func is torch.ops.aten._to_copy.default and self._kinds.get(id(args[0].untyped_storage())) in (WEIGHTS, REFERENCE)
                self.enter(tensor, COPIES if is_cast else self.kind)
        return result
