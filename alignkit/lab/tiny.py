"""`python -m alignkit.lab.tiny OUT_DIR` writes the blank tiny model: 1.4 M random weights and a tokenizer that knows the reviews world.

`--width` and `--layers` make smaller and larger ones that share the tokenizer: 64 and 2 have 0.2 M weights, 320 and 6 have 8.0 M.

`alignkit.train loss=sft dataset=reviews dataset.noise=0.5 model.path=OUT_DIR` teaches it to write reviews: with noise 0.5 the chosen
completion of a pair is either one with equal chance, so that the model learns the world as it is and not what is preferred.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignkit.errors import UserError, check_range
from alignkit.lab.reviews import ReviewsWorld

BOS, END, PAD = "<|bos|>", "<|end|>", "<|pad|>"
VOCABULARY = 1024
"""Tokens: 3 special ones, 256 bytes, and what the reviews are made of."""
POSITIONS = 512
HEAD_WIDTH = 32
"""Numbers of an attention head, whatever the width."""
WIDTH, LAYERS = 160, 4
"""Of `model=tiny`."""
TOKENIZER_REVIEWS = 4000
"""Training reviews that the tokenizer's merges are counted on."""


def write_blank_model(folder: Path, *, seed: int = 0, width: int = WIDTH, layers: int = LAYERS) -> None:
    """Write a Hugging Face folder with random float32 weights that `seed` decides, and the tokenizer of the reviews world.

    `width` numbers stand for a token, in heads of 32, and 2.8 times as many between the two products of a layer, to the nearest 8. The
    tokenizer is the same for every size and seed, so that log-probs of different models can be compared token by token.

    The tokenizer puts `<|bos|>` before each text; nothing adds `<|end|>`, the end of sequence. There is no chat template.

    Raises:
        UserError: for a width that cannot be cut into heads, or no layers.
    """
    check_range("--width", width, low=HEAD_WIDTH, hint="Try 160.")
    check_range("--layers", layers, low=1, hint="Try 4.")
    if width % HEAD_WIDTH:
        near = HEAD_WIDTH * max(1, round(width / HEAD_WIDTH))
        raise UserError(f"--width = {width}; must be a multiple of {HEAD_WIDTH}, the width of an attention head. Try --width {near}.")
    tokenizer = _tokenizer(ReviewsWorld(seed=0))
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=8 * round(0.35 * width),
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD_WIDTH,
        num_key_value_heads=width // HEAD_WIDTH,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(world: ReviewsWorld) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that every text survives a round trip."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((world.text(index) for index in range(TOKENIZER_REVIEWS)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m alignkit.lab.tiny", description="Write the blank tiny model.")
    parser.add_argument("folder", type=Path, metavar="OUT_DIR", help="where to write it")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--width", type=int, default=WIDTH, help=f"numbers a token, a multiple of {HEAD_WIDTH} (default {WIDTH})")
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"of the model (default {LAYERS})")
    options = parser.parse_args(arguments)
    try:
        write_blank_model(options.folder, seed=options.seed, width=options.width, layers=options.layers)
    except UserError as error:
        parser.error(str(error))
    print(f"model: {options.folder}")


if __name__ == "__main__":
    main()
