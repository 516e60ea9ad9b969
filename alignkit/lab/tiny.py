"""`python -m alignkit.lab.tiny OUT_DIR` writes the blank tiny model: 1.4 M random weights and a tokenizer that knows the reviews world.

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

from alignkit.lab.reviews import ReviewsWorld

BOS, END, PAD = "<|bos|>", "<|end|>", "<|pad|>"
VOCABULARY = 1024
"""Tokens: 3 special ones, 256 bytes, and what the reviews are made of."""
POSITIONS = 512
TOKENIZER_REVIEWS = 4000
"""Training reviews that the tokenizer's merges are counted on."""


def write_blank_model(folder: Path, *, seed: int = 0) -> None:
    """Write a Hugging Face folder with random float32 weights that `seed` decides, and the tokenizer of the reviews world.

    The tokenizer puts `<|bos|>` before each text; nothing adds `<|end|>`, the end of sequence. There is no chat template.
    """
    tokenizer = _tokenizer(ReviewsWorld(seed=0))
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=160,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=5,
        num_key_value_heads=5,
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
    options = parser.parse_args(arguments)
    write_blank_model(options.folder, seed=options.seed)
    print(f"model: {options.folder}")


if __name__ == "__main__":
    main()
