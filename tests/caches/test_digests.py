"""A key changes with everything that a value depends on, and with nothing else."""

from __future__ import annotations

import dataclasses

import torch

from alignkit.caches import digests
from alignkit.caches.digests import example_digest, function_digest, numeric_mode
from alignkit.data.examples import EncodedExample
from alignkit.models.backbone import Backbone
from alignkit.models.reference import fingerprint

EXAMPLE = EncodedExample(key=3, prompt_ids=(5, 6, 7), completion_ids=((8, 9, 2), (10, 2)))


def test_every_change_of_tokens_or_of_their_roles_changes_the_digest():
    changes = [
        {"prompt_ids": (5, 6, 8)},
        {"prompt_ids": (5, 6)},  # a shorter max_length
        {"prompt_ids": (6, 7)},
        {"prompt_ids": (1, 5, 6, 7)},  # a beginning-of-text token
        {"prompt_ids": (5, 6), "completion_ids": ((7, 8, 9, 2), (10, 2))},  # another boundary
        {"completion_ids": ((10, 2), (8, 9, 2))},  # the other order
        {"completion_ids": ((8, 9), (2, 10, 2))},
        {"completion_ids": ((8, 9, 2),)},  # one completion
        {"completion_ids": ((8, 9, 2), (10, 2), (10, 2))},
        {"completion_ids": ((8, 9, 2), (10,))},  # cut
    ]
    found = {example_digest(dataclasses.replace(EXAMPLE, **change)) for change in changes}
    assert len(found | {example_digest(EXAMPLE)}) == len(changes) + 1


def test_what_a_model_does_not_read_does_not_change_the_digest():
    assert example_digest(dataclasses.replace(EXAMPLE, key=77, margin=2.5)) == example_digest(EXAMPLE)
    assert len(example_digest(EXAMPLE)) == 32


def key(backbone: Backbone) -> str:
    return function_digest(backbone, fingerprint(backbone))


def test_equal_models_have_equal_keys_wherever_they_were_loaded_from(architecture, lm_factory):
    first, second = (Backbone(lm_factory(architecture)) for _ in range(2))
    second.lm.config._name_or_path = "/elsewhere"
    second.lm.config.use_cache = not first.lm.config.use_cache
    assert key(first) == key(second)
    assert len(key(first)) == 32


def test_weights_config_class_and_code_are_part_of_the_key(lm_factory, monkeypatch):
    keys = [key(Backbone(lm_factory("llama")))]
    with torch.no_grad():
        other = lm_factory("llama")
        other.lm_head.weight[0, 0] += 1e-3
    keys.append(key(Backbone(other)))
    keys.append(key(Backbone(lm_factory("llama", dtype=torch.bfloat16))))
    keys.append(key(Backbone(lm_factory("qwen2"))))
    # what no weight says
    keys.append(key(Backbone(lm_factory("llama", rms_norm_eps=1e-2))))
    keys.append(key(Backbone(lm_factory("llama", rope_parameters={"rope_type": "default", "rope_theta": 500.0}))))
    eager = lm_factory("llama")
    eager.set_attn_implementation("eager")
    keys.append(key(Backbone(eager)))
    monkeypatch.setattr(digests.transformers, "__version__", "99")
    keys.append(key(Backbone(lm_factory("llama"))))
    assert len(set(keys)) == len(keys)


def test_precision_and_kind_of_device_are_part_of_the_mode(monkeypatch):
    modes = {
        numeric_mode(precision, torch.device(kind)) for precision in ("32-true", "bf16-mixed", "bf16-true") for kind in ("cpu", "cuda")
    }
    assert len(modes) == 6
    assert numeric_mode("32-true", torch.device("cuda", 0)) == numeric_mode("32-true", torch.device("cuda", 1)) == "32-true-cuda"
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert numeric_mode("32-true", torch.device("cuda")) == "32-true-cuda-high"
