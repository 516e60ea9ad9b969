"""How a trunk is cut, at any number of processes: in one process, which torch's fake process group lets be one of many."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from alignkit.data.collate import collate
from alignkit.errors import UserError
from alignkit.model_settings import AdapterSettings
from alignkit.models.adapters import add_adapters
from alignkit.models.backbone import Backbone
from alignkit.models.sharding import full_weights, is_sharded, load_full_weights, shard, why_not_sharded
from alignkit.models.tensor_parallel import cut_products, why_not_cut
from alignkit.modules.gradients import holders


@pytest.fixture
def meshes() -> Iterator[Callable[..., DeviceMesh]]:
    """Meshes of processes of which this is the first; the others answer with whatever is there."""

    def build(*shape: int) -> DeviceMesh:
        size = torch.Size(shape).numel()
        torch.distributed.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
        return init_device_mesh("cpu", shape, mesh_dim_names=("data_parallel", "tensor_parallel")[-len(shape) :])

    yield build
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def held(module: nn.Module) -> int:
    """Parameters that this process holds."""
    return sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in module.parameters())


def adapted(backbone: Backbone) -> Backbone:
    return add_adapters(backbone, AdapterSettings(rank=2, alpha=4.0, dropout=0.0, targets=None, export="merged"))


@pytest.mark.parametrize("processes", [8, 64, 1024])
def test_the_first_process_holds_the_first_rows_of_every_weight(processes, meshes, lm_factory):
    backbone = Backbone(lm_factory("llama"))
    whole = {name: parameter.detach().clone() for name, parameter in backbone.named_parameters()}
    cut = shard(backbone, meshes(processes), precision="32-true")
    assert is_sharded(cut)
    for name, parameter in cut.named_parameters():
        assert isinstance(parameter, DTensor)
        assert parameter.shape == whole[name].shape
        rows = -(-whole[name].shape[0] // processes)  # torch gives the first processes the larger chunks
        assert torch.equal(parameter.to_local(), whole[name][:rows]), name


def test_eight_processes_hold_an_eighth_of_layers_whose_rows_they_divide(meshes, lm_factory):
    layer = (backbone := Backbone(lm_factory("llama"))).layers()[0]
    parameters = sum(parameter.numel() for parameter in layer.parameters())
    shard(backbone, meshes(8), precision="32-true")
    assert held(layer) * 8 == parameters


@pytest.mark.parametrize("build", [lambda backbone: backbone, adapted, lambda backbone: backbone.checkpoint_activations()])
@pytest.mark.parametrize("processes", [8, 1024])
def test_forward_and_backward_run_and_leave_gradients_as_the_weights_are_cut(build, processes, meshes, lm_factory, examples_factory):
    # Zeros instead of what others would have said: the numbers mean nothing, shapes and hooks do.
    cut = shard(build(Backbone(lm_factory("llama"))), meshes(processes), precision="32-true")
    batch = collate([examples_factory(3)], "packed")
    cut.token_scores(cut.hidden_states(batch), batch).logps.sum().backward()
    for name, parameter in cut.named_parameters():
        assert isinstance(parameter, DTensor), name
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.grad is not None:
            assert parameter.grad.to_local().shape == parameter.to_local().shape


@pytest.mark.parametrize(("data", "tensor"), [(4, 2), (32, 2), (512, 2)])
def test_both_cuts_at_once(data, tensor, meshes, lm_factory):
    mesh = meshes(data, tensor)
    backbone = Backbone(lm_factory("llama"))
    layer = sum(parameter.numel() for parameter in backbone.layers()[0].parameters() if parameter.ndim == 2)
    cut = shard(cut_products(backbone, mesh["tensor_parallel"]), mesh["data_parallel"], precision="32-true")
    matrices = {name: p for name, p in cut.layers()[0].named_parameters() if p.ndim == 2}
    assert all(isinstance(p, DTensor) and p.device_mesh.ndim == 2 for p in matrices.values())
    assert sum(p.numel() for p in matrices.values()) == layer, "as a whole they are what they were"
    query = matrices["self_attn.q_proj.weight"]
    assert query.to_local().shape == (max(1, 32 // tensor // data), 32)
    groups = [mesh["data_parallel"].get_group(), mesh["tensor_parallel"].get_group()]
    assert list(holders(query)) == groups, "a norm is summed over both"
    assert list(holders(cut.layers()[0].input_layernorm.weight)) == groups[:1]


@pytest.mark.parametrize("processes", [1])
def test_one_process_holds_everything_as_it_was(processes, meshes, lm_factory):
    backbone = Backbone(lm_factory("llama"))
    mesh = meshes(1, processes)
    same = shard(cut_products(backbone, mesh["tensor_parallel"]), mesh["data_parallel"], precision="32-true")
    assert same is backbone
    assert not is_sharded(same)
    assert not any(isinstance(parameter, DTensor) for parameter in same.parameters())


def test_full_weights_of_what_is_not_cut_are_its_state(lm_factory):
    backbone = Backbone(lm_factory("gpt2"))
    weights = full_weights(backbone)
    assert weights.keys() == backbone.state_dict().keys()
    load_full_weights(backbone, {name: weight * 2 for name, weight in weights.items()})
    assert torch.equal(backbone.lm.transformer.wpe.weight, full_weights(backbone)["lm.transformer.wpe.weight"])


def test_a_model_whose_layers_are_not_known_is_not_cut(lm_factory):
    backbone = Backbone(lm_factory("llama"))
    assert why_not_sharded(backbone) is None
    backbone.layers = lambda: []  # type: ignore[method-assign]
    assert "layers of a LlamaForCausalLM are not known" in (why_not_sharded(backbone) or "")


def test_weights_of_whole_numbers_are_not_cut(lm_factory):
    backbone = Backbone(lm_factory("llama"))
    backbone.lm.model.norm.weight = nn.Parameter(torch.ones(32, dtype=torch.uint8), requires_grad=False)
    assert why_not_sharded(backbone) == "its weights are quantized"


@pytest.mark.parametrize(
    ("name", "processes", "said"),
    [
        ("llama", 3, r"4 attention heads, 2 key and value heads, 48 inner features.*Type hardware.tensor_parallel=2"),
        ("gpt_neox", 3, r"Type hardware.tensor_parallel=4; of 2, 4"),
        ("gpt2", 2, r"transformers knows no way to cut a GPT2LMHeadModel. Type hardware=fsdp"),
        ("qwen3", 2, r"a Qwen3ForCausalLM asks for replicated_with_grad_allreduce.* Type hardware=fsdp"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_what_can(name, processes, said, meshes, lm_factory):
    if name == "qwen3":
        from transformers import Qwen3Config, Qwen3ForCausalLM

        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
        lm = Qwen3ForCausalLM(Qwen3Config(vocab_size=97, head_dim=8, **sizes))
    else:
        lm = lm_factory(name)
    with pytest.raises(UserError, match=said):
        cut_products(Backbone(lm), meshes(processes))


def test_adapters_are_not_cut_by_products(lm_factory):
    backbone = Backbone(lm_factory("llama"))
    assert why_not_cut(backbone, 2) is None
    assert "model.adapter=null" in (why_not_cut(adapted(backbone), 2) or "")
