"""The models of a run, cut between its processes where `hardware=` asks for it, and put together again."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from alignkit.assembly import Job, load_backbone
from alignkit.errors import UserError
from alignkit.hardware import device_kind
from alignkit.models.adapters import add_adapters
from alignkit.models.backbone import Backbone
from alignkit.models.sharding import full_weights, shard, why_not_sharded
from alignkit.models.tensor_parallel import cut_products
from alignkit.modules.stepping import SteppingModule
from alignkit.settings import HardwareSettings, RunSettings


def cut_models(settings: RunSettings, module: SteppingModule) -> None:
    """Cut policy, reference and value trunk in place; nothing where each process is to hold them whole. Heads stay whole.

    Raises:
        UserError: when a model cannot be cut.
    """
    hardware = settings.hardware
    if hardware.processes == 1 or hardware.strategy not in ("fsdp", "tensor_parallel"):
        return
    mesh = mesh_of(hardware)
    for backbone in trunks(module):
        why = why_not_sharded(backbone)
        if why is not None:
            raise UserError(f"hardware.strategy = {hardware.strategy!r}: {why}. Type hardware=ddp.")
        cut_products(backbone, mesh["tensor_parallel"])
        shard(backbone, mesh["data_parallel"], precision=settings.precision.lightning)
    module.mesh = mesh


def mesh_of(hardware: HardwareSettings) -> DeviceMesh:
    """All processes, `data_parallel` by `tensor_parallel`: those that hold one model together are neighbours."""
    shape = (hardware.readers, hardware.tensor_parallel)
    return init_device_mesh(device_kind(hardware.accelerator), shape, mesh_dim_names=("data_parallel", "tensor_parallel"))


def trunks(module: SteppingModule) -> Iterator[Backbone]:
    """Every language model of a module, each once."""
    seen: set[int] = set()
    for backbone in (module.backbone, *module.other_trunks()):
        if id(backbone) not in seen:
            seen.add(id(backbone))
            yield backbone


def whole_policy(settings: RunSettings, job: Job) -> Backbone | None:
    """The policy with all of its weights, on the first process; None on the others. All processes call it."""
    if job.module.mesh is None:
        return job.module.backbone
    weights: dict[str, Tensor] = full_weights(job.module.backbone)
    if not weights or job.module.mesh.get_rank() != 0:
        return None
    backbone = load_backbone(settings, "model.path", job.inputs.path)
    if settings.model.adapter is not None:
        add_adapters(backbone, settings.model.lora)
    backbone.load_state_dict(weights)
    return backbone
