"""What alignkit's training costs: against length, prompt share, completions a prompt and micro-batch, and how much of the machine it uses.

    python tests/bench/scaling.py [model=DIR] [precision=fp32|bf16] [lengths=128,256,512] [completions=2,4,8] [shares=0.1,0.5,0.9]
        [batch_tokens=1024,2048,4096,8192] [examples=8] [repeats=3] [threads=2] [out=FILE]

One step is the forward and the backward pass of log-probs over random token ids, in micro-batches as training cuts them; no optimiser.
Columns: tokens with each prompt once (what `layout=packed` computes) and with a prompt a completion (what `layout=rows` computes, and
with it every tool that lays out prompt and completion as a row), seconds, microseconds a packed token, and the share of the machine's peak
that the necessary operations (flops.py) reach. The peak is that of a square matrix product in the same number format, measured in the same
process. If the cost grows with prompt + sum of completions, microseconds a token stay flat in every packed row, while those of `rows` grow
with the number of completions.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal, final

import torch
from flops import ModelSize, training_flops
from measure import append_record, machine, median, parse_arguments, say
from torch import nn

from alignkit.batches import Layout
from alignkit.data.collate import micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.hardware import keep_freed_memory
from alignkit.models.backbone import Backbone
from alignkit.models.loading import load_lm
from alignkit.models.location import locate


@final
@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments."""

    model: str = "builtin:tiny"
    precision: Literal["bf16", "fp32"] = "fp32"
    lengths: tuple[int, ...] = (128, 256, 512)
    """Tokens of a prompt with one completion."""
    shares: tuple[float, ...] = (0.1, 0.5, 0.9)
    """Part of them that is the prompt."""
    completions: tuple[int, ...] = (2, 4, 8)
    batch_tokens: tuple[int, ...] = (1024, 2048, 4096, 8192)
    """Positions of a micro-batch."""
    examples: int = 8
    """Of a step."""
    repeats: int = 3
    """Steps of each shape whose median is taken, after one that is left out."""
    threads: int = 2
    out: str = ""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """One line of the table: what the other lines vary, at its middle."""

    length: int
    share: float = 0.5
    completions: int = 2
    batch_tokens: int = 4096
    layout: Layout = "packed"

    @property
    def tokens(self) -> tuple[int, tuple[int, ...]]:
        """Of the prompt and of each completion."""
        prompt = max(1, round(self.length * self.share))
        return prompt, (self.length - prompt,) * self.completions


def shapes(options: Options) -> list[Shape]:
    """Every axis on its own; the others stay where they are."""
    middle = options.lengths[len(options.lengths) // 2]
    layouts: tuple[Layout, ...] = ("packed", "rows")
    return [
        *(Shape(length=length) for length in options.lengths),
        *(Shape(length=middle, share=share) for share in options.shares),
        *(Shape(length=middle, completions=count, layout=layout) for layout in layouts for count in options.completions),
        *(Shape(length=middle, batch_tokens=tokens) for tokens in options.batch_tokens),
    ]


def model_size(backbone: Backbone) -> ModelSize:
    """Parameters by what they cost: embeddings are looked up, the output embedding is a matrix product of completion tokens."""
    head = backbone.lm.get_output_embeddings().weight
    looked_up = {id(parameter) for module in backbone.modules() if isinstance(module, nn.Embedding) for parameter in module.parameters()}
    config = backbone.lm.config
    width = (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads) * config.num_attention_heads
    return ModelSize(
        trunk=sum(parameter.numel() for parameter in backbone.parameters() if id(parameter) not in {*looked_up, id(head)}),
        head=head.numel(),
        layers=config.num_hidden_layers,
        attention_width=width,
    )


def random_examples(shape: Shape, count: int, vocabulary: int) -> list[EncodedExample]:
    """Examples of one size; what the tokens are costs nothing."""
    generator = torch.Generator().manual_seed(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (length,), generator=generator).tolist())

    prompt, completions = shape.tokens
    return [EncodedExample(key=key, prompt_ids=ids(prompt), completion_ids=tuple(map(ids, completions))) for key in range(count)]


def matmul_flops(dtype: torch.dtype) -> float:
    """Operations a second of the better of two square products: the most that this machine gives PyTorch just now."""
    best = 0.0
    for size in (1024, 2048):
        left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
        for _ in range(3):
            started = time.perf_counter()
            torch.mm(left, right)
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def step_seconds(backbone: Backbone, shape: Shape, options: Options) -> float:
    """Wall time of one step; laying out its batches is not in it."""
    examples = random_examples(shape, options.examples, backbone.lm.config.vocab_size)
    batches = micro_batches(examples, Packing(layout=shape.layout, tokens=shape.batch_tokens))
    started = time.perf_counter()
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
            logps = backbone.token_scores(backbone.hidden_states(batch), batch).logps
        (-logps.sum() / len(examples)).backward()
    seconds = time.perf_counter() - started
    backbone.zero_grad()
    return seconds


def measure(backbone: Backbone, options: Options) -> tuple[dict[Shape, float], float]:
    """Median seconds of a step of each shape, and the machine's peak.

    The shapes take turns, so that what slows the machine for a while slows all of them, and the peak's measurement too.
    """
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    seconds: dict[Shape, list[float]] = {shape: [] for shape in shapes(options)}
    peaks = []
    for turn in range(options.repeats + 1):
        peaks.append(matmul_flops(dtype))
        for shape, times in seconds.items():
            times.append(step_seconds(backbone, shape, options))
        say(f"turn {turn} of {options.repeats}{' (left out)' if turn == 0 else ''}: {sum(times[-1] for times in seconds.values()):.1f} s")
    return {shape: median(times[1:]) for shape, times in seconds.items()}, max(peaks)


def table(backbone: Backbone, options: Options, seconds: Mapping[Shape, float], peak: float) -> list[dict[str, object]]:
    """Print every line and return them."""
    size = model_size(backbone)
    headings = ("length", "share", "completions", "batch tokens", "layout", "packed", "rows", "seconds", "us/token", "of peak")
    say("".join(f"{heading:>13}" for heading in headings))
    records: list[dict[str, object]] = []
    for shape in shapes(options):
        prompt, completions = shape.tokens
        packed = options.examples * (prompt + sum(completions))
        rows = options.examples * sum(prompt + completion for completion in completions)
        share = training_flops(size, [(prompt, completions)] * options.examples) / seconds[shape] / peak
        micro = 1e6 * seconds[shape] / packed
        cost = {"seconds": seconds[shape], "microseconds_per_token": micro, "share_of_peak": share}
        records.append({**dataclasses.asdict(shape), "packed_tokens": packed, "rows_tokens": rows, **cost})
        cells: Sequence[object] = (*dataclasses.astuple(shape), packed, rows, f"{seconds[shape]:.3f}", f"{micro:.1f}", f"{share:.2f}")
        say("".join(f"{cell!s:>13}" for cell in cells))
    return records


def main() -> None:
    options = parse_arguments(Options, sys.argv[1:])
    torch.set_num_threads(options.threads)
    before = machine()
    keep_freed_memory()
    backbone = Backbone(load_lm("model", locate("model", options.model), torch.float32)).use_attention("auto", "cpu")
    say(f"machine: {options.threads} threads, " + ", ".join(f"{key} {value}" for key, value in before.items()))
    seconds, peak = measure(backbone, options)
    say(f"peak: {peak / 1e9:.0f} GFLOP/s in {options.precision}; {model_size(backbone)}")
    records = table(backbone, options, seconds, peak)
    versions = {name: version(name) for name in ("alignkit", "torch", "transformers")}
    record = {"benchmark": "scaling", "options": dataclasses.asdict(options), "machine": before, "versions": versions}
    append_record(options.out, {**record, "peak_flops": peak, "lines": records})


if __name__ == "__main__":
    main()
