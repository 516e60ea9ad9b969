"""What a run leaves behind: its model, and what was measured."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel

from alignkit import ranks
from alignkit.assembly import Job
from alignkit.callbacks.certificate import Certificate
from alignkit.cutting import whole_policy
from alignkit.errors import StorageError
from alignkit.metrics import VALIDATION, metric
from alignkit.models.backbone import Backbone
from alignkit.models.export import PREDICTING, save_adapter, save_heads, save_model
from alignkit.modules.rollout_module import RolloutModule
from alignkit.run_dir import RunDir, Scalar, start_and_end
from alignkit.settings import RunSettings


@contextmanager
def storing(run: RunDir, step: int, *, saved: bool) -> Iterator[None]:
    """Say what to do where the last files of a run cannot be written. `saved`: whether the state of this step is.

    Raises:
        StorageError: in the place of the system's error.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:  # the latter of a model's weights
        free = ""
        with suppress(OSError):
            free = f"; {shutil.disk_usage(run.path).free / 1e6:,.0f} MB are free"
        kept = "The state is saved: make room, then" if saved else "Its newest checkpoint is older: make room, then"
        name = Path(error.filename).name if isinstance(error, OSError) and error.filename else "a file"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StorageError(
            f"run_dir = {run.path}: after step {step} {name} could not be written ({reason}{free}). {kept} go on with: "
            f"python -m alignkit.train resume={run.path}"
        ) from error


def export(settings: RunSettings, run: RunDir, job: Job) -> None:
    """`model/` and, where heads were trained, `heads.safetensors` and `heads.json`."""
    policy = whole_policy(settings, job)
    if policy is not None and ranks.is_first():
        write_model(settings, run, job, policy)
    ranks.wait_for_all()


def write_model(settings: RunSettings, run: RunDir, job: Job, policy: Backbone) -> None:
    """The files of `export`."""
    as_adapter = settings.model.adapter is not None and settings.model.lora.export == "adapter"
    (save_adapter if as_adapter else save_model)(run.model, policy, job.inputs.tokenizer)
    samples = isinstance(job.module, RolloutModule)
    if isinstance(job.module, RolloutModule) and job.module.value_trunk is not None:
        return  # a value head on a trunk of its own says nothing of model/; checkpoints hold both
    if len(job.module.heads) > 0:
        reads = PREDICTING if samples else None
        save_heads(run, job.module.heads, terminator=job.inputs.terminator, tokenizer=job.inputs.tokenizer, reads=reads)


def certified(run: RunDir, job: Job, checks: Sequence[Certificate]) -> dict[str, Scalar]:
    """What was checked before the first update or in it."""
    if isinstance(job.module, RolloutModule):
        of_ranks = ranks.gather(job.module.certificate)  # of each rank's share
        names = {name for own in of_ranks for name in own}
        return {f"certificate/{name}": max(own[name] for own in of_ranks if name in own) for name in sorted(names)}
    return {name: value for check in checks for name, value in check.results.items()}


def collect(run: RunDir, job: Job, measured: Mapping[str, Scalar], monitor: str, *, peak: int, seconds: float) -> dict[str, Scalar]:
    """The flat object of `results.json`: `start/val/*`, `val/*` (final), `best/<monitor>`, costs, fingerprints and counts."""
    run.rows.settle()
    rows = run.metric_rows()
    watched = [value for row in rows if isinstance(value := row.get(monitor), int | float)]
    best = (min if metric(monitor.removeprefix(VALIDATION)).better == "lower" else max)(watched) if watched else None
    return {
        "formula": job.formula,
        **start_and_end(rows),
        f"best/{monitor}": best,
        **measured,
        "steps": job.module.steps_done,
        **job.module.guard.results(),
        "seconds": seconds,
        "training_seconds": job.module.training_seconds,
        f"seconds_per_{'episode' if isinstance(job.module, RolloutModule) else 'pair'}": job.module.training_seconds
        / max(1, job.module.examples_done),
        "tokens_per_second": job.module.tokens_done / max(1e-9, job.module.training_seconds),
        "completions": job.module.completions_done,
        "models_held": models_held(),
        "peak_memory_bytes": peak,
        "layout": job.data.steps.packing.layout,
        "policy_fingerprint": job.models.policy_fingerprint,
        "reference_fingerprint": job.models.reference_fingerprint,
        "parameters": sum(parameter.numel() for parameter in job.module.backbone.parameters()),
        **{f"data/{name}": count for name, count in job.inputs.prepared.counts.items()},
    }


def models_held() -> int:
    """Language models that are in memory now: what a run could not let go of."""
    gc.collect()
    # By type: to ask a foreign object for its class may run its code.
    return sum(issubclass(type(thing), PreTrainedModel) and thing.get_output_embeddings() is not None for thing in gc.get_objects())
