"""What a plan says of two ranks, against two ranks."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import pytest

from alignkit.assembly import plan_packing, read_inputs
from alignkit.command_line import precheck
from alignkit.forecast import share_of
from alignkit.models.location import locate
from alignkit.planning.communication import measure_communication
from alignkit.planning.devices import PlanSettings
from alignkit.planning.gathering import gathered_parts
from alignkit.planning.ledger import GRADIENTS, OPTIMIZER, WEIGHTS
from alignkit.planning.load import read_load, run_steps
from alignkit.rehearsal import Rehearsal

SCRIPT = Path(__file__).with_name("planned_ranks.py")
DATA = ("dataset.pairs=48", "dataset.validation_examples=8", "batch.pairs=8", "steps=2", "schedule.warmup_steps=0", "hardware.threads=1")
DIVISIBLE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
LARGE = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "num_hidden_layers": 6,
}
CASES = {
    "dpo": ("fsdp", ["loss=dpo", "reference=memory"]),
    "large": ("fsdp", ["loss=sft", "large"]),  # not the first: by then all libraries are loaded
    "head": ("fsdp", ["loss=con_dph", "model.checkpointing=full", "precision=bf16_true"]),
    "half": ("fsdp", ["loss=dpo", "reference=memory", "precision=bf16"]),
    "adapters": ("fsdp", ["loss=dpo", "model.adapter=lora", "reference=memory"]),
    "copies": ("ddp", ["loss=con_dph"]),
    "products": ("tensor_parallel", ["loss=dpo", "reference=memory", "precision=bf16", "divisible"]),
    "products again": ("tensor_parallel", ["loss=sft", "model.checkpointing=full", "divisible"]),
}


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One case, planned and measured."""

    held: dict[str, int]
    """Planned, between micro-batches, bytes by kind."""
    sent: dict[str, int]
    """Planned, in a step of one micro-batch, bytes by collective."""
    peak: int
    """Planned, bytes of tensors in a step."""
    ranks: list[dict[str, Any]]
    """Measured."""


@pytest.fixture(scope="module")
def compared(run_ranks: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Compared]:
    """All cases, by name, in one pair of processes."""
    folders = {name: weightless(tmp_path_factory.mktemp(name), sizes) for name, sizes in (("divisible", DIVISIBLE), ("large", LARGE))}
    cases = {name: (strategy, typed(strategy, overrides, folders)) for name, (strategy, overrides) in CASES.items()}
    outputs = run_ranks(SCRIPT, json.dumps(list(cases.values())), timeout=400)
    told = [json.loads(line.removeprefix("told ")) for output in outputs for line in output.splitlines() if line.startswith("told ")]
    return {name: planned(overrides, [rank[place] for rank in told]) for place, (name, (_, overrides)) in enumerate(cases.items())}


def weightless(folder: Path, sizes: dict[str, int]) -> Path:
    """A model of other sizes, without weights."""
    shutil.copytree(locate("model.path", "builtin:tiny"), folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | sizes))
    return folder


def typed(strategy: str, overrides: list[str], folders: dict[str, Path]) -> list[str]:
    """The whole command line of a case."""
    models = [option for name in overrides if name in folders for option in ("model=hf", f"model.path={folders[name]}")]
    return [*DATA, f"hardware={strategy}", "hardware.accelerator=cpu", *(name for name in overrides if name not in folders), *models]


def planned(overrides: list[str], ranks: list[dict[str, Any]]) -> Compared:
    """What the plan counts for a step of one micro-batch."""
    (settings,) = precheck(overrides)
    inputs = read_inputs(settings)
    checkpointing = settings.model.checkpointing == "full"
    rehearsal = Rehearsal(settings, inputs, plan_packing, checkpointing=checkpointing, share=share_of(settings.hardware))
    load = read_load(run_steps(settings, inputs, rehearsal.packing))
    one = replace(load, first=[replace(load.first[0], micro_batches=load.heaviest[:1])], heaviest=load.heaviest[:1])
    rings = measure_communication(settings.hardware, PlanSettings(), "cpu", rehearsal, one)
    sent = sum((ring.bytes for ring in (rings.hidden, rings.between) if ring is not None), Counter())
    return Compared(
        held={kind: rehearsal.held()[kind] for kind in (WEIGHTS, GRADIENTS, OPTIMIZER)},
        sent={kind: count for kind, count in sent.items() if count},
        peak=sum((Counter(rehearsal.step_peak(one.heaviest[0], first=True)) + Counter(gathered_parts(rehearsal))).values()),
        ranks=ranks,
    )


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_hold_and_send_what_was_planned_to_the_byte(case: str, compared: dict[str, Compared]) -> None:
    plan = compared[case]
    assert len(plan.ranks) == 2
    for rank in plan.ranks:
        assert {kind: rank[kind] for kind in plan.held} == plan.held
        assert rank["sent"] == plan.sent


@pytest.mark.parametrize("case", CASES)
def test_tensors_of_two_ranks_peak_where_the_plan_says_within_a_fifth(case: str, compared: dict[str, Compared]) -> None:
    plan = compared[case]
    for rank in plan.ranks:
        assert 0.8 < rank["peak"] / plan.peak < 1.2
