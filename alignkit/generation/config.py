"""From a composed config to what `alignkit.generate` does. A generate run has the config of a run and a few keys of its own beside it."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, final

from omegaconf import DictConfig, OmegaConf

from alignkit.config_checks import check_keys
from alignkit.configuration import check_config, config_yaml, packaged, run_fields
from alignkit.errors import UserError, check_choice, did_you_mean
from alignkit.generate_settings import ALL, CHAT, HELD_OUT, PAIRS, RSO, STREAM, TRAINING, GenerateSettings
from alignkit.hardware_checks import check_machine
from alignkit.job import TERMINATED
from alignkit.models.location import CONFIGS, locate
from alignkit.resolution import build_scorer, build_source, to_record
from alignkit.rollout_settings import NO_SCORER
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings

SHORT = ("samples", "max_tokens", "temperature", "top_k", "top_p")
"""Keys of `rollout` that are typed without it."""
RANK_BY = "rank_by"
"""Chooses the scorer: a head of the run at `model.path`, or an option of `scorer=`."""
OWN = tuple(field.name for field in dataclasses.fields(GenerateSettings))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """What is to be generated, checked as far as that is possible without torch."""

    settings: RunSettings
    """`rollout` says how is sampled, `scorer` who ranks, `reward` what becomes of scores; nothing is trained."""
    own: GenerateSettings

    def __post_init__(self) -> None:
        samples, ranked, keep = self.settings.rollout.samples, self.settings.scorer.name != NO_SCORER, self.own.keep
        if keep != ALL and not ranked:
            raise UserError(f"keep = {keep!r} goes by scores, and nobody scores. Type rank_by=vader, or a head of the run at model.path.")
        fewest = self.own.accepted(samples) if keep == RSO else 2 if keep == PAIRS else 1
        if samples < fewest:
            raise UserError(f"samples = {samples}: keep={keep} needs {fewest} samples of a prompt. Type samples={4 * fewest}.")
        if self.settings.rollout.backend != "torch":
            raise UserError(
                f"rollout.backend = {self.settings.rollout.backend!r}: alignkit.generate samples with the model itself. Leave it out."
            )
        if self.settings.reference.path is not None and (self.settings.rollout.top_k > 0 or self.settings.rollout.top_p < 1.0):
            raise UserError(
                "reference.path measures the KL of the model, and rollout.top_k and rollout.top_p sample from something else. "
                "Type top_k=0 top_p=1, or reference.path=null."
            )

    @property
    def run_dir(self) -> str:
        """Where the run is to be."""
        return self.settings.run_dir

    @property
    def debug(self) -> bool:
        """Whether tracebacks of the user's own mistakes are shown."""
        return self.settings.debug


def generation_of(cfg: DictConfig) -> Generation:
    """What a config means that has keys of `alignkit.generate` beside those of a run.

    Raises:
        UserError: one message with the key as typed, the value that came and what is allowed.
    """
    cfg = copy.deepcopy(cfg)
    groups, scalars = run_fields()
    check_own_keys(cfg, groups, scalars)
    own = {str(key): cfg.pop(key) for key in OWN if key in cfg}
    for key in SHORT:
        if key in cfg:
            OmegaConf.update(cfg, f"rollout.{key}", cfg.pop(key))
    rank_by = cfg.pop(RANK_BY, None)
    run = run_at(str(OmegaConf.select(cfg, "model.path")))
    if rank_by is not None:
        typed = OmegaConf.to_container(cfg.scorer)
        cfg.scorer = ranker(str(rank_by), typed if isinstance(typed, Mapping) else {}, run)
    settings = check_config(cfg)
    if run is not None:
        settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, path=str(run.model)))
    return Generation(settings=settings, own=to_record(GenerateSettings, own, ""))


def check_own_keys(cfg: DictConfig, groups: Collection[str], scalars: Collection[str]) -> None:
    """Refuse a key that neither a run nor `alignkit.generate` has; one that belongs inside a group is left to the checks of a run.

    Raises:
        UserError: naming the key that was meant.
    """
    known = (*OWN, *SHORT, RANK_BY, *groups, *scalars)
    inside = {str(key) for group in groups if isinstance(node := cfg.get(group), DictConfig) for key in node}
    check_keys("", [key for key in map(str, cfg) if key not in inside], known, owner="alignkit.generate")


def run_at(path: str) -> RunDir | None:
    """The run directory at `path`, or the one whose `model/` it is."""
    folder = Path(path).expanduser()
    if (folder / "model").is_dir() and not any((folder / name).is_file() for name in CONFIGS):
        return RunDir(folder)
    return RunDir(folder.parent) if folder.name == "model" and folder.is_dir() else None


def ranker(rank_by: str, typed: Mapping[Any, Any], run: RunDir | None, where: str = RANK_BY) -> dict[Any, Any]:
    """The node `scorer` that `rank_by` stands for, with the keys `scorer.x` that were `typed` beside it. `where` is what it was typed as.

    Raises:
        UserError: when there is no such head or scorer, or `scorer=` was chosen too.
    """
    chosen = typed.get("name", NO_SCORER)
    if chosen != NO_SCORER:
        raise UserError(f"{where} = {rank_by!r} with scorer = {chosen!r}: one of them ranks. Leave the other out.")
    heads, known = heads_of(run), {name: dict(option) for name, option in packaged("scorer").items() if name != NO_SCORER}
    if rank_by in heads and run is not None:
        option = {**known["head"], "path": str(run.path), "head": rank_by}
    else:
        at = f"; {run.path} has no head of that name" if run is not None else ""
        names = (*heads, *known)
        if rank_by not in names:
            raise UserError(f"{where} = {rank_by!r}{at}; must be one of {', '.join(names)}.{did_you_mean(rank_by, names)}")
        option = known[rank_by]
    return {**option, **{key: value for key, value in typed.items() if key != "name"}}


def heads_of(run: RunDir | None) -> tuple[str, ...]:
    """Names of the heads that a run has trained.

    Raises:
        UserError: when its `heads.json` cannot be read.
    """
    if run is None or not run.heads_description.is_file():
        return ()
    try:
        return tuple(json.loads(run.heads_description.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(f"{run.heads_description}: cannot be read ({error})") from None


def check_places(generation: Generation) -> None:
    """Refuse files and models that are not there. Without torch.

    Raises:
        UserError: naming the key.
    """
    settings, own = generation.settings, generation.own
    locate("model.path", settings.model.path)
    if settings.reference.path is not None:
        locate("reference.path", settings.reference.path)
    if own.prompts not in (STREAM, CHAT, HELD_OUT, TRAINING) and not Path(own.prompts).expanduser().exists():
        meant = did_you_mean(own.prompts, (HELD_OUT, TRAINING, CHAT))
        raise UserError(f"prompts = {own.prompts!r}; there is no such file, seen from {os.getcwd()}.{meant}")
    check_new_file(own.out)


def check_new_file(out: str | None) -> None:
    """Refuse a place for `out=` that cannot be written, or holds something.

    Raises:
        UserError: saying which.
    """
    if out is None or out == STREAM:
        return
    file = Path(out).expanduser()
    if file.exists() and not (file.is_file() and file.stat().st_size == 0):
        raise UserError(f"out = {out!r}; is there already. Choose another, or remove it.")
    if not file.parent.is_dir():
        raise UserError(f"out = {out!r}; there is no folder {file.parent}, seen from {os.getcwd()}.")


def check_buildable(generation: Generation) -> None:
    """Build the data set's source and the scorers' settings once: they check their own ranges. This is where torch is imported.

    Raises:
        UserError: naming the option.
    """
    settings = generation.settings
    check_machine(settings)
    build_source(settings.dataset, settings.allow_code)
    if settings.scorer.name != NO_SCORER:
        build_scorer(settings.scorer, settings.allow_code)
    if settings.validation.gold is not None:
        check_choice("validation.gold", settings.validation.gold, [name for name in packaged("scorer") if name != NO_SCORER])


def generation_yaml(generation: Generation) -> str:
    """`config.yaml`: the settings in the shape in which they were typed, `rank_by` as the scorer that it chose."""
    return config_yaml(generation.settings) + OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(generation.own)))


def carry_out(generation: Generation, run: RunDir, *, rows: TextIO | None = None) -> dict[str, Scalar]:
    """Write `config.yaml`, generate, and return what `results.json` holds. `rows` is where `out=-` goes, None for standard output."""
    generation = dataclasses.replace(generation, settings=dataclasses.replace(generation.settings, run_dir=str(run.path)))
    run.config.write_text(generation_yaml(generation), encoding="utf-8")
    with terminable():
        # The first import of torch's big users: everything that can be wrong without them has been checked.
        from alignkit.generation.run import generate

        return generate(generation.settings, generation.own, run, rows=rows)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends what is inside by SystemExit(143), so that files are closed and it is told which run was stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
