"""Models that answer prompts in a contest, each of them once.   P prompts"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import torch
from transformers import PreTrainedTokenizerBase

from alignkit.assembly import load_backbone
from alignkit.data.examples import EncodedExample, PreferenceExample
from alignkit.generation.answering import build_encoder, continuations, products, room_of, seed_of_batch
from alignkit.generation.config import run_at
from alignkit.generation.prompt_reading import Prompt, PromptReader
from alignkit.models.backbone import Backbone
from alignkit.models.freezing import freeze
from alignkit.models.loading import check_fit, load_config, load_tokenizer
from alignkit.models.location import locate
from alignkit.models.reference import fingerprint
from alignkit.models.texts import CHAT, PLAIN, load_texts
from alignkit.rollout_assembly import build_sampler
from alignkit.scorers.answer_tokens import same_tokens
from alignkit.settings import RunSettings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What one side says to a prompt."""

    tokens: EncodedExample
    """The prompt with one completion, in the tokens of the model that is evaluated."""
    text: str


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Player:
    """A model before its weights are loaded, and how it reads prompts."""

    where: str
    """The setting that names it."""
    path: str
    settings: RunSettings
    tokenizer: PreTrainedTokenizerBase
    reader: PromptReader

    @classmethod
    def at(cls, where: str, path: str, settings: RunSettings, *, of_dataset: bool) -> Self:
        """The model of a run directory, a folder or the hub; `of_dataset`: prompts are no longer than in training.

        Raises:
            UserError: when it is not there, or has no room for answers.
        """
        run = run_at(path)
        found = locate(where, path if run is None else str(run.model))
        config, tokenizer = load_config(where, found), load_tokenizer(where, found)
        check_fit(where, config, tokenizer, 0)
        reader = PromptReader(build_encoder(settings, tokenizer), room=room_of(settings, config, of_dataset=of_dataset))
        return cls(where=where, path=found, settings=settings, tokenizer=tokenizer, reader=reader)

    def load(self) -> Backbone:
        """Its weights, on the CPU, frozen."""
        return freeze(load_backbone(self.settings, self.where, self.path))

    def terminator(self, prompts: Sequence[Prompt]) -> int:
        """The token that ends answers, the same one for all prompts that are `usable` together."""
        return self.reader.terminator(prompts[0].example)

    @torch.no_grad()
    def answers(self, backbone: Backbone, prompts: Sequence[Prompt], device: torch.device) -> list[Reply]:
        """One sample of each prompt [P], in its own tokens, `batch.pairs` prompts at a time.

        Random numbers are a function of `seed` and the batch's number, as in `alignkit.generate`, and of nothing else: two players who
        are asked the same prompts have the same ones, and a model that plays against itself says the same twice.
        """
        sampler = build_sampler(self.settings, backbone, self.terminator(prompts))
        size, replies = self.settings.batch.pairs, list[Reply]()
        with products(self.settings, device):
            for number, start in enumerate(range(0, len(prompts), size)):
                batch = prompts[start : start + size]
                ids = [self.reader(prompt.example) for prompt in batch]
                drawn = sampler(ids, samples=1, seed=seed_of_batch(self.settings.seed, number))
                for prompt, own, (sample,) in zip(batch, ids, drawn, strict=True):
                    tokens = EncodedExample(key=len(replies), prompt_ids=own, completion_ids=(sample.ids,))
                    replies.append(Reply(tokens=tokens, text=self.text(prompt, tokens)))
        return replies

    def text(self, prompt: Prompt, answer: EncodedExample) -> str:
        """What an answer in its own tokens says."""
        return continuations(self.tokenizer, answer, joined=self.reader.joins(prompt.example))[0]

    def read(self, key: int, prompt: Prompt, text: str, *, finished: bool = True) -> Reply | None:
        """Somebody else's answer in its own tokens, as it would be trained on; None where it cannot be encoded."""
        encoded = self.reader.encoder.encode(key, PreferenceExample(prompt=prompt.example.prompt, completions=(text,)))
        if encoded is None:
            return None
        (ids,) = encoded.completion_ids
        # The encoder ends whatever it is given and fits; an answer has one token at least.
        if not finished and len(ids) > 1 and ids[-1] == self.reader.terminator(prompt.example):
            ids = ids[:-1]
        return Reply(tokens=dataclasses.replace(encoded, completion_ids=(ids,)), text=text)


def answers_of(opponent: Player, prompts: Sequence[Prompt], device: torch.device, ours: Player) -> tuple[list[Reply | None], str]:
    """An opponent's answers [P] in our tokens, None where we cannot read one, and the fingerprint of its weights, which are gone when this
    returns."""
    backbone = opponent.load()
    weights = fingerprint(backbone)
    replies = opponent.answers(backbone.to(device), prompts, device)
    del backbone
    gc.collect()  # transformers' models are in cycles
    theirs, end = opponent.terminator(prompts), ours.terminator(prompts)
    alike = same_tokens(opponent.tokenizer, ours.tokenizer)
    read: list[Reply | None] = []
    for key, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        (ids,) = reply.tokens.completion_ids
        finished = ids[-1] == theirs
        if not alike:
            read.append(ours.read(key, prompt, reply.text, finished=finished))
            continue
        # As sampled, but after the prompt as we read it, and with our terminator, where one of us writes chats and the other does not.
        tokens = EncodedExample(key=key, prompt_ids=ours.reader(prompt.example), completion_ids=((*ids[:-1], end) if finished else ids,))
        read.append(Reply(tokens=tokens, text=reply.text))
    return read, weights


def as_opponent(where: str, path: str, settings: RunSettings, *, of_dataset: bool) -> Player:
    """A player who is asked as the run that made it was trained; a model that no run made as the one that is evaluated, or by plain text
    where it has no chat template. Raises what `Player.at` does."""
    run = run_at(path)
    texts = None if run is None else load_texts(run.texts)
    if texts is not None:
        form = CHAT if texts.kind == CHAT else PLAIN
    else:
        has_template = load_tokenizer(where, locate(where, path if run is None else str(run.model))).chat_template is not None
        form = PLAIN if settings.dataset.format == CHAT and not has_template else settings.dataset.format
    settings = dataclasses.replace(settings, dataset=dataclasses.replace(settings.dataset, format=form))
    return Player.at(where, path, settings, of_dataset=of_dataset)
