"""From prompts to a rollout: samples, what they are worth, and what policy, reference and value head say of their tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from alignkit.batches import PackedBatch
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.data.steps import share_of
from alignkit.losses.rollout_outputs import PolicyTokens
from alignkit.metrics import (
    CLIPPED_SCORES,
    LENGTH,
    LENGTH_PENALTY,
    SCORE_PART,
    TERMINATED,
    TERMINATOR_PENALTY,
)
from alignkit.modules.sample_faults import SampleError, distinct
from alignkit.ranks import gather, reader, readers
from alignkit.rollout import Rollout, in_order
from alignkit.rollout_settings import RewardSettings
from alignkit.sampling.sampler import Sampler
from alignkit.sampling.together import draw_together, own_places
from alignkit.scorers.scorer import Answers, Scorer

OWN_SCORES = ""
"""Beside metrics, which have names."""
TokenReader = Callable[[PackedBatch], tuple[PolicyTokens, Tensor]]
"""What the policy and its value head say of a batch's tokens, and the reference's log-probs [N]. Without gradient."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Writing:
    """How completions are written and read."""

    tokenizer: PreTrainedTokenizerBase
    terminator: int
    """The token that ends a completion."""
    packing: Packing
    """Of batches that are looked at and not trained on."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """A rollout and what it took."""

    rollout: Rollout
    answers: Answers
    metrics: Mapping[str, Tensor]
    """[C] each, by metric name: lengths, penalties, parts of the score."""
    seconds: Mapping[str, float]
    """`sampling` and `scoring`."""


@final
class Collector:
    """Answers prompts and says what the answers are worth."""

    def __init__(self, *, sampler: Sampler, scorer: Scorer, reward: RewardSettings, writing: Writing) -> None:
        self.sampler = sampler
        self.scorer = scorer
        self.reward = reward
        self.writing = writing

    def __call__(self, prompts: Sequence[EncodedExample], *, samples: int, seed: int, read: TokenReader, device: torch.device) -> Collected:
        """A rollout of so many samples a prompt; its examples are numbered in the order of the prompts."""
        begun = time.perf_counter()
        drawn = draw_together(self.sampler, [prompt.prompt_ids for prompt in prompts], samples=samples, seed=seed)
        sampled = time.perf_counter()
        examples = tuple(
            EncodedExample(key=key, prompt_ids=prompt.prompt_ids, completion_ids=tuple(sample.ids for sample in own), source=prompt.source)
            for key, (prompt, own) in enumerate(zip(prompts, drawn, strict=True))
        )
        answers = self.answers(examples)
        scores, metrics = self.worth_together(answers)
        tokens, reference_logps = read_tokens(examples, self.writing.packing, read, device)
        rollout = Rollout(
            examples=examples,
            sampled_logps=torch.tensor([logp for own in drawn for sample in own for logp in sample.logps], dtype=tokens.logps.dtype),
            scores=scores,
            logps=tokens.logps,
            reference_logps=reference_logps,
            values=tokens.values,
        )
        seconds = {"sampling": sampled - begun, "scoring": time.perf_counter() - sampled}
        return Collected(rollout=rollout, answers=answers, metrics=metrics, seconds=seconds)

    def answers(self, examples: tuple[EncodedExample, ...]) -> Answers:
        """The same as tokens and as text."""
        return answers_of(examples, self.writing.tokenizer, self.writing.terminator)

    def worth_together(self, answers: Answers) -> tuple[Tensor, dict[str, Tensor]]:
        """`worth`, of which each rank finds out that of its share of the prompts."""
        if readers() == 1:
            return self.worth(answers)
        own = own_places(len(answers.examples))
        found: dict[str, list[Tensor]] = {}
        fault: SampleError | None = None
        if own:
            counts = [len(answers.examples[place].completion_ids) for place in own]
            try:
                scores, metrics = self.worth(self.answers(tuple(answers.examples[place] for place in own)))
                found = {name: list(values.cpu().split(counts)) for name, values in {OWN_SCORES: scores, **metrics}.items()}
            except SampleError as error:
                places = tuple(own[place] for place in error.places)
                fault = SampleError(str(error), why=error.why, examples=answers.examples, places=places)
        parts = gather(found)
        for found_by_one in gather(fault):
            if found_by_one is not None:
                raise found_by_one
        count, everyone = len(answers.examples), len(parts)
        values = {name: torch.cat([parts[place % everyone][name][place // everyone] for place in range(count)]) for name in parts[0]}
        return values.pop(OWN_SCORES), values

    def worth(self, answers: Answers) -> tuple[Tensor, dict[str, Tensor]]:
        """[C] scores after clipping and penalties, and what they are made of, [C] by metric name.

        Raises:
            SampleError: when the scorer says what is no number.
        """
        said = self.scorer(answers)
        if not said.total.isfinite().all():
            bad = (~said.total.isfinite()).nonzero()[:, 0].cpu()
            worst, score = int(bad[0]), float(said.total[bad[0]])
            owners = torch.arange(len(answers.examples)).repeat_interleave(
                torch.tensor([len(example.completion_ids) for example in answers.examples])
            )
            raise SampleError(
                f"scorer: the score of {answers.completions[worst][:200]!r} is {score}, not a finite number.",
                why=f"the score of a sample is {score}",
                examples=answers.examples,
                places=distinct(owners[bad]),
            )
        lengths, cut = answers.lengths.float(), (~answers.finished).float()
        metrics = {LENGTH: lengths, TERMINATED: 1 - cut}
        metrics |= {SCORE_PART + name: part for name, part in said.parts.items()}
        scores = said.total.float()
        if self.reward.clip is not None:
            clipped = scores.clamp(-self.reward.clip, self.reward.clip)
            metrics[CLIPPED_SCORES] = (clipped != scores).float()
            scores = clipped
        for name, price, count in (
            (LENGTH_PENALTY, self.reward.length_penalty, lengths),
            (TERMINATOR_PENALTY, self.reward.missing_terminator_penalty, cut),
        ):
            if price > 0:
                metrics[name] = price * count
                scores = scores - metrics[name]
        return scores, metrics


def answers_of(examples: tuple[EncodedExample, ...], tokenizer: PreTrainedTokenizerBase, terminator: int) -> Answers:
    """Examples as a scorer takes them, as tokens and as text; `terminator` ends a completion that was not cut."""
    prompts: list[str] = tokenizer.batch_decode([list(example.prompt_ids) for example in examples], skip_special_tokens=True)
    completions: list[str] = tokenizer.batch_decode(
        [list(ids) for example in examples for ids in example.completion_ids], skip_special_tokens=True
    )
    return Answers(examples=examples, prompts=tuple(prompts), completions=tuple(completions), terminator=terminator)


@torch.no_grad()
def read_tokens(
    examples: Sequence[EncodedExample], packing: Packing, read: TokenReader, device: torch.device
) -> tuple[PolicyTokens, Tensor]:
    """What policy and value head say of all tokens, and the reference's log-probs: [N] on the CPU, in the order of the examples.

    Each rank reads its share of them.
    """
    batches = share_of(examples, packing, reader(), readers())
    said = [read(move_data_to_device(batch, device)) for batch in batches]
    has_values = said[0][0].values is not None

    def flat(values: Sequence[Tensor | None]) -> Tensor:
        own = [(batch.example_keys, of_batch.cpu()) for batch, of_batch in zip(batches, values, strict=True) if of_batch is not None]
        return in_order(examples, [of_batch for part in gather(own) for of_batch in part])

    tokens = PolicyTokens(
        logps=flat([tokens.logps for tokens, _ in said]), values=flat([tokens.values for tokens, _ in said]) if has_values else None
    )
    return tokens, flat([reference for _, reference in said])
