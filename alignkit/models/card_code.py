"""The code of a model card: a trained model in plain transformers, its heads with safetensors and torch, and nothing of alignkit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from transformers import PreTrainedTokenizerBase

from alignkit.loss_settings import HeadSettings
from alignkit.models.texts import CHAT, DIALOGUE, PLAIN, Texts
from alignkit.terminal import visible

MOST_NEW_TOKENS = 64
"""Of the answer that the code of a card samples."""
PROMPT_LENGTH = 2**30
"""No example of a card is cut."""
EXAMPLES: Mapping[str, tuple[str, str]] = {
    CHAT: ("What is a good film for a rainy day?", "One that you have not seen yet."),
    DIALOGUE: ("\n\nHuman: What is a good film for a rainy day?\n\nAssistant:", " One that you have not seen yet."),
    PLAIN: ("What is a good film for a rainy day?", " One that you have not seen yet."),
}
"""Prompt and completion, by the kind of texts."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Writing:
    """How a prompt and its completion become token ids, as Python source."""

    prompt: str
    """Of the text that asks for a completion, from the variable `prompt`."""
    whole: str
    """Of the text of both, from `prompt` and `completion`."""
    begin: tuple[int, ...]
    """Ids that stand before each text."""
    end: int
    """The id that stands after a completion."""

    @classmethod
    def of(cls, texts: Texts, tokenizer: PreTrainedTokenizerBase) -> Writing:
        """As the encoder of a run does it."""
        encoder = texts.encoder(tokenizer, PROMPT_LENGTH)
        if texts.kind != CHAT:
            return cls(prompt="prompt", whole="prompt + completion", begin=tuple(encoder.bos), end=texts.terminator_id)
        prompt = 'tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)'
        before, after = (f" + {text!r}" if text else "" for text in (encoder.turn.before, encoder.turn.after))
        lead = encoder.turn.before.rstrip(" ")
        return cls(
            prompt=prompt + (f" + {lead!r}" if lead else ""),
            whole=f"{prompt}{before} + completion{after}",
            begin=(),
            end=texts.terminator_id,
        )

    def ids(self, text: str, *end: int) -> str:
        """Source of the list of a text's ids."""
        begin = "".join(f"{number}, " for number in self.begin)
        return f"[{begin}*tokenizer({text}, add_special_tokens=False).input_ids{''.join(f', {number}' for number in end)}]"


def sampling_code(texts: Texts, tokenizer: PreTrainedTokenizerBase, model: str) -> str:
    """An answer of the model to a prompt; `model` is where it is."""
    writing, (prompt, _) = Writing.of(texts, tokenizer), EXAMPLES[texts.kind]
    return "\n".join(
        [
            "import torch",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f"model = {model!r}",
            "lm, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)",
            f"prompt = {prompt!r}",
            f"ids = torch.tensor([{writing.ids(writing.prompt)}])",
            f"answer = lm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens={MOST_NEW_TOKENS}, do_sample=True, "
            f"eos_token_id={writing.end}, pad_token_id={writing.end})",
            "print(tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True))",
        ]
    )


def scoring_code(
    texts: Texts, tokenizer: PreTrainedTokenizerBase, heads: Sequence[HeadSettings], *, model: str, weights: str, is_repository: bool
) -> str:
    """What the heads say of a completion, one line each: its name and its score.

    `model` is where the model is and `weights` where the heads are, a file beside it, or one of the same repository.
    """
    writing, (prompt, completion) = Writing.of(texts, tokenizer), EXAMPLES[texts.kind]
    layers = sorted({layer for head in heads for layer in head.layers})
    last_only = layers == [-1]
    file = f"hf_hub_download({model!r}, {weights!r})" if is_repository else repr(weights)
    end = tokenizer.convert_ids_to_tokens(writing.end)
    lines = [
        *(["from huggingface_hub import hf_hub_download"] if is_repository else []),
        "import torch",
        "from safetensors.torch import load_file",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"model, heads = {model!r}, load_file({file})" + ("" if is_repository else "  # as seen from this folder"),
        "lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()",
        "tokenizer = AutoTokenizer.from_pretrained(model)",
        f"prompt, completion = {prompt!r}, {completion!r}",
        f"ids = {writing.ids(writing.whole, writing.end)}  # {visible(str(end))} ends it",
    ]
    if any(head.tokens == "attention" for head in heads):
        asked = writing.ids(writing.prompt, -1)
        lines.append(f"start = next(place for place, (a, b) in enumerate(zip({asked}, ids)) if a != b)  # of the completion")
    lines.append(
        "states = lm.base_model(torch.tensor([ids])).last_hidden_state[0]  # [tokens, width]"
        if last_only
        else "layers = lm.base_model(torch.tensor([ids]), output_hidden_states=True).hidden_states"
    )
    for head in heads:
        lines += head_lines(head, last_only=last_only)
    return "\n".join(lines)


def head_lines(head: HeadSettings, *, last_only: bool) -> list[str]:
    """From `states`, or `layers` where any head reads others than the last, to the score of one head, which is printed."""

    def weight(name: str) -> str:
        return f"heads[{json.dumps(f'{head.name}.{name}')}]"

    lines = []
    if len(head.layers) > 1:
        mixed = f"torch.stack([layers[layer][0] for layer in {head.layers}])"
        if head.standardize:
            lines.append(f"mixed = ({mixed} - {weight('shift')}[:, None]) / {weight('scale')}[:, None]")
            mixed = "mixed"
        lines.append(f"read = ({weight('mixture.weights')}.softmax(0)[:, None, None] * {mixed}).sum(0)")
    elif head.standardize:
        states = "states" if last_only else f"layers[{head.layers[0]}][0]"
        lines.append(f"read = ({states} - {weight('shift')}) / {weight('scale')}")
    elif not last_only:
        lines.append(f"read = layers[{head.layers[0]}][0]")
    read = "read" if lines else "states"
    state = f"{read}[-1]"
    if head.tokens == "attention":
        query = f"{weight('attention.query.weight')} @ {read}[-1]"
        lines.append(f"shares = ({read}[start:] @ ({query}) * {read}.shape[1] ** -0.5).softmax(0)")
        lines.append(f"state = {read}[-1] + {weight('attention.value.weight')} @ (shares @ {read}[start:])")
        state = "state"
    if head.pooler in ("bert", "t5"):
        lines.append(f"state = torch.tanh({weight('pooler.map.weight')} @ {state} + {weight('pooler.map.bias')})")
        state = "state"
    elif head.pooler != "identity":
        lines.append(f"value, gate = ({weight('pooler.map.up.weight')} @ {state} + {weight('pooler.map.up.bias')}).chunk(2)")
        gated = "(value * torch.nn.functional.silu(gate))"
        lines.append(f"state = torch.tanh({weight('pooler.map.down.weight')} @ {gated} + {weight('pooler.map.down.bias')})")
        state = "state"
    return [*lines, f"print({json.dumps(head.name)}, ({weight('score.weight')} @ {state}).item())"]
