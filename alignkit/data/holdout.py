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
    modest = max(1, len(examples) // 10)
    works = 2 * len(hold_out(examples, modest)[1]) <= len(examples)
    advice = f"Try dataset.validation_examples={modest}, or give" if works else "Whole prompts are held out; give"
    raise UserError(
        f"dataset.validation_examples = {count} would hold out {held} of the {len(examples)} examples ({_prompts(examples)}) of {where}; "
        f"at most half may be. {advice} a second file with dataset.validation_path=FILE."
    )


def _prompts(examples: Sequence[PreferenceExample]) -> str:
    distinct = len({prompt_key(example) for example in examples})
    return f"{distinct} prompt{'' if distinct == 1 else 's'}"
