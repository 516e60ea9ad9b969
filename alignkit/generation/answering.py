"""From settings to answered prompts: the model, who scores its answers, and the reference that it is measured against.

E prompts   C completions   N sampled tokens
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from alignkit.advantages import KL_ESTIMATORS
from alignkit.assembly import load_backbone, plan_packing
from alignkit.batches import PackedBatch
from alignkit.data.encoding import Encoder
from alignkit.data.examples import EncodedExample, Message, PreferenceExample
from alignkit.data.packing import Packing
from alignkit.errors import UserError
from alignkit.generate_settings import CHAT, HELD_OUT, TRAINING, GenerateSettings
from alignkit.generation.answered import AnsweredPrompt
from alignkit.generation.chat import Stream
from alignkit.generation.prompt_reading import Prompt, PromptReader, read_prompts
from alignkit.hardware import device_kind
from alignkit.logps import completion_sums
from alignkit.losses.rollout_outputs import PolicyTokens
from alignkit.metrics import KL, KL_K3, LENGTH, TERMINATED
from alignkit.models.backbone import Backbone
from alignkit.models.freezing import freeze
from alignkit.models.loading import check_fit, load_config, load_tokenizer
from alignkit.models.location import locate
from alignkit.models.reference import LiveReference, fingerprint
from alignkit.modules.collector import Collector, Writing, read_tokens
from alignkit.rollout_assembly import build_sampler, gold_settings, nobody, open_scorer
from alignkit.rollout_settings import NO_SCORER
from alignkit.run_dir import Scalar
from alignkit.scorers.scorer import Scorer, Surroundings
from alignkit.settings import RunSettings

QUESTION = PreferenceExample(prompt=(Message(role="user", content="a"),), completions=())
"""A turn of a dialogue, to see how its answer ends."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """How far the model is from a reference on its own samples, both at the temperature of the samples."""

    policy: Backbone
    reference: Backbone
    temperature: float
    packing: Packing

    def __call__(self, examples: Sequence[EncodedExample]) -> dict[str, Tensor]:
        """Estimates [C] of KL(model | reference) a sequence, nats, by k1 and k3 summed over its tokens."""
        tokens, reference = read_tokens(examples, self.packing, self._read, self.policy.lm.device)
        lengths = torch.tensor([len(ids) for example in examples for ids in example.completion_ids])
        index = torch.arange(len(lengths)).repeat_interleave(lengths)
        log_ratios = tokens.logps - reference
        estimates = {KL: KL_ESTIMATORS["k1"], KL_K3: KL_ESTIMATORS["k3"]}
        return {name: completion_sums(estimate(log_ratios), index, len(lengths)) for name, estimate in estimates.items()}

    def _read(self, batch: PackedBatch) -> tuple[PolicyTokens, Tensor]:
        ours, theirs = (
            model.token_scores(model.hidden_states(batch), batch, temperature=self.temperature).logps
            for model in (self.policy, self.reference)
        )
        return PolicyTokens(logps=ours), theirs


@final
class Answering:
    """Answers prompts, says what the answers are worth, and keeps count of what that takes."""

    def __init__(
        self,
        settings: RunSettings,
        *,
        reader: PromptReader,
        prompts: Sequence[Prompt],
        collector: Collector,
        gold: Scorer | None,
        divergence: Divergence | None,
        stream: Stream | None,
        device: torch.device,
        fingerprints: Mapping[str, Scalar],
    ) -> None:
        self.stream = stream
        """Who prints answers as they are written; None where nobody does."""
        self.device = device
        self.sampling_seconds = 0.0
        self.scoring_seconds = 0.0
        self._settings = settings
        self._reader = reader
        self._prompts = prompts
        self._collector = collector
        self._gold = gold
        self._divergence = divergence
        self._fingerprints = fingerprints
        self._samples = settings.rollout.samples if stream is None else 1

    @property
    def facts(self) -> dict[str, Scalar]:
        """What became of the prompts on their way to the model, and fingerprints of the weights."""
        return {"trimmed_prompts": self._reader.trimmed, "left_out_prompts": self._reader.left_out.total(), **self._fingerprints}

    def batches(self) -> Iterator[list[AnsweredPrompt]]:
        """All prompts, `batch.pairs` at a time."""
        size = self._settings.batch.pairs
        for number, start in enumerate(range(0, len(self._prompts), size)):
            yield self([prompt.example for prompt in self._prompts[start : start + size]], number)

    def one(self, prompt: PreferenceExample, number: int) -> AnsweredPrompt:
        """One prompt. Raises UserError when the model cannot be asked this."""
        (answered,) = self([prompt], number)
        return answered

    @torch.no_grad()
    def __call__(self, prompts: Sequence[PreferenceExample], number: int) -> list[AnsweredPrompt]:
        """Samples of some prompts, and what they are worth. Random numbers are a function of `seed` and this call's `number`."""
        ids = [self._reader(prompt) for prompt in prompts]
        with products(self._settings, self.device):
            begun = time.perf_counter()
            drawn = self._collector.sampler(ids, samples=self._samples, seed=seed_of_batch(self._settings.seed, number))
            sampled = time.perf_counter()
            examples = tuple(
                EncodedExample(key=key, prompt_ids=own, completion_ids=tuple(sample.ids for sample in samples))
                for key, (own, samples) in enumerate(zip(ids, drawn, strict=True))
            )
            answered = self._judged(prompts, examples)
        self.sampling_seconds += sampled - begun
        self.scoring_seconds += time.perf_counter() - sampled
        return answered

    def _judged(self, prompts: Sequence[PreferenceExample], examples: tuple[EncodedExample, ...]) -> list[AnsweredPrompt]:
        answers = self._collector.answers(examples)
        scores, measured = self._collector.worth(answers)
        measured = {LENGTH: measured.pop(LENGTH), TERMINATED: measured.pop(TERMINATED), **measured}
        if self._divergence is not None:
            measured |= self._divergence(examples)
        gold = None if self._gold is None else self._apart(self._gold(answers).total)
        apart = {name: self._apart(values) for name, values in measured.items()}
        ranked = self._apart(scores) if self._settings.scorer.name != NO_SCORER else None
        return [
            AnsweredPrompt(
                prompt=prompt.prompt,
                completions=continuations(self._collector.writing.tokenizer, example, joined=self._reader.joins(prompt)),
                scores=None if ranked is None else ranked[place],
                gold=None if gold is None else gold[place],
                measured={name: values[place] for name, values in apart.items()},
            )
            for place, (prompt, example) in enumerate(zip(prompts, examples, strict=True))
        ]

    def _apart(self, values: Tensor) -> list[tuple[float, ...]]:
        """[C] by prompt."""
        return [tuple(of_prompt) for of_prompt in values.view(-1, self._samples).tolist()]


def build_answering(settings: RunSettings, own: GenerateSettings) -> Answering:
    """Read the prompts, then load the model, its reference and the scorers.

    Raises:
        UserError: when one of them cannot be had, or they do not fit together.
    """
    path = locate("model.path", settings.model.path)
    config, tokenizer = load_config("model.path", path), load_tokenizer("model.path", path)
    check_fit("model.path", config, tokenizer, 0)
    of_dataset = own.prompts in (HELD_OUT, TRAINING)
    reader = PromptReader(build_encoder(settings, tokenizer), room=room_of(settings, config, of_dataset=of_dataset))
    prompts = reader.usable(list(read_prompts(own.prompts, settings)), strict=not of_dataset) if own.prompts != CHAT else []
    terminator = reader.terminator(prompts[0].example if prompts else QUESTION)
    device = torch.device(device_kind(settings.hardware.accelerator))
    backbone = freeze(load_backbone(settings, "model.path", path))
    packing = plan_packing(settings.batch, backbone).for_looking()
    surroundings = surroundings_of(settings, backbone, tokenizer, device)
    fingerprints, divergence = {"policy_fingerprint": surroundings.trunk_fingerprint}, None
    if settings.reference.path is not None:
        reference = freeze(load_backbone(settings, "reference.path", locate("reference.path", settings.reference.path)))
        fingerprints["reference_fingerprint"] = fingerprint(reference)
        temperature = settings.rollout.temperature
        divergence = Divergence(policy=backbone, reference=reference.to(device), temperature=temperature, packing=packing)
    ranked, gold = settings.scorer.name != NO_SCORER, settings.validation.gold
    scorer = open_scorer(settings.scorer, settings, surroundings) if ranked else nobody
    backbone.to(device)
    stream = Stream(tokenizer) if own.prompts == CHAT and (not ranked or settings.rollout.samples == 1) else None
    return Answering(
        settings,
        reader=reader,
        prompts=prompts,
        collector=Collector(
            sampler=build_sampler(settings, backbone, terminator, stream),
            scorer=scorer,
            reward=settings.reward,
            writing=Writing(tokenizer=tokenizer, terminator=terminator, packing=packing),
        ),
        gold=open_scorer(gold_settings(gold), settings, surroundings) if gold is not None else None,
        divergence=divergence,
        stream=stream,
        device=device,
        fingerprints=fingerprints,
    )


def build_encoder(settings: RunSettings, tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """How texts become tokens, as in training."""
    return Encoder(tokenizer, format=settings.dataset.format, max_length=settings.dataset.max_length, overflow="trim")


def room_of(settings: RunSettings, config: object, *, of_dataset: bool) -> int:
    """Tokens of the longest prompt: what the model's positions leave, and of a data set no more than training reads.

    Raises:
        UserError: when answers alone would fill all positions.
    """
    context: int | None = getattr(config, "max_position_embeddings", None)
    longest = settings.rollout.max_tokens
    if context is not None and longest >= context:
        raise UserError(f"rollout.max_tokens = {longest}: the model has positions for {context}, prompt included. Type max_tokens=64.")
    rooms = [*([context - longest] if context is not None else []), *([settings.dataset.max_length] if of_dataset else [])]
    return min(rooms, default=2**30)


def surroundings_of(
    settings: RunSettings, backbone: Backbone | None, tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> Surroundings:
    """What scorers share with the run: the model itself, which stays as it is, so that a head of it needs no second one; None for a run
    that has none."""
    return Surroundings(
        device=device,
        dtype=torch.bfloat16 if settings.precision.lightning == "bf16-true" else torch.float32,
        attention=settings.model.attention,
        packing=lambda other: plan_packing(settings.batch, other).for_looking(),
        tokenizer=tokenizer,
        trunk=None if backbone is None else LiveReference(backbone),
        trunk_fingerprint=None if backbone is None else fingerprint(backbone),
    )


def seed_of_batch(seed: int, number: int) -> int:
    """What decides the samples of a batch of prompts: a function of the run's `seed` and of the batch's number among all."""
    return (seed * 1_000_003 + number) % 2**63


def products(settings: RunSettings, device: torch.device) -> AbstractContextManager[object]:
    """What the run's matrix products are computed in."""
    return torch.autocast(device.type, torch.bfloat16) if settings.precision.lightning == "bf16-mixed" else nullcontext()


def continuations(tokenizer: PreTrainedTokenizerBase, example: EncodedExample, *, joined: bool) -> tuple[str, ...]:
    """Texts of an example's completions: what follows the prompt's text where they are `joined` to it as they stand, for a completion
    alone loses its first space with some tokenizers; and without white space around them where a template writes it."""
    alone: list[str] = tokenizer.batch_decode([list(ids) for ids in example.completion_ids], skip_special_tokens=True)
    if not joined:
        return tuple(text.strip() for text in alone)
    prompt = str(tokenizer.decode(list(example.prompt_ids), skip_special_tokens=True))
    whole: list[str] = tokenizer.batch_decode([[*example.prompt_ids, *ids] for ids in example.completion_ids], skip_special_tokens=True)
    # A prompt that was cut in the middle of a character, or is joined by one, is no beginning of the whole.
    return tuple(text.removeprefix(prompt) if text.startswith(prompt) else own for text, own in zip(whole, alone, strict=True))
