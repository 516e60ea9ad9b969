"""Answers and run directories of toy models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.loss_settings import HeadSettings
from alignkit.models.backbone import Backbone
from alignkit.models.export import save_heads, save_model
from alignkit.models.heads import Heads
from alignkit.run_dir import RunDir
from alignkit.scorers.scorer import Answers, Surroundings

END = 2
"""The terminator of the toy tokenizers."""


@pytest.fixture
def answers(tokenizer_factory) -> Answers:
    """Two prompts with two and three completions, one of them empty, two of them equal, one cut."""
    return write_answers(tokenizer_factory(), [((1, 5, 6, 7), [(8, 9, END), (END,)]), ((1, 10, 11), [(12, 13, 14), (15, END), (15, END)])])


@pytest.fixture(scope="session")
def other_tokenizer() -> PreTrainedTokenizerFast:
    """The words of the toy tokenizer under other numbers: `w<n>` is 100 - n."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{100 - n}": n for n in range(4, 97)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w96"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@pytest.fixture
def write() -> Callable[..., Answers]:
    """Answers of token ids, see `write_answers`."""
    return write_answers


def write_answers(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[tuple[tuple[int, ...], Sequence[tuple[int, ...]]]], *, terminator: int = END
) -> Answers:
    """Answers of token ids, with the texts that they stand for."""

    def text(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True))

    return Answers(
        # Keys of a rollout are places in a data set, and the same prompt may be drawn twice.
        examples=tuple(EncodedExample(key=7, prompt_ids=prompt, completion_ids=tuple(completions)) for prompt, completions in ids),
        prompts=tuple(text(prompt) for prompt, _ in ids),
        completions=tuple(" " + text(completion) for _, completions in ids for completion in completions),
        terminator=terminator,
    )


@pytest.fixture
def surroundings(tokenizer_factory) -> Callable[..., Surroundings]:
    """What scorers of toy models are opened in; micro-batches hold an example or two."""

    def build(**changes: object) -> Surroundings:
        def packing(backbone: Backbone) -> Packing:
            return Packing(layout=backbone.layout("packed"), tokens=16, row_tokens=16)

        settings = {"device": torch.device("cpu"), "dtype": torch.float32, "attention": "dense", "packing": packing}
        return Surroundings(**{**settings, "tokenizer": tokenizer_factory(), **changes})  # type: ignore[arg-type]

    return build


@pytest.fixture
def write_run(lm_factory, tokenizer_factory, tmp_path) -> Callable[..., tuple[RunDir, Backbone, Heads]]:
    """A run directory with a toy model and heads of these settings, by name."""

    def write(
        *, tokenizer: PreTrainedTokenizerBase | None = None, name: str = "run", seed: int = 0, architecture: str = "llama", **heads: dict
    ) -> tuple[RunDir, Backbone, Heads]:
        run = RunDir(tmp_path / name)
        run.path.mkdir()
        backbone = Backbone(lm_factory(architecture))
        torch.manual_seed(seed)
        defaults = {"pooler": "identity", "dropout": 0.0, "init_std": 0.3}
        built = Heads(backbone.hidden_width, {name: HeadSettings(name=name, **{**defaults, **own}) for name, own in heads.items()})
        for parameter in built.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        tokenizer = tokenizer or tokenizer_factory()
        save_model(run.model, backbone, tokenizer)
        if heads:
            save_heads(run, built, terminator=END, tokenizer=tokenizer)
        return run, backbone, built.eval()

    return write
