"""A run from its settings to its last file: train, save, and collect what was measured."""

from __future__ import annotations

import functools
import logging
import signal
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger

from alignkit import ranks
from alignkit.assembly import Job, assemble, plan_packing, say
from alignkit.benchmark_assembly import ask_benchmarks
from alignkit.callbacks.benchmarks import Benchmarks
from alignkit.callbacks.certificate import Certificate
from alignkit.callbacks.checkpoint_files import CheckpointFiles
from alignkit.callbacks.gradient_cosine import GradientCosine
from alignkit.callbacks.held_out_pairs import HeldOutPairs
from alignkit.callbacks.held_out_samples import HeldOutSamples
from alignkit.callbacks.interruption import WARNING, Interruption, Stopped
from alignkit.callbacks.kept_checkpoints import saving
from alignkit.callbacks.ledger import Ledger
from alignkit.callbacks.metrics_log import MetricsLog
from alignkit.callbacks.progress import Progress
from alignkit.callbacks.pruning import Pruning
from alignkit.callbacks.samples import Continuation, Samples
from alignkit.cutting import cut_models
from alignkit.data.origins import find_rows
from alignkit.errors import DivergedError, signal_exit_code
from alignkit.hardware import bf16_gain, device_kind, keep_freed_memory, peak_memory
from alignkit.head_normalization import HeadNormalization
from alignkit.leaving import certified, collect, export, storing
from alignkit.ledger_file import LedgerFile
from alignkit.models.model_card import write_card
from alignkit.models.texts import Texts, save_texts
from alignkit.modules.alignment import AlignmentModule
from alignkit.modules.collector import Collector, Writing
from alignkit.modules.failures import FailureFiles
from alignkit.modules.stepping import SteppingModule
from alignkit.precomputation import Precomputation
from alignkit.processes import meeting, strategy_of
from alignkit.resolution import build_source
from alignkit.resuming.going_back import Return, go_back
from alignkit.resuming.rolling_back import fit_through
from alignkit.resuming.slurm import note_run, requeue
from alignkit.rollout_assembly import build_sampler, gold_settings, nobody, open_scorer, surroundings_of
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings
from alignkit.tracking import GuardedLogger, wandb_logger

NOISE = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # inside lightning 2.6 with torch 2.13
    r"Found \d+ module\(s\) in eval mode at the start of training",  # on purpose: see Backbone
    r"The '\w+_dataloader' does not have many workers",  # a step is packed in milliseconds
    r"Checkpoint directory .* exists and is not empty",
    r"GPU available but not used",
    r"It is recommended to use `self.log\('.*', ..., sync_dist=True\)`",  # all ranks log the same number
    r"find_unused_parameters=True was specified in DDP constructor",
    r"`broadcast_buffers` is deprecated",  # torch 2.13 has another name for it, torch 2.11 has not
    r"You're resuming from a checkpoint that ended before the epoch ended",  # the loader is told where to go on
    r"FSDP2-wrapped module .* returned a view tensor",  # which nobody writes into
)
"""Warnings of libraries that would tell a user nothing."""


def train(settings: RunSettings, run: RunDir, *, resume: bool = False) -> dict[str, Scalar]:
    """Train as the settings say and write every file of the run directory. Returns what `results.json` holds.

    With `resume` the run goes on from its newest checkpoint, as if it had never been stopped.

    Raises:
        UserError: when the data, the model or their combination cannot work.
        DivergedError: when training did not stay finite; the last good weights are saved.
        KeyboardInterrupt, SystemExit: when a signal stopped training; the weights are saved.
    """
    started = time.perf_counter()
    hush()
    keep_freed_memory()
    seed_everything(settings.seed, workers=True, verbose=False)
    if settings.hardware.threads is not None:
        torch.set_num_threads(settings.hardware.threads)
    with Interruption() as interruption, meeting(settings.hardware):
        job = assemble(settings)
        say(job.formula)
        if settings.precision.lightning != "32-true" and device_kind(settings.hardware.accelerator) == "cpu":
            say(precision_line(bf16_gain()))
        if ranks.is_first():
            note_run(run)
        with wandb_logger(settings, run) if ranks.is_first() else nullcontext() as wandb:
            results = fit(settings, run, job, interruption, wandb, started=started, resume=resume)
    return results


def fit(
    settings: RunSettings,
    run: RunDir,
    job: Job,
    interruption: Interruption,
    wandb: GuardedLogger | None,
    *,
    started: float,
    resume: bool = False,
) -> dict[str, Scalar]:
    """Validate, train, validate, save. Raises what `train` raises, after everything is saved."""
    loggers: list[Logger] = [MetricsLog(run, steps_per_epoch=job.data.steps.steps_per_epoch), *([wandb] if wandb else [])]
    samples = build_samples(settings, run, job)
    checks, watching = watchers(settings, run, job)
    cut_models(settings, job.module)
    files = CheckpointFiles(run, say, keep=settings.callbacks.keep_checkpoints, background=settings.callbacks.background_checkpoints)
    callbacks = [*checks, *ledger_of(settings, run, job), interruption, samples, *watching, *saving(settings, run, files, interruption)]
    build = functools.partial(build_trainer, settings, run, loggers, callbacks, files)
    trainer = build()
    precomputation = Precomputation(settings, job, trainer)
    precomputation.run(samples)
    normalization = HeadNormalization(settings, job.module, job.inputs, trainer) if isinstance(job.module, AlignmentModule) else None
    if normalization is not None:
        normalization.sample()
    if ranks.is_first():
        save_texts(run.texts, Texts.of(job.inputs.prepared.encoder, job.inputs.prepared.validation_texts[0]))
    diverged: DivergedError | None = None
    state = go_back(run) if resume else Return(checkpoint=None, steps_done=0)
    if state.checkpoint is None:
        trainer.validate(job.module, datamodule=job.data, verbose=False)
    decorrelate(settings.seed)
    watch_for_divergence(settings, run, job, files)
    try:
        trainer = fit_through(job, trainer, state, back=lambda: go_back(run), build=build)
    except DivergedError as error:
        diverged = error
    except Stopped:
        files.wait()
        if interruption.received is WARNING and ranks.is_first():
            say(requeue())  # at once: time is running out
    if interruption.received is None and diverged is None and job.module.last_validated != job.module.steps_done:
        trainer.validate(job.module, datamodule=job.data, verbose=False)
    with storing(run, job.module.steps_done, saved=settings.callbacks.checkpoints and files.trouble is None):
        export(settings, run, job)
        measured = {**precomputation.results, **certified(run, job, checks)}
        if normalization is not None and diverged is None:
            measured |= normalization.store(run)
        peak = ranks.largest(peak_memory(job.module.device))
        results: dict[str, Scalar] = {}
        if ranks.is_first():
            name_pairs(settings, run, job)
            results = collect(run, job, measured, settings.loss.monitor, peak=peak, seconds=time.perf_counter() - started)
            run.write_results(results)
            write_card(run, settings, job.inputs.tokenizer, results)
    results = ranks.from_first(results)
    if wandb is not None:
        wandb.summarise(results)
    if diverged is not None:
        raise diverged
    if interruption.received is not None:
        raise stopped_by(interruption.received, job.module, settings)
    return results


def name_pairs(settings: RunSettings, run: RunDir, job: Job) -> None:
    """Write the pairs that a ledger makes suspicious, where the run keeps one."""
    if settings.callbacks.ledger:
        from alignkit.suspects import name_suspects  # pandas: a second, which no other run waits for

        name_suspects(settings, run, job)


def watch_for_divergence(settings: RunSettings, run: RunDir, job: Job, files: CheckpointFiles) -> None:
    """Tell the module where steps that are not taken are kept, and how it knows of a checkpoint."""

    def has_checkpoint() -> bool:
        files.wait()
        return run.last_checkpoint.exists()

    decode = functools.partial(job.inputs.tokenizer.decode, clean_up_tokenization_spaces=False)
    job.module.failures = FailureFiles(
        run.failures,
        decode=lambda ids: str(decode(list(ids))),
        rows=functools.partial(find_rows, settings.dataset, build_source(settings.dataset, settings.allow_code)),  # type: ignore[arg-type]
        say=say,
    )
    job.module.can_go_back = has_checkpoint


def watchers(settings: RunSettings, run: RunDir, job: Job) -> tuple[list[Certificate], list[Callback]]:
    """What checks a run before its first update, and what measures at its validations."""
    watching: list[Callback] = [Pruning(run)] if run.trial.exists() else []
    if settings.validation.benchmarks:
        watching.append(Benchmarks(ask_benchmarks(settings, job), packing=job.data.steps.packing.for_looking()))
    if not isinstance(job.module, AlignmentModule):
        return [], watching
    policy_is = job.models.reference_is_policy
    checks = [Certificate(job.data.steps.examples, terminator=job.inputs.terminator, reference_is_policy=policy_is)]
    watching.append(HeldOutPairs(run, job.inputs.prepared.validation, job.inputs.tokenizer))
    if settings.validation.gold is not None or settings.validation.kl:
        watching.append(held_out_samples(settings, job))
    return checks, watching


def ledger_of(settings: RunSettings, run: RunDir, job: Job) -> list[Callback]:
    """What keeps the ledger of training pairs, where it was asked for."""
    if not settings.callbacks.ledger or not isinstance(job.module, AlignmentModule):
        return []
    steps = job.data.steps
    file = LedgerFile(folder=run.ledger)
    return [Ledger(file, job.module.objective, steps.examples, steps_per_epoch=steps.steps_per_epoch)]


def decorrelate(seed: int) -> None:
    """Give each rank random numbers of its own, as heads and adapters may have dropout; those of the first are what one process draws."""
    if ranks.reader() > 0:
        torch.manual_seed((seed * 1_000_003 + ranks.reader()) % 2**63)


def hush() -> None:
    """Keep libraries from telling the user what means nothing here."""
    for pattern in NOISE:
        warnings.filterwarnings("ignore", message=pattern)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def precision_line(gain: float) -> str:
    """Whether bf16 pays on this CPU; one without instructions for it emulates them."""
    if gain < 1:
        return f"precision: bf16 products take {1 / gain:.1f} times as long as float32 ones on this CPU. precision=fp32 is faster."
    return f"precision: bf16 products are {gain:.1f} times as fast as float32 ones on this CPU"


def stopped_by(received: signal.Signals, module: SteppingModule, settings: RunSettings) -> BaseException:
    """What to raise when a signal ended training."""
    finished = module.last_validated == module.steps_done == settings.steps
    on = f" Go on with: python -m alignkit.train resume={settings.run_dir}" if settings.callbacks.checkpoints and not finished else ""
    message = f"stopped by {received.name} after step {module.steps_done} of {settings.steps}; the weights are saved in model/.{on}"
    if received is signal.SIGINT:
        return KeyboardInterrupt(message)
    say(message)
    return SystemExit(signal_exit_code(received))


def build_samples(settings: RunSettings, run: RunDir, job: Job) -> Samples:
    """The first held-out prompts, to be continued at each validation."""
    examples, room = job.inputs.prepared.validation_texts[: settings.validation.samples], settings.dataset.max_length
    prompts = [job.inputs.prepared.encoder.encode_prompt(example, room) for example in examples]
    continuation = Continuation(tokenizer=job.inputs.tokenizer, terminator=job.inputs.terminator, tokens=settings.validation.sample_tokens)
    return Samples(run, prompts, continuation)


def held_out_samples(settings: RunSettings, job: Job) -> HeldOutSamples:
    """What scores held-out samples of a policy that samples nothing itself, and measures how far they are from the reference.

    Raises:
        UserError: when the scorer cannot be opened.
    """
    gold = settings.validation.gold
    surroundings = surroundings_of(settings, job.inputs, job.models, plan_packing)
    collector = Collector(
        sampler=build_sampler(settings, job.models.parts.backbone, job.inputs.terminator),
        scorer=nobody if gold is None else open_scorer(gold_settings(gold), settings, surroundings),
        reward=settings.reward,
        writing=Writing(tokenizer=job.inputs.tokenizer, terminator=job.inputs.terminator, packing=job.data.steps.packing.for_looking()),
    )
    against = job.models.measured_against
    return HeldOutSamples(collector, job.inputs.prepared.validation, seed=settings.seed, scored=gold is not None, reference=against)


def build_trainer(
    settings: RunSettings, run: RunDir, loggers: list[Logger], callbacks: Sequence[Callback], files: CheckpointFiles
) -> Trainer:
    """Lightning's trainer; one optimiser step a batch, one epoch a run."""
    callbacks = list(callbacks)
    if settings.callbacks.gradient_cosine:
        callbacks.append(GradientCosine())
    if settings.callbacks.progress_bar:
        callbacks.append(Progress())
    return Trainer(
        accelerator=settings.hardware.accelerator,
        strategy=strategy_of(settings.hardware),
        devices=settings.hardware.devices,
        num_nodes=settings.hardware.nodes,
        precision=settings.precision.lightning,  # type: ignore[arg-type]
        max_epochs=1,
        max_steps=-1,  # the loader ends after `steps`; Lightning would count the optimiser steps of PPO's epochs
        val_check_interval=min(settings.validation.every, settings.steps),
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        inference_mode=False,  # metric states that validation makes are read outside of it
        logger=loggers,
        callbacks=callbacks,
        plugins=[files],
        enable_checkpointing=settings.callbacks.checkpoints,
        enable_progress_bar=settings.callbacks.progress_bar,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=run.path,
    )
