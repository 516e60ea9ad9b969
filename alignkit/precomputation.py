"""What is known before the first update and never changes: computed once, before training, with the trainer's device and precision."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import final

from lightning import Trainer
from lightning.fabric.utilities import move_data_to_device
from rich.console import Console
from rich.progress import Progress

from alignkit.assembly import Job, say
from alignkit.batches import PackedBatch
from alignkit.caches.digests import function_digest, numeric_mode
from alignkit.caches.filling import Filled, Filler, Quantity
from alignkit.caches.place import cache_root, short
from alignkit.caches.quantities import TERMINAL_STATES, TOKEN_LOGPS
from alignkit.caches.store import Store
from alignkit.callbacks.samples import Samples
from alignkit.data.collate import micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.steps import Steps
from alignkit.models.adapters import adapters_off
from alignkit.models.backbone import Backbone
from alignkit.models.reference import CachedReference, LiveReference, MovingReference
from alignkit.models.sharding import whole_weights
from alignkit.models.standardization import most_wanted, standardize
from alignkit.models.terminal_states import CachedStates
from alignkit.modules.stepping import SteppingModule
from alignkit.ranks import is_first
from alignkit.run_dir import Scalar
from alignkit.settings import RunSettings


@final
class Precomputation:
    """Computes, or finds, what a job looks up instead of computing it in every step. `results` holds the counts."""

    def __init__(self, settings: RunSettings, job: Job, trainer: Trainer) -> None:
        self.results: dict[str, Scalar] = {}
        self._settings = settings
        self._job = job
        self._trainer = trainer
        self._device = trainer.strategy.root_device

    def run(self, samples: Samples) -> None:
        """The reference's continuations and log-probs, and what heads read of a frozen trunk, as far as the job needs them."""
        module, models = self._job.module, self._job.models
        policy = module.backbone.to(self._device)
        with self._trainer.precision_plugin.forward_context():
            with adapters_off(reference_model(module).to(self._device)) as reference, whole_weights(reference):
                samples.remember(reference)
            if isinstance(module.reference, CachedReference):
                assert module.reference.backbone is not None
                assert models.reference_fingerprint is not None
                steps = self._job.data.steps
                mismatched = [example for step in range(steps.steps + steps.spare) for example in steps.mismatched_examples(step)]
                examples = [*self._examples(), *mismatched]
                with adapters_off(module.reference.backbone) as reference, whole_weights(reference):
                    filled = self._fill("reference", TOKEN_LOGPS, reference, models.reference_fingerprint, examples)
                module.reference.load(filled.values)
                gc.collect()  # transformers' models are in cycles
            if isinstance(module.states, CachedStates):
                with whole_weights(policy):
                    filled = self._fill("trunk", TERMINAL_STATES, policy, models.policy_fingerprint, self._examples())
                module.states.load(filled.values)
            standardize(module, self._batches(self._measured()))

    def _measured(self) -> list[EncodedExample]:
        """The first examples that the run trains on, with as many completions as any head wants to see."""
        wanted = most_wanted(self._job.module.heads)
        examples, found = [], 0
        for example in visited(self._job.data.steps) if wanted else ():
            if found >= wanted:
                break
            examples.append(example)
            found += len(example.completion_ids)
        return examples

    def _examples(self) -> list[EncodedExample]:
        """All that the run reads: only where they are wanted, for they may be many."""
        return [*visited(self._job.data.steps), *self._job.inputs.prepared.validation]

    def _fill(self, role: str, quantity: Quantity, backbone: Backbone, weights: str, examples: Sequence[EncodedExample]) -> Filled:
        mode = numeric_mode(self._settings.precision.lightning, self._device)
        folder = cache_root(self._settings.cache_dir) / quantity.name / f"{function_digest(backbone, weights)}-{mode}"
        store = Store(folder, {"values": quantity.name, "function": folder.name}, lambda line: say(f"{role}: {line}"))
        shown = self._settings.callbacks.progress_bar and is_first()
        filler = Filler(
            quantity=quantity,
            backbone=backbone,
            batches=self._batches,
            progress=lambda tokens: progress_bar(f"{role}: {quantity.words}", tokens, shown=shown),
        )
        filled = filler.fill(store, examples, f"waiting for another process, which computes {quantity.words} in {short(folder)}")
        say(f"{role}: {account(filled, quantity.words, store)} (weights {weights})")
        self.results |= {f"{role}/reused": filled.reused, f"{role}/computed": filled.computed, f"{role}_seconds": filled.seconds}
        return filled

    def _batches(self, examples: Sequence[EncodedExample]) -> Iterator[PackedBatch]:
        packing = self._job.data.steps.packing
        for batch in micro_batches(examples, packing.for_looking()):
            yield move_data_to_device(batch, self._device)


def visited(steps: Steps) -> list[EncodedExample]:
    """The examples that the run's steps are made of, each once."""
    positions = {index for step in range(min(steps.steps + steps.spare, steps.steps_per_epoch)) for index in steps.global_batch(step)}
    return [steps.examples[index] for index in sorted(positions)]


def reference_model(module: SteppingModule) -> Backbone:
    """The model that is the reference before the first update: the policy where there is no other."""
    reference = module.reference
    if isinstance(reference, LiveReference | MovingReference | CachedReference) and reference.backbone is not None:
        return reference.backbone
    return module.backbone


def account(filled: Filled, words: str, store: Store) -> str:
    """Where values came from and where they are, in one line."""
    total, place = filled.reused + filled.computed, short(store.folder)
    reused = f"{filled.reused} of {total} {words} reused from {place}"
    computed = f"{filled.computed} {words} computed in {filled.seconds:.1f} s, {f'kept in {place}' if store.writable else 'not kept'}"
    return ", ".join([reused] * (filled.reused > 0) + [computed] * (filled.computed > 0))


@contextmanager
def progress_bar(title: str, tokens: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar over tokens on a terminal, gone when all are done."""
    console = Console()
    with Progress(console=console, transient=True, disable=not (shown and console.is_terminal)) as progress:
        task = progress.add_task(title, total=tokens)
        yield lambda done: progress.advance(task, done)
