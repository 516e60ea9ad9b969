"""One of several processes that take steps of plans for real, and tell in JSON what they hold, send and need.

python planned_ranks.py '[["fsdp", ["loss=dpo", ...]], ...]'        as a launcher of torch.distributed starts it
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import nullcontext
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alignkit.assembly import plan_packing, read_inputs
from alignkit.command_line import precheck
from alignkit.hardware import keep_freed_memory
from alignkit.models.backbone import Backbone
from alignkit.models.sharding import shard
from alignkit.models.tensor_parallel import cut_products
from alignkit.modules.alignment import AlignmentModule
from alignkit.planning.load import read_load, run_steps
from alignkit.random_module import build_module, module_optimizer, precision_plugin

SENT = {"_allgather_base_": "all-gather", "_reduce_scatter_base_": "reduce-scatter", "allreduce_": "all-reduce", "all_reduce": "all-reduce"}


class Sent(TorchDispatchMode):
    """Counts what collectives gather, scatter and sum, in bytes: the larger side of each."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = SENT.get(func._opname) if func.namespace in ("c10d", "_c10d_functional") else None
        if kind is not None:
            self.bytes[kind] += max(leaf.nbytes for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
        return func(*args, **(kwargs or {}))


def cut(module: AlignmentModule, strategy: str, precision: str) -> None:
    """Cut all models of a module between two processes."""
    mesh = init_device_mesh("cpu", (2,))
    for backbone in [part for part in module.modules() if isinstance(part, Backbone)]:
        if strategy == "fsdp":
            shard(backbone, mesh, precision=precision)
        elif strategy == "tensor_parallel":
            cut_products(backbone, mesh)


def held(tensors: list[Tensor]) -> int:
    """Bytes of this process's parts, filling included: whole storages."""
    parts = [tensor._local_tensor if hasattr(tensor, "_local_tensor") else tensor for tensor in tensors]
    return sum({part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}.values())


def highest(told: profile) -> int:
    """Bytes of tensors at the highest, above those alive when the profiler came."""
    changes = (event.nbytes() for event in told.profiler.kineto_results.events() if event.name() == "[memory]")
    return max(accumulate(changes))


def take_step(strategy: str, overrides: list[str]) -> dict[str, Any]:
    """Two micro-batches, each with an update, under `fsdp`, `ddp` or `tensor_parallel`; counted in the second one."""
    (settings,) = precheck(overrides)
    inputs = read_inputs(settings)
    torch.manual_seed(0)
    checkpointing = settings.model.checkpointing == "full"
    module = build_module(settings, inputs, inputs.config, checkpointing=checkpointing, mode=nullcontext())
    batch = read_load(run_steps(settings, inputs, plan_packing(settings.batch, module.backbone))).heaviest[0]
    cut(module, strategy, settings.precision.lightning)
    whole = held([*module.parameters(), *module.buffers()])
    copy = None
    if strategy == "ddp":
        module.forward = lambda batch: module.evaluate(batch).sum()  # what DistributedDataParallel calls
        copy = DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)
    optimizer = module_optimizer(settings, module)
    with precision_plugin(settings, "cpu").forward_context():
        for _ in range(2):  # in the second one the optimizer's state is there
            optimizer.zero_grad()
            kept = held([tensor for values in optimizer.state.values() for tensor in values.values() if isinstance(tensor, Tensor)])
            with Sent() as sent, profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
                (module.evaluate(batch).sum() if copy is None else copy(batch)).backward()
                for parameter in module.heads.parameters() if strategy == "fsdp" else ():
                    torch.distributed.all_reduce(parameter.grad)  # what is not cut
                optimizer.step()
    policy = [tensor for part in (module.backbone, module.heads) for tensor in (*part.parameters(), *part.buffers())]
    return {
        "weights": held(policy),
        "gradients": held([tensor.grad for tensor in policy if tensor.grad is not None]),
        "optimizer state": held(
            [tensor for values in optimizer.state.values() for tensor in values.values() if isinstance(tensor, Tensor)]
        ),
        "sent": sent.bytes,
        "peak": whole + kept + highest(told),
    }


def main() -> None:
    torch.distributed.init_process_group("gloo")
    keep_freed_memory()
    told = [take_step(strategy, overrides) for strategy, overrides in json.loads(sys.argv[1])]
    print("told", json.dumps(told), flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
