"""What a run's data become under its tokenizer, as plain numbers and texts. Loads no weights, writes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from alignkit.assembly import plan_packing, read_inputs
from alignkit.batches import Layout
from alignkit.data.encoding import Encoder
from alignkit.data.examples import EncodedExample
from alignkit.data.measured import looked_at
from alignkit.data.packing import Packing
from alignkit.data.preparation import PreparedData
from alignkit.data.steps import Steps
from alignkit.hardware import device_kind
from alignkit.models.skeleton import skeleton
from alignkit.settings import RunSettings

FIRST_STEPS = 10
"""Optimiser steps whose packing is measured."""
NAMES = ("chosen", "rejected")
"""Of a pair's completions; one alone is the `completion`."""
MOST_TOKENS_A_CHARACTER = 4
"""Bytes of a character in UTF-8."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Token counts of many sequences."""

    low: int
    median: int
    high: int
    """95 % are not longer."""
    longest: int


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutCost:
    """What the first optimiser steps need in one layout."""

    layout: Layout
    micro_batches: int
    rows: int
    tokens: int
    """Without padding; a prompt counts each time it is computed."""
    positions: int
    """With padding."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Ends:
    """How prompts begin and completions end."""

    terminator: str
    terminator_id: int
    completions: int
    terminated: int
    """Completions that end with the terminator."""
    early: int
    """Completions that hold it before their end: must be 0."""
    bos: str | None
    """The tokenizer's beginning-of-text token, if it has one."""
    bos_id: int | None
    prompts: int
    begun: int
    """Prompts that begin with that token."""
    begun_twice: int
    """Prompts that begin with two of them: must be 0."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ShownExample:
    """An example as the texts of its tokens. A character of several tokens is the text of the last one, the others have none."""

    number: int
    """1 is the first training example."""
    prompt: list[str]
    completions: dict[str, list[str]]
    """By name: chosen, rejected."""
    terminated: dict[str, bool]
    """Whether the completion of that name ends with the terminator."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """Everything that the audit tells."""

    model: str
    data: str
    head: str | None
    """Name of the head that the objective trains."""
    counts: Mapping[str, int]
    lengths: Mapping[str, Spread]
    steps: int
    """Steps that `layouts` measures."""
    layouts: tuple[LayoutCost, ...]
    """Those that are possible, packed first."""
    layout: Layout
    """The one in use."""
    why_not_packed: str | None
    """Why the model cannot take packed rows, if it cannot."""
    ends: Ends
    train: int
    """Training examples."""
    examples: list[ShownExample]


def inspect_run(settings: RunSettings, *, examples: int) -> Inspection:
    """Prepare the data of a run as training would, and measure them. The first `examples` training examples are told in full.

    Raises:
        UserError: when the data, the model or their combination cannot work; what training would say before it loads weights.
    """
    inputs = read_inputs(settings)
    prepared, config, tokenizer, end = inputs.prepared, inputs.config, inputs.tokenizer, inputs.terminator
    train = looked_at(prepared.train)
    everything = [*train, *prepared.validation]
    completions = max(len(example.completion_ids) for example in train)
    names = {1: ("completion",), 2: NAMES}.get(completions) or tuple(f"completion {rank}" for rank in range(1, completions + 1))
    backbone = skeleton(inputs.path, config).use_attention(settings.model.attention, device_kind(settings.hardware.accelerator))
    layouts: tuple[Layout, ...] = ("packed", "rows") if backbone.why_not_packed() is None else ("rows",)
    packings = [plan_packing(replace(settings.batch, layout=layout), backbone) for layout in layouts]
    steps = min(FIRST_STEPS, settings.steps)
    return Inspection(
        model=model_line(settings, config),
        data=data_form(settings, prepared),
        head=", ".join(inputs.heads) or None,
        counts=prepared.counts,
        lengths=length_spreads(everything, names),
        steps=steps,
        layouts=tuple(layout_cost(prepared.train, packing, settings.batch.pairs, steps, settings.seed) for packing in packings),
        layout=backbone.layout(settings.batch.layout),
        why_not_packed=backbone.why_not_packed(),
        ends=count_ends(everything, tokenizer, end),
        train=len(prepared.train),
        examples=[shown_example(number, item, tokenizer, names, end) for number, item in enumerate(prepared.train[:examples], start=1)],
    )


def model_line(settings: RunSettings, config: PretrainedConfig) -> str:
    """What the model is, in a line."""
    context = getattr(config, "max_position_embeddings", None)
    positions = "" if context is None else f", {context:,} positions"
    return f"{settings.model.name} ({settings.model.path}): {config.model_type}, vocabulary of {config.vocab_size:,} tokens{positions}"


def data_form(settings: RunSettings, prepared: PreparedData) -> str:
    """What the texts are and how they are written for the model."""
    encoder: Encoder = prepared.encoder
    is_text = isinstance(prepared.validation_texts[0].prompt, str)
    if encoder.uses_template and (encoder.strings_are_messages or not is_text):
        form = f"{'plain texts' if is_text else 'dialogues'} through the tokenizer's chat template"
    elif is_text:
        form = "plain texts, as they stand"
    else:
        why = "the tokenizer has no chat template" if settings.dataset.format == "auto" else "dataset.format=text"
        form = f"dialogues as plain text, 'Human:' and 'Assistant:' ({why})"
    return f"{settings.dataset.name}{f' ({settings.dataset.path})' if settings.dataset.path else ''}: {form}"


def length_spreads(examples: Sequence[EncodedExample], names: Sequence[str]) -> dict[str, Spread]:
    """Token counts of the prompts and of each kind of completion."""
    sides = {name: [len(example.completion_ids[place]) for example in examples] for place, name in enumerate(names)}
    return {name: spread(lengths) for name, lengths in {"prompt": [len(example.prompt_ids) for example in examples], **sides}.items()}


def spread(lengths: Sequence[int]) -> Spread:
    """Least, median, 95th percentile (nearest rank: every number is a length that occurs) and greatest."""
    ordered = sorted(lengths)
    return Spread(low=ordered[0], median=_nearest_rank(ordered, 50), high=_nearest_rank(ordered, 95), longest=ordered[-1])


def layout_cost(examples: Sequence[EncodedExample], packing: Packing, pairs: int, steps: int, seed: int) -> LayoutCost:
    """Cut the run's first steps into micro-batches and count."""
    data = Steps(examples, pairs=pairs, steps=steps, seed=seed, packing=packing)
    batches = list(itertools.chain.from_iterable(data[step].micro_batches for step in range(steps)))
    return LayoutCost(
        layout=packing.layout,
        micro_batches=len(batches),
        rows=sum(part.input_ids.shape[0] for part in batches),
        tokens=sum(int((part.example_ids >= 0).sum()) for part in batches),
        positions=sum(part.input_ids.numel() for part in batches),
    )


def count_ends(examples: Sequence[EncodedExample], tokenizer: PreTrainedTokenizerBase, terminator_id: int) -> Ends:
    """Beginnings of prompts and ends of completions."""
    completions = [ids for example in examples for ids in example.completion_ids]
    bos_id = tokenizer.bos_token_id
    starts = [[token == bos_id for token in example.prompt_ids[:2]] for example in examples]
    return Ends(
        terminator=_token_text(tokenizer, terminator_id),
        terminator_id=terminator_id,
        completions=len(completions),
        terminated=sum(ids[-1] == terminator_id for ids in completions),
        early=sum(terminator_id in ids[:-1] for ids in completions),
        bos=None if bos_id is None else _token_text(tokenizer, bos_id),
        bos_id=bos_id,
        prompts=len(examples),
        begun=sum(start[0] for start in starts),
        begun_twice=sum(start == [True, True] for start in starts),
    )


def shown_example(
    number: int, example: EncodedExample, tokenizer: PreTrainedTokenizerBase, names: Sequence[str], terminator_id: int
) -> ShownExample:
    """An example as texts of tokens."""
    before = len(example.prompt_ids)
    branches = dict(zip(names, example.completion_ids, strict=True))
    return ShownExample(
        number=number,
        prompt=token_texts(tokenizer, example.prompt_ids),
        completions={name: token_texts(tokenizer, (*example.prompt_ids, *ids))[before:] for name, ids in branches.items()},
        terminated={name: ids[-1] == terminator_id for name, ids in branches.items()},
    )


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text that each token adds to those before it.

    A token alone does not say it: SentencePiece drops the space before a lone word, and a character may take several tokens.
    """
    texts: list[str] = []
    start = 0  # of the tokens whose text is not complete yet
    for end in range(1, len(ids) + 1):
        known = _token_text(tokenizer, *ids[max(0, start - 1) : start])
        grown = _token_text(tokenizer, *ids[max(0, start - 1) : end])
        text = grown.removeprefix(known) if grown.startswith(known) else _token_text(tokenizer, *ids[start:end])
        if text.endswith("\N{REPLACEMENT CHARACTER}") and end < len(ids) and end - start < MOST_TOKENS_A_CHARACTER:
            texts.append("")
            continue
        texts.append(text)
        start = end
    return texts


def _nearest_rank(ordered: Sequence[int], percent: int) -> int:
    return ordered[max(1, -(-len(ordered) * percent // 100)) - 1]


def _token_text(tokenizer: PreTrainedTokenizerBase, *ids: int) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
