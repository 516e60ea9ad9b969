"""Answers of a model and of its reference to the same prompts, and what is known of them.   E prompts   M samples of each"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO, final

import torch
from torch import Tensor

from alignkit.data.examples import EncodedExample, PreferenceExample
from alignkit.evaluating.two_models import TwoModels
from alignkit.evaluation.sample_measures import PromptSamples
from alignkit.evaluation.token_sums import SampleReader, token_sums
from alignkit.generation.answering import continuations
from alignkit.generation.prompt_reading import PromptReader
from alignkit.models.backbone import Backbone
from alignkit.modules.collector import Collector, Writing
from alignkit.modules.draws import Stream
from alignkit.rollout_assembly import build_sampler, nobody
from alignkit.scorers.scorer import Scorer
from alignkit.settings import RunSettings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SideBySide:
    """Asks both models. The same random numbers are drawn for both: where they are one function, they answer the same."""

    settings: RunSettings
    models: TwoModels
    writing: Writing
    reader: PromptReader
    toxicity: Scorer | None
    """None where nobody scores."""

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[PreferenceExample], file: TextIO, progress: Callable[[int], None]
    ) -> tuple[list[PromptSamples], list[PromptSamples]]:
        """Samples of the reference and of the model, by prompt. `file` gets a line a prompt, on disk as soon as a batch of `batch.pairs`
        prompts has been answered; `progress` is told how many that are."""
        before: list[PromptSamples] = []
        after: list[PromptSamples] = []
        temperature, size = self.settings.rollout.temperature, self.settings.batch.pairs
        model, reference = self.models.model, self.models.reference
        sides = (
            (before, self._collector(reference), SampleReader(model=reference, temperature=temperature)),
            (after, self._collector(model), SampleReader(model=model, reference=reference, temperature=temperature)),
        )
        for number, start in enumerate(range(0, len(prompts), size)):
            some = prompts[start : start + size]
            for side, collector, read in sides:
                side += self._answered(some, collector, read, number)
            for prompt, ours, theirs in zip(some, after[start:], before[start:], strict=True):
                file.write(json.dumps(_row(prompt, ours, theirs), ensure_ascii=False) + "\n")
            file.flush()
            progress(start + len(some))
        return before, after

    def _collector(self, backbone: Backbone) -> Collector:
        sampler = build_sampler(self.settings, backbone, self.writing.terminator)
        return Collector(sampler=sampler, scorer=self.toxicity or nobody, reward=self.settings.reward, writing=self.writing)

    def _answered(self, prompts: Sequence[PreferenceExample], collector: Collector, read: SampleReader, number: int) -> list[PromptSamples]:
        ids = [self.reader(prompt) for prompt in prompts]
        drawn = collector.sampler(ids, samples=self.settings.rollout.samples, seed=Stream.HELD_OUT.seed(self.settings.seed, number))
        examples = tuple(
            EncodedExample(key=key, prompt_ids=own, completion_ids=tuple(sample.ids for sample in samples))
            for key, (own, samples) in enumerate(zip(ids, drawn, strict=True))
        )
        sums = token_sums(examples, self.models.packing, self.models.device, read)
        answers = collector.answers(examples)
        ended = self._apart(answers.finished)
        scores = None if self.toxicity is None else self._apart(self.toxicity(answers).total)
        apart = {name: self._apart(values) for name, values in sums.items()}
        return [
            PromptSamples(
                texts=continuations(self.writing.tokenizer, example, joined=self.reader.joins(prompt)),
                tokens=tuple(map(len, example.completion_ids)),
                ended=ended[place],
                sums={name: values[place] for name, values in apart.items()},
                toxicity=None if scores is None else scores[place],
            )
            for place, (prompt, example) in enumerate(zip(prompts, examples, strict=True))
        ]

    def _apart(self, values: Tensor) -> list[tuple[Any, ...]]:
        """[E * M] by prompt."""
        return [tuple(of_prompt) for of_prompt in values.view(-1, self.settings.rollout.samples).tolist()]


def _row(prompt: PreferenceExample, ours: PromptSamples, theirs: PromptSamples) -> dict[str, Any]:
    """What `samples.jsonl` holds."""
    asked = prompt.prompt if isinstance(prompt.prompt, str) else [dataclasses.asdict(message) for message in prompt.prompt]
    return {"prompt": asked, "model": list(ours.texts), "reference": list(theirs.texts)}
