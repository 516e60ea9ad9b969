"""What a plan says that each of 8 to 1,024 ranks holds, against models that are really cut: in one process, among torch's fake ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig

from alignkit.errors import UserError
from alignkit.models.backbone import Backbone
from alignkit.models.sharding import shard
from alignkit.models.skeleton import skeleton
from alignkit.models.tensor_parallel import cut_products
from alignkit.planning.cutting import cut_model, group_of, part_bytes, part_numel
from alignkit.planning.narrowing import check_narrow, narrowed, with_layers


@pytest.fixture
def mesh_of() -> Iterator:
    """A mesh of so many ranks, of which this process is the first."""

    def build(ranks: int) -> DeviceMesh:
        torch.distributed.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
        return init_device_mesh("cpu", (ranks,))

    yield build
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("ranks", [8, 32, 100, 1024])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_rank_holds_what_was_planned(name, ranks, lm_factory, mesh_of):
    backbone = Backbone(lm_factory(name))
    planned = sum(part_bytes(parameter, ranks) for parameter in backbone.parameters())
    groups = cut_model(backbone, ranks).groups
    shard(backbone, mesh_of(ranks), precision="32-true")
    held = [parameter._local_tensor for parameter in backbone.parameters() if isinstance(parameter, DTensor)]
    assert sum({part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in held}.values()) == planned
    # All gathering together brings all parts of all ranks together.
    assert sum(group.gathered for group in groups) == ranks * planned


def test_a_large_model_without_values_is_cut_between_1024_ranks(mesh_of):
    sizes = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 16, "vocab_size": 32000}
    config = AutoConfig.for_model("llama", **sizes)
    backbone = skeleton("a llama", config)
    planned = [part_numel(parameter.shape, 1024) for parameter in backbone.parameters()]
    whole = sum(parameter.numel() for parameter in backbone.parameters())
    shard(backbone, mesh_of(1024), precision="32-true")
    assert [parameter._local_tensor.untyped_storage().nbytes() // 4 for parameter in backbone.parameters()] == planned
    # Rows of the MLP (2,816) fill 3 of 1,024 ranks up, those of the vocabulary (32,000) 32.
    assert 1 < 1024 * sum(planned) / whole < 1.1


def test_parts_are_filled_up():
    assert part_numel((10, 3), 4) == 9  # 3, 3, 3 and 1 rows
    assert part_numel((2, 3), 8) == 3
    assert part_numel((), 8) == 1
    frozen, trained = torch.nn.Parameter(torch.zeros(5, 2), requires_grad=False), torch.nn.Parameter(torch.zeros(8, dtype=torch.bfloat16))
    group = group_of([frozen, trained], 4)
    assert group.gathered == 4 * 2 * 2 * 4 + 8 * 2
    assert group.scattered == 8 * 4  # in float32, whatever the weights are


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_narrow_model_is_what_a_rank_of_tensor_parallelism_holds(name, lm_factory, mesh_of):
    lm = lm_factory(name)
    check_narrow(name, lm.config, 2)
    narrow = {key: parameter.shape for key, parameter in skeleton(name, narrowed(lm.config, 2)).named_parameters()}
    cut = cut_products(Backbone(lm), mesh_of(2))
    local = {
        key: (parameter.to_local() if isinstance(parameter, DTensor) else parameter).shape for key, parameter in cut.named_parameters()
    }
    assert narrow == local


def test_a_model_that_tensor_parallelism_cannot_cut_is_refused(lm_factory):
    with pytest.raises(UserError, match="2 key and value heads"):
        check_narrow("llama", lm_factory("llama").config, 4)
    with pytest.raises(UserError, match="hardware=fsdp"):
        check_narrow("gpt2", lm_factory("gpt2").config, 2)


def test_a_shallow_model_has_the_kinds_of_its_first_layers(lm_factory):
    config = lm_factory("gemma3_text").config
    assert with_layers(config, 1).layer_types == config.layer_types[:1]
    assert with_layers(config, 1).num_hidden_layers == 1
    assert config.num_hidden_layers == 2
