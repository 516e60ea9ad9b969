"""Checks that several processes make together: functions, one after the other, and what they compare with.

`test_sharding.py` starts the processes; the first writes a line of JSON for each check.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable

import torch
import torch.distributed
from conftest import build_examples
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from alignkit.batches import PackedBatch
from alignkit.data.collate import collate
from alignkit.logps import completion_sums
from alignkit.models.backbone import Backbone

CHECKS: dict[str, Callable[[], None]] = {}
TOLERANCE = 1e-9
FLOAT64 = torch.float64
"""So that an error of sums that are taken in another order is far from any other."""
EXAMPLES = build_examples(8)


def check(*variants: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function, or one for each variant, a check."""

    def keep(function: Callable[..., None]) -> Callable[..., None]:
        for variant in variants:
            CHECKS[f"{function.__name__}[{variant}]"] = lambda variant=variant: function(variant)
        if not variants:
            CHECKS[function.__name__] = function
        return function

    return keep


def run_checks() -> None:
    """All of them, on all processes; a check fails where it fails on any."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    for name, function in CHECKS.items():
        error, begun = "", time.perf_counter()
        try:
            function()
        except Exception:
            error = traceback.format_exc()
        errors: list[str] = [""] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(errors, error)
        if torch.distributed.get_rank() == 0:
            seconds = round(time.perf_counter() - begun, 2)
            print(json.dumps({"check": name, "errors": errors, "seconds": seconds}), flush=True)
    torch.distributed.destroy_process_group()


def mesh(dimension: str = "data_parallel") -> DeviceMesh:
    """All processes."""
    return init_device_mesh("cpu", (torch.distributed.get_world_size(),), mesh_dim_names=(dimension,))


def shares(layout: str = "packed") -> list[PackedBatch]:
    """The examples of each process."""
    ranks = torch.distributed.get_world_size()
    return [collate([EXAMPLES[rank::ranks]], layout) for rank in range(ranks)]  # type: ignore[arg-type]


def share(layout: str = "packed") -> PackedBatch:
    """This process's examples."""
    return shares(layout)[torch.distributed.get_rank()]


def loss_of(backbone: Backbone, batch: PackedBatch, head: nn.Module | None = None) -> Tensor:
    """Some function of token log-probs, entropies and terminal states, so that all paths to the weights count."""
    hidden = backbone.hidden_states(batch)
    logps = backbone.token_scores(hidden, batch).logps
    sums = completion_sums(logps, batch.completion_index, batch.completions)
    states = hidden[batch.terminal_index]
    loss = sums.sin().sum() + states.square().mean(-1).sum() + backbone.token_entropies(hidden, batch).sum()
    return loss if head is None else loss + head(states).sum()


def assert_near(found: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    """Whatever is cut is put together first."""
    found = found.full_tensor() if isinstance(found, DTensor) else found
    error, scale = float((found - expected).abs().max()), max(1.0, float(expected.abs().max()))
    assert error <= tolerance * scale, f"{what}: off by {error} at {scale}"


def assert_same_gradients(cut: nn.Module, whole: nn.Module, tolerance: float = TOLERANCE, *, of: int = 1) -> None:
    """Gradients of a cut module are those of the whole one, which are sums over `of` processes where those of the cut one are means."""
    expected = dict(whole.named_parameters())
    for name, parameter in cut.named_parameters():
        theirs = expected[name].grad
        assert (parameter.grad is None) == (theirs is None), name
        if parameter.grad is not None and theirs is not None:
            assert_near(parameter.grad, theirs / of, name, tolerance)


def assert_all_cut(module: nn.Module) -> None:
    """Nothing stays gathered."""
    assert all(isinstance(parameter, DTensor) for parameter in module.parameters())
