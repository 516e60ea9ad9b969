"""`failures/step-000123/`: a step that was not taken, kept so that it can be looked at: what it read, what was measured, what was random.

`failure.json` holds names and numbers, `tensors.safetensors` token ids, layout and random states. Nothing in them is code.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alignkit import ranks
from alignkit.batches import Counts, PackedBatch, StepBatch
from alignkit.errors import UserError

FORMAT = 1
"""Of the files; a reader refuses others."""
DESCRIPTION, TENSORS = "failure.json", "tensors.safetensors"
TENSOR_FIELDS = tuple(item.name for item in dataclasses.fields(PackedBatch) if item.type == "Tensor")
OTHER_FIELDS = tuple(item.name for item in dataclasses.fields(PackedBatch) if item.type != "Tensor")
SHOWN_KEYS = 8
"""Examples that a message names."""
Random = Mapping[str, Tensor]
"""States of torch's generators, by `cpu`, `cuda0`, ..."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What one rank knows of a step that was not taken."""

    batches: list[PackedBatch]
    losses: list[float]
    """Of each batch, its share of the step's loss; empty where the step ended before there were any."""
    random: Random
    """When the step began."""

    @property
    def bad(self) -> list[int]:
        """Places of the batches whose loss is not finite."""
        return [place for place, loss in enumerate(self.losses) if not math.isfinite(loss)]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A step that was not taken, of all ranks."""

    step: int
    """Its number, from 1: the weights are those of the step before."""
    batch: int
    """The place of its batch in the order of the data, from 0."""
    verdict: str
    why: str
    keys: tuple[int, ...]
    """The examples that are suspected, by their place among the loaded ones, from 0."""
    loss: float
    norm: float
    """Before clipping; NaN where there was no gradient yet."""
    rates: list[float]
    """Learning rate of each group of parameters."""
    shares: list[Share]
    """By rank."""
    counts: dict[str, Counts] = field(default_factory=dict)
    """Of the global batch by source, as `StepBatch` has them."""
    terms: dict[str, Any] = field(default_factory=dict)
    """What the objective's terms knew before the step."""
    rollout: Mapping[str, Any] | None = None
    """Of objectives that sample: the samples and what was known of them, as `Rollout.state` says it."""
    sampled: dict[str, float] = field(default_factory=dict)
    """Of objectives that sample: numbers that their loss reads besides."""
    prompts: tuple[int, ...] = ()
    """Of objectives that sample: for each prompt, in the order of its samples' keys, its place among the loaded examples."""

    def step_batch(self) -> StepBatch:
        """The whole step as one rank would have had it; counts are right, what is measured of work is not kept."""
        batches = [batch for share in self.shares for batch in share.batches]
        return StepBatch(micro_batches=batches, global_counts=self.counts, tokens=0, filled=0, mismatched=[])


@final
class FailureFiles:
    """Writes the failures of a run. All ranks call it, the first one writes."""

    def __init__(
        self,
        folder: Path,
        *,
        decode: Callable[[Sequence[int]], str],
        rows: Callable[[Sequence[int]], Mapping[int, str]],
        say: Callable[[str], None],
    ) -> None:
        """`folder`: of the run's failures. `decode`: token ids as text. `rows`: where the data hold examples, as far as they are rows;
        reads them once more. `say`: one line for the user, from the first rank."""
        self.folder = folder
        self.rows = rows
        self.say = say
        self._decode = decode

    def keep(self, failure: Failure) -> Path:
        """Where it is now. A disk that does not take it is told, and no reason to end a run that would go on."""
        place = self._place(failure)
        if ranks.is_first():
            try:
                self._write(failure, place)
            except OSError as error:
                self.say(f"step {failure.step}: the batch cannot be kept in {place} ({error.strerror})")
        return place

    def _place(self, failure: Failure) -> Path:
        """One that nothing else lies at: after a rollback there is another step of the same number."""
        name = f"step-{failure.step:06d}"
        for number in itertools.count(1):
            place = self.folder / (name if number == 1 else f"{name}-{number}")
            if not place.exists() or json.loads((place / DESCRIPTION).read_text(encoding="utf-8"))["batch"] == failure.batch:
                return place
        raise AssertionError("count() does not end")

    def _write(self, failure: Failure, place: Path) -> None:
        draft = place.with_name(f".{place.name}.part")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        save_file(tensors_of(failure), draft / TENSORS)
        text = json.dumps(self._description(failure), indent=1, ensure_ascii=False, allow_nan=False)
        (draft / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)
        draft.rename(place)

    def _description(self, failure: Failure) -> dict[str, Any]:
        plain = {item.name: getattr(failure, item.name) for item in dataclasses.fields(failure) if item.name not in ("shares", "rollout")}
        shares = [
            {"losses": share.losses, "random": sorted(share.random), "batches": [self._described(batch) for batch in share.batches]}
            for share in failure.shares
        ]
        counts = {source: list(of_source) for source, of_source in failure.counts.items()}
        rollout = None if failure.rollout is None else [list(example) for example in failure.rollout["examples"]]
        whole = {"format": FORMAT, "config": "../../config.yaml", **plain, "counts": counts, "rollout": rollout, "shares": shares}
        described: dict[str, Any] = as_json(whole)
        return described

    def _described(self, batch: PackedBatch) -> dict[str, Any]:
        texts = [{"prompt": self._decode(prompt), "completions": list(map(self._decode, ids))} for prompt, ids in examples_of(batch)]
        return {**{name: getattr(batch, name) for name in OTHER_FIELDS}, "texts": texts}


def tensors_of(failure: Failure) -> dict[str, Tensor]:
    """What `tensors.safetensors` holds: `rank0/batch1/input_ids`, `rank0/random/cpu`, `rollout/scores`."""
    tensors: dict[str, Tensor] = {}
    for rank, share in enumerate(failure.shares):
        tensors |= {f"rank{rank}/random/{name}": state for name, state in share.random.items()}
        for place, batch in enumerate(share.batches):
            tensors |= {f"rank{rank}/batch{place}/{name}": getattr(batch, name).cpu().contiguous() for name in TENSOR_FIELDS}
    for name, values in (failure.rollout or {}).items():
        if isinstance(values, Tensor):
            tensors[f"rollout/{name}"] = values.contiguous()
    return tensors


def examples_of(batch: PackedBatch) -> list[tuple[list[int], list[list[int]]]]:
    """Prompt and completions of each example as token ids, read from the layout."""
    ids, owners, branches = (part.flatten().cpu() for part in (batch.input_ids, batch.example_ids, batch.branch_ids))
    targets, index = batch.target_ids.cpu(), batch.completion_index.cpu()
    found, first = [], 0
    for example, count in enumerate(batch.completion_counts):
        prompt = ids[(owners == example) & (branches == 0)].tolist()
        copies = count if batch.layout == "rows" else 1  # one a completion, all the same
        completions = [targets[index == first + number].tolist() for number in range(count)]
        found.append((prompt[: len(prompt) // copies], completions))
        first += count
    return found


def read_failure(folder: Path, where: str = "failure") -> Failure:
    """What `FailureFiles` wrote.

    Raises:
        UserError: when there is no such folder, or its files are damaged or of another version.
    """
    description = folder / DESCRIPTION
    if not description.is_file():
        inside = sorted(path.parent for path in folder.glob(f"**/{DESCRIPTION}"))
        hint = f"Type one of those inside it, such as {where}={inside[0]}." if inside else "A run that skipped or stopped names its own."
        raise UserError(f"{where} = {folder}: holds no {DESCRIPTION}, so it is no failure that a run kept. {hint}")
    try:
        values = json.loads(description.read_text(encoding="utf-8"))
        found = values.get("format") if isinstance(values, dict) else None
        if found != FORMAT:
            raise UserError(f"{where} = {folder}: is of format {found!r}, and this alignkit reads {FORMAT}. Use the version that wrote it.")
        return _failure(values, load_file(folder / TENSORS))
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise UserError(f"{where} = {folder}: its files are damaged ({reason}). The run writes them anew where it fails again.") from None


def as_json(value: Any) -> Any:
    """The same of what JSON has words for: numbers that are not finite are the texts that `float` reads."""
    if isinstance(value, Mapping):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def suspects(why: str, shares: Sequence[Share], keys_of: Callable[[PackedBatch], tuple[int, ...]]) -> tuple[str, tuple[int, ...]]:
    """The same with the micro-batches and examples that it may be about, and those examples: of the micro-batches whose loss is not
    finite, or all."""
    bad = [(rank, place) for rank, share in enumerate(shares) for place in share.bad]
    whose = bad or [(rank, place) for rank, share in enumerate(shares) for place in range(len(share.batches))]
    keys = tuple(key for rank, place in whose for key in keys_of(shares[rank].batches[place]))
    of_rank = [f" of rank {rank}" * (len(shares) > 1) for rank in range(len(shares))]
    places = ", ".join(f"{place + 1} of {len(shares[rank].batches)}{of_rank[rank]}" for rank, place in bad)
    return f"{why}{f' in micro-batch {places}' * bool(bad)} ({named(keys)})", keys


def named(keys: Sequence[int]) -> str:
    """`examples 3, 12 and 4 more`, by their place among the loaded ones, from 0."""
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return f"example{'s' * (len(keys) != 1)} {', '.join(map(str, keys[:SHOWN_KEYS]))}{more}"


def on_cpu(batch: PackedBatch) -> PackedBatch:
    """The same in the processor's memory."""
    tensors = {name: getattr(batch, name).cpu() for name in TENSOR_FIELDS}
    return dataclasses.replace(batch, **tensors)


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Of the generators that a step draws from."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _failure(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Failure:
    shares = []
    for rank, share in enumerate(values["shares"]):
        batches = [_batch(batch, f"rank{rank}/batch{place}/", tensors) for place, batch in enumerate(share["batches"])]
        random = {name: tensors[f"rank{rank}/random/{name}"] for name in share["random"]}
        shares.append(Share(batches=batches, losses=list(map(float, share["losses"])), random=random))
    rollout = None
    if values["rollout"] is not None:
        named = {name.removeprefix("rollout/"): tensor for name, tensor in tensors.items() if name.startswith("rollout/")}
        examples = [(key, tuple(prompt), tuple(map(tuple, own)), source) for key, prompt, own, source in values["rollout"]]
        rollout = {"values": None, **named, "examples": examples}
    return Failure(
        step=int(values["step"]),
        batch=int(values["batch"]),
        verdict=str(values["verdict"]),
        why=str(values["why"]),
        keys=tuple(values["keys"]),
        loss=float(values["loss"]),
        norm=float(values["norm"]),
        rates=list(map(float, values["rates"])),
        shares=shares,
        counts={source: Counts(*map(int, counts)) for source, counts in values["counts"].items()},
        terms=dict(values["terms"]),
        rollout=rollout,
        sampled={name: float(value) for name, value in values["sampled"].items()},
        prompts=tuple(values["prompts"]),
    )


def _batch(values: Mapping[str, Any], prefix: str, tensors: Mapping[str, Tensor]) -> PackedBatch:
    fields: dict[str, Any] = {name: tuple(values[name]) for name in OTHER_FIELDS if name not in ("ratings", "layout")}
    fields |= {name: tensors[prefix + name] for name in TENSOR_FIELDS}
    fields["ratings"] = {name: tuple(map(float, own)) for name, own in values["ratings"].items()}
    return PackedBatch(**fields, layout=values["layout"])
