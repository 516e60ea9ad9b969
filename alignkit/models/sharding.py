"""A trunk whose weights are cut between processes (FSDP2): a layer is whole only while it is computed.

    at rest      each process holds 1/n of each weight, of its gradient and of what the optimizer keeps of it
    forward      a layer's weights are gathered before it runs and let go after it
    backward     gathered again; its gradient is averaged over the processes, and each keeps its part

The trunk's root (embeddings, final norm, output embedding) is gathered with it and kept until the backward pass. Without gradient
nothing is kept. Each forward gathers, so all processes must run the same number of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from alignkit.models.backbone import Backbone

READ_VOCABULARY = ("token_scores", "token_entropies", "token_divergences")
"""Methods of a backbone that read the output embedding beside the trunk's own forward."""
GATHER = "gather_root"
"""A forward of nothing, for the gathering that belongs to it; torch takes whoever runs first for the root."""
_KEPT_WHOLE: WeakSet[Backbone] = WeakSet()


def why_not_sharded(backbone: Backbone) -> str | None:
    """Why the weights of a model cannot be cut, or None where they can."""
    if not backbone.layers():
        return f"the layers of a {type(backbone.lm).__name__} are not known, and only whole layers can be gathered"
    if not all(parameter.is_floating_point() for parameter in backbone.parameters()):
        return "its weights are quantized"
    return None


def shard(backbone: Backbone, mesh: DeviceMesh, *, precision: str, reshard: bool = True) -> Backbone:
    """Cut the weights of a trunk over the processes of `mesh`, in place; trained, partly trained and frozen ones alike.

    Adapters and `checkpoint_activations` come before, what was copied from it (references) too. Heads stay whole, and
    their gradients are for the caller to average. A mesh of one process changes nothing.

    Gradients are averaged over the processes in float32. Under `bf16-mixed` weights are gathered in float32 and autocast makes bf16 of
    them as on one device, so that the numbers are the same.

    Args:
        backbone: which has known layers (`why_not_sharded`).
        mesh: one dimension of it.
        precision: Lightning's name.
        reshard: whether layers are let go between forward and backward; else there is one gathering less, and more memory.
    """
    assert why_not_sharded(backbone) is None
    if mesh.size() == 1:
        return backbone
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32 if precision == "bf16-true" else None)
    for layer in backbone.layers():
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(backbone, mesh=mesh, mp_policy=policy)
    setattr(backbone, GATHER, lambda: None)
    for name in ("run", GATHER):
        register_fsdp_forward_method(backbone, name)
    _run_as_needed(backbone, reshard)
    for name in READ_VOCABULARY:
        _gather_around(backbone, name)
    return backbone


def is_sharded(backbone: Backbone) -> bool:
    """Whether `shard` has cut it."""
    return _root(backbone) is not None


@contextmanager
def whole_weights(backbone: Backbone) -> Iterator[None]:
    """Gather all weights once and keep them: for tokens that are drawn one after the other, of which processes may draw different numbers.

    All processes enter together. Without gradient; does nothing where nothing is cut.
    """
    root = _root(backbone)
    if root is None or backbone in _KEPT_WHOLE:
        yield
        return
    _KEPT_WHOLE.add(backbone)
    try:
        with torch.no_grad():
            root.set_reshard_after_forward(False)
            getattr(backbone, GATHER)()
            for layer in backbone.layers():
                if isinstance(layer, FSDPModule):
                    layer.unshard()
        yield
    finally:
        _KEPT_WHOLE.discard(backbone)
        root.reset_iter_state()


def full_weights(module: nn.Module) -> dict[str, Tensor]:
    """All weights of a module, gathered one after the other: on the CPU of the first process, empty on the others.

    All processes call it. Where nothing is cut it is the state of the module, on every process.
    """
    if not has_shards(module):
        return {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    state: dict[str, Tensor] = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))  # type: ignore[assignment]
    return state


def load_full_weights(module: nn.Module, weights: dict[str, Tensor], *, strict: bool = True) -> None:
    """Load whole weights, which each process has (a file that is mapped into memory will do): each takes its part."""
    if not has_shards(module):
        module.load_state_dict(weights, strict=strict)
        return
    set_model_state_dict(module, dict(weights), options=StateDictOptions(full_state_dict=True, strict=strict))


def has_shards(module: nn.Module) -> bool:
    """Whether any weight of a module is cut."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def _root(module: nn.Module) -> FSDPModule | None:
    return module if isinstance(module, FSDPModule) else None


def _run_as_needed(backbone: Backbone, reshard: bool) -> None:
    """Let a pass without gradient leave nothing gathered: whoever asks for parameters afterwards must see those that are cut."""
    run: Callable[..., Any] = backbone.run
    layers = [layer for layer in backbone.layers() if isinstance(layer, FSDPModule)]
    root = _root(backbone)
    assert root is not None

    @functools.wraps(run)
    def run_and_let_go(*args: Any, **kwargs: Any) -> Any:
        if backbone in _KEPT_WHOLE:
            return run(*args, **kwargs)
        kept = torch.is_grad_enabled()
        root.set_reshard_after_forward(not kept, recurse=False)
        for layer in layers:
            layer.set_reshard_after_forward(reshard or not kept, recurse=False)
        output = run(*args, **kwargs)
        if not any(parameter.requires_grad for parameter in backbone.parameters()):
            root.reset_iter_state()  # torch takes notes of each forward until a backward, which never comes
        return output

    backbone.run = run_and_let_go  # type: ignore[method-assign]


def _gather_around(backbone: Backbone, name: str) -> None:
    """Have a method find the root's weights whole, and its backward pass too."""
    method: Callable[..., Any] = getattr(backbone, name)
    root = _root(backbone)
    assert root is not None

    @functools.wraps(method)
    def with_vocabulary(*args: Any, **kwargs: Any) -> Any:
        was_cut = isinstance(backbone.lm.get_output_embeddings().weight, DTensor)
        root.unshard()
        output = method(*args, **kwargs)
        graph = [tensor for tensor in ([output] if isinstance(output, Tensor) else output) if tensor.requires_grad]
        for tensor in graph:
            # A pass without gradient may come in between and let go what this one has gathered.
            tensor.register_hook(lambda gradient: root.unshard())
        if was_cut and not graph:
            root.reshard()
        return output

    setattr(backbone, name, with_vocabulary)
