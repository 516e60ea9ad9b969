"""Samples from the trunk that is trained: no second copy of its weights, prompts computed once for all of their samples."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import final

import torch
from torch import Tensor
from transformers import DynamicCache

from alignkit.errors import UserError
from alignkit.models.backbone import Backbone
from alignkit.models.conversions import weights_converted_once
from alignkit.models.sharding import whole_weights
from alignkit.sampling.kv_cache import growing_cache
from alignkit.sampling.sampler import Distribution, Sample, draw
from alignkit.vocabulary import chunk_rows

ALIVE = 0.75
"""Sequences that have ended leave the batch once no more than this share of it goes on: leaving costs a copy of the rest."""


@final
class TrunkSampler:
    """Draws completions with a cache of keys and values, in batches of prompts of about one length.

    - Prompts are sorted by length and padded on the left, with positions that count their own tokens alone.
    - A prompt runs once for as many of its samples as are held at once.
    - A completion ends with the terminator, which belongs to it, or where it is as long as it may be.
    - Random numbers are a function of the seed, the prompt's place and the sample's number.

    Logits exist for one position of a chunk of the sequences at a time. Runs under the caller's autocast.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        terminator: int,
        max_tokens: int,
        distribution: Distribution,
        tokens: int,
        on_token: Callable[[int], None] | None = None,
    ) -> None:
        """`tokens`: positions, prompts included, whose keys and values are held at once. `on_token` is told each token as it is drawn,
        without saying whose it is: for one sample of one prompt."""
        if backbone.lm._is_stateful:  # transformers' mark of recurrent models
            kind = type(backbone.lm).__name__
            raise UserError(f"model.path: a {kind} keeps no keys and values and cannot be sampled here. Take a transformer.")
        self.backbone = backbone
        self.terminator = terminator
        self.max_tokens = max_tokens
        self.distribution = distribution
        self.tokens = tokens
        self.on_token = on_token
        self._chunk = chunk_rows(backbone.lm.get_output_embeddings().weight.shape[0])
        # transformers has renamed it on the way from 5.17 to 5.23.
        named = inspect.signature(type(backbone.decoder).forward).parameters
        self._cache_argument = "cache" if "cache" in named else "past_key_values"

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[Sequence[int]], *, samples: int, seed: int, only: Sequence[int] | None = None
    ) -> list[list[Sample]]:
        generator = torch.Generator().manual_seed(seed)
        uniforms = torch.rand(len(prompts), samples, self.max_tokens, generator=generator, dtype=torch.float64)
        if only is not None:
            prompts, uniforms = [prompts[place] for place in only], uniforms[list(only)]
        answers: list[list[Sample]] = [[] for _ in prompts]
        lengths = [len(prompt) for prompt in prompts]
        with whole_weights(self.backbone):
            for numbers in uniforms.split(max(1, self.tokens // (max(lengths, default=0) + self.max_tokens)), 1):
                count = numbers.shape[1]
                for places in self._batches(lengths, count):
                    with weights_converted_once(self.backbone.lm):
                        drawn = self._continue([prompts[place] for place in places], count, numbers[places].flatten(0, 1))
                    for number, place in enumerate(places):
                        answers[place] += drawn[number * count : (number + 1) * count]
        return answers

    def _batches(self, lengths: Sequence[int], samples: int) -> Iterator[list[int]]:
        """Places of prompts of similar length, longest first, that fit into memory together."""
        batch: list[int] = []
        width = 0
        for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
            if batch and (len(batch) + 1) * samples * width > self.tokens:
                yield batch
                batch = []
            width = width if batch else lengths[place] + self.max_tokens
            batch.append(place)
        if batch:
            yield batch

    def _continue(self, prompts: Sequence[Sequence[int]], samples: int, uniforms: Tensor) -> list[Sample]:
        """`samples` completions of each prompt, from random numbers [prompts * samples, max_tokens]."""
        device = self.backbone.lm.device
        width = max(map(len, prompts))
        padding = [width - len(prompt) for prompt in prompts]
        ids = torch.tensor([[self.terminator] * pad + list(prompt) for pad, prompt in zip(padding, prompts, strict=True)], device=device)
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding], device=device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = growing_cache(self.backbone.lm.config, self.max_tokens)
        states = self._run(ids, mask, positions, cache)
        cache.batch_repeat_interleave(samples)
        states, mask, position = (tensor.repeat_interleave(samples, 0) for tensor in (states, mask, positions[:, -1:]))

        count = len(prompts) * samples
        uniforms = uniforms.to(device)
        tokens = torch.full((count, self.max_tokens), self.terminator, device=device)
        logps = torch.zeros(count, self.max_tokens, device=device, dtype=torch.promote_types(self.backbone.lm.dtype, torch.float32))
        lengths = torch.full((count,), self.max_tokens, device=device)
        rows = torch.arange(count, device=device)  # those that still go on
        alive = torch.ones(count, dtype=torch.bool, device=device)  # of these rows
        for step in range(self.max_tokens):
            drawn, drawn_logps = self._draw(states, uniforms[rows, step])
            going = rows[alive]
            tokens[going, step], logps[going, step] = drawn[alive], drawn_logps[alive]
            if self.on_token is not None:
                for token in drawn[alive].tolist():
                    self.on_token(token)
            ended = alive & (drawn == self.terminator)
            lengths[rows[ended]] = step + 1
            alive = alive & ~ended
            left = int(alive.sum())
            if left == 0 or step == self.max_tokens - 1:
                break
            if left <= ALIVE * len(rows):
                kept = alive.nonzero()[:, 0]
                cache.batch_select_indices(kept)
                rows, mask, position, drawn, alive = (tensor.index_select(0, kept) for tensor in (rows, mask, position, drawn, alive))
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
            position = position + 1
            states = self._run(drawn[:, None], mask, position, cache)
        return [
            Sample(ids=tuple(ids[:length]), logps=tuple(values[:length]))
            for ids, values, length in zip(tokens.tolist(), logps.tolist(), lengths.tolist(), strict=True)
        ]

    def _draw(self, states: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B] and their log-probs [B], from the states [B, D] that predict them and numbers [B] in [0, 1)."""
        tokens, logps = [], []
        for part, numbers in zip(states.split(self._chunk), uniforms.split(self._chunk), strict=True):
            log_probs = self.distribution.log_probs(self.backbone.next_token_logits(part))
            tokens.append(draw(log_probs, numbers))
            logps.append(log_probs.gather(-1, tokens[-1][:, None])[:, 0])
        return torch.cat(tokens), torch.cat(logps)

    def _run(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """[B, D] after the final norm at the last position."""
        output = self.backbone.decoder(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, **{self._cache_argument: cache}
        )
        states: Tensor = output.last_hidden_state[:, -1]
        return states
