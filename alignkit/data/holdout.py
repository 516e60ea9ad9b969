"""Which examples are held out: a function of their prompts, not of their order."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence

from alignkit.data.examples import PreferenceExample
from alignkit.errors import UserError


def prompt_key(example: PreferenceExample) -> str:
    """A text that two examples share exactly when they have the same prompt; without a prompt, when they are the same text."""
    if isinstance(example.prompt, str):
        return example.prompt or json.dumps(example.completions, ensure_ascii=False)
    return json.dumps([(message.role, message.content) for message in example.prompt], ensure_ascii=False)


def prompt_digest(example: PreferenceExample) -> bytes:
    """SHA-256 of the prompt: what decides who is held out."""
    return hashlib.sha256(prompt_key(example).encode()).digest()


def content_digest(example: PreferenceExample) -> bytes:
    """SHA-256 of prompt and completions."""
    return hashlib.sha256(json.dumps([prompt_key(example), example.completions], ensure_ascii=False).encode()).digest()


def hold_out(examples: Sequence[PreferenceExample], count: int) -> tuple[list[PreferenceExample], list[PreferenceExample]]:
    """Training and held-out examples, both in the order they came.

    Whole prompts go, in the order of their SHA-256, until at least `count` examples are held out. So no prompt is on both sides, the
    order of the rows changes nothing, and an added prompt moves itself and at most those that it crowds out.
    """
    keys = [prompt_key(example) for example in examples]
    sizes = Counter(keys)
    taken: set[str] = set()
    held = 0
    for key in sorted(sizes, key=lambda key: hashlib.sha256(key.encode()).digest()):
        if held >= count:
            break
        taken.add(key)
        held += sizes[key]
    train = [example for example, key in zip(examples, keys, strict=True) if key not in taken]
    validation = [example for example, key in zip(examples, keys, strict=True) if key in taken]
    return train, validation


def check_share(examples: Sequence[PreferenceExample], held: int, *, count: int, where: str) -> None:
    """Refuse to hold out more than half of the examples.

    Raises:
        UserError: with the numbers and a number that would do.
    """
    if 2 * held <= len(examples):
        return
    modest = len(hold_out(examples, modest_count(len(examples)))[1])
    prompts = len({prompt_key(example) for example in examples})
    raise UserError(too_much_held(count, held, len(examples), prompts=prompts, modest=modest, where=where))


def modest_count(examples: int) -> int:
    """Of so many examples, how many to hold out."""
    return max(1, examples // 10)


def too_much_held(count: int, held: int, examples: int, *, prompts: int, modest: int, where: str) -> str:
    """What is said of `held` of `examples` held out where `count` were asked for; `modest` of them would be for `modest_count`."""
    works = 2 * modest <= examples
    advice = f"Try dataset.validation_examples={modest_count(examples)}, or give" if works else "Whole prompts are held out; give"
    return (
        f"dataset.validation_examples = {count} would hold out {held} of the {examples} examples "
        f"({prompts} prompt{'' if prompts == 1 else 's'}) of {where}; "
        f"at most half may be. {advice} a second file with dataset.validation_path=FILE."
    )
