"""Options of config groups that overrides choose, and keys that fit them."""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.composition import Composer
from alignkit.configuration import packaged


def choices(composer: Composer, lines: Sequence[str]) -> dict[str, str]:
    """The options that overrides choose, by group."""
    overrides = [override for override in map(composer.parse, lines) if not override.is_delete() and override.package is None]
    return {
        override.key_or_group: str(override.value())
        for override in overrides
        if not override.is_sweep_override() and composer.is_choice(override)
    }


def inner_key(composer: Composer, line: str, group: str) -> str:
    """The key of a group that an override sets, `beta` for `loss.beta=0.1`; empty for one that sets none."""
    head, _, key = composer.parse(line).key_or_group.partition(".")
    return key.partition(".")[0] if head == group else ""


def fits(composer: Composer, line: str, group: str, option: str) -> bool:
    """Whether an option of a group has the key that an override sets there, if it sets one there."""
    key, options = inner_key(composer, line, group), packaged(group)
    # An option that is another name for one has that one's keys.
    names = (option, *map(str, options.get(option, {}).get("defaults", ())))
    return not key or any(key in options.get(name, (key,)) for name in names)


def is_anothers(composer: Composer, line: str, group: str, option: str) -> bool:
    """Whether the key that an override sets in a group is not the option's, but that of another one; one that nobody has is a mistake."""
    key = inner_key(composer, line, group)
    return not fits(composer, line, group, option) and any(key in keys for keys in packaged(group).values())
