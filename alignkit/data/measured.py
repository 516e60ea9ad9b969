"""What is asked of all examples of a set; of those in files it is known without reading them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from alignkit.data.arrow_examples import ArrowExamples
from alignkit.data.examples import EncodedExample
from alignkit.settings import RunSettings

LOOKED_AT = 100_000
"""Examples of a file that tell enough of all of them."""
LOOKED_UP = 200_000
"""Examples of files whose cached values are held in memory at most: with their tokens that is about a gigabyte."""


def longest_packed(examples: Sequence[EncodedExample]) -> int:
    """Tokens of the longest example, its prompt once."""
    if isinstance(examples, ArrowExamples):
        return int(examples.tokens.max())
    return max(example.packed_tokens for example in examples)


def longest_prompt(examples: Sequence[EncodedExample]) -> int:
    """Tokens of the longest prompt."""
    if isinstance(examples, ArrowExamples):
        return examples.longest_prompt
    return max(len(example.prompt_ids) for example in examples)


def longest_branch(examples: Sequence[EncodedExample]) -> int:
    """Tokens of the longest prompt with one completion."""
    if isinstance(examples, ArrowExamples):
        return examples.longest_branch
    return max(len(example.prompt_ids) + max(map(len, example.completion_ids)) for example in examples)


def packed_tokens(examples: Sequence[EncodedExample], places: Sequence[int]) -> list[int]:
    """Tokens of the examples in these places, prompts once."""
    if isinstance(examples, ArrowExamples):
        lengths: list[int] = examples.tokens[places].tolist()
        return lengths
    return [examples[place].packed_tokens for place in places]


def by_length(examples: Sequence[EncodedExample]) -> Iterator[EncodedExample]:
    """The longest first, equal ones in their order."""
    if isinstance(examples, ArrowExamples):
        return examples.by_length()
    return iter(sorted(examples, key=lambda example: -example.packed_tokens))


def with_keys(examples: Sequence[EncodedExample], keys: Sequence[int]) -> list[EncodedExample]:
    """The examples that have these keys."""
    if isinstance(examples, ArrowExamples):
        return examples.with_keys(keys)
    by_key = {example.key: example for example in examples}
    return [by_key[key] for key in keys]


def source_counts(examples: Sequence[EncodedExample]) -> Mapping[str, int]:
    """Examples of each part of a mixture; outside of mixtures the name is empty."""
    if isinstance(examples, ArrowExamples):
        return examples.source_counts
    return Counter(example.source for example in examples)


def too_many_to_look_up(settings: RunSettings) -> bool:
    """Whether a run sees more examples of a set that does not fit into memory than values of all of them would."""
    return settings.dataset.streaming and settings.steps * settings.batch.pairs > LOOKED_UP


def looked_at(examples: Sequence[EncodedExample]) -> Sequence[EncodedExample]:
    """All examples that are in memory; of those in files the first ones."""
    return examples[:LOOKED_AT] if isinstance(examples, ArrowExamples) else examples
