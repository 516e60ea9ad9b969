"""`dataset=mixture`: several data sets at once, for objectives with several parts."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from alignkit.data.examples import PreferenceExample
from alignkit.data.holdout import content_digest, prompt_key
from alignkit.data.parts import check_kinds, naming_part, none_drawn, part_settings
from alignkit.data.source import CompositeSource, GeneratedSource, LoadedExamples, LoadingSource, Member, RowSource, load_examples
from alignkit.errors import UserError
from alignkit.settings import DatasetSettings

SOURCES = "alignkit.data.sources"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture(CompositeSource):
    """Examples of all parts, each with its part's name as `source`.

    Each part is read by a source of its own and holds examples out for itself. No example is trained on whose prompt is held out in
    another part: these are counted as `held_out_elsewhere`.
    """

    parts: dict[str, Any]
    """By name: `source`, `weight`, the part's own `path`, `hub`, `subset`, `split`, `validation_path`, `train_examples`,
    `validation_examples` and `max_dropped`, and the options of its source.

    `weight` > 0 is how often an epoch visits each of its training examples: 1 is once, 2 twice, 0.5 one half of them, the same half
    in every epoch and run."""

    def members(self, settings: DatasetSettings) -> dict[str, Member]:
        """The parts.

        Raises:
            UserError: when the whole was given data of its own.
        """
        for key, value in (("path", settings.path), ("validation_path", settings.validation_path), ("hub", settings.hub)):
            if value is not None:
                name = next(iter(self.parts))
                raise UserError(
                    f"dataset.{key} = {value} has no effect: a mixture has no data of its own. Try dataset.parts.{name}.{key}={value}."
                )
        members = {}
        for name, part in self.parts.items():
            own = part_settings(part, settings)
            with naming_part(name, part):
                members[name] = Member(settings=own, source=_source(own), weight=part["weight"])
        return members

    def load(self, settings: DatasetSettings) -> LoadedExamples:
        members = self.members(settings)
        loaded = {name: self._load(name, member) for name, member in members.items()}
        kinds = {name: isinstance(part.validation[0].prompt, str) for name, part in loaded.items() if part.validation}
        check_kinds(kinds, settings.format)
        held = {prompt_key(example) for part in loaded.values() for example in part.validation}
        counts: Counter[str] = Counter()
        train, validation = [], []
        for name, part in loaded.items():
            counts.update({reason: count for reason, count in part.counts.items() if reason not in ("train", "validation")})
            free = [example for example in part.train if prompt_key(example) not in held]
            counts["held_out_elsewhere"] += len(part.train) - len(free)
            train += _drawn(name, free, members[name].weight)
            validation += part.validation
        return LoadedExamples(train=train, validation=validation, counts={**counts, "train": len(train), "validation": len(validation)})

    def _load(self, name: str, member: Member) -> LoadedExamples:
        with naming_part(name, self.parts[name]):
            loaded = load_examples(member.settings, member.source)
        train, validation = ([replace(example, source=name) for example in side] for side in (loaded.train, loaded.validation))
        return replace(loaded, train=train, validation=validation)


def _source(settings: DatasetSettings) -> RowSource | GeneratedSource | LoadingSource:
    """The one public class of the source's module, with its options; both were checked with the config."""
    module = importlib.import_module(settings.source if "." in settings.source else f"{SOURCES}.{settings.source}")
    members = [member for label, member in vars(module).items() if isinstance(member, type) and not label.startswith("_")]
    (kind,) = (member for member in members if member.__module__ == module.__name__)
    source: RowSource | GeneratedSource | LoadingSource = kind(**settings.options)
    return source


def _drawn(name: str, examples: Sequence[PreferenceExample], weight: float) -> list[PreferenceExample]:
    """Examples as often as an epoch visits them. A fraction of them is drawn by content, so that it is the same in any order."""
    copies, share = divmod(weight, 1.0)
    by_content = sorted(range(len(examples)), key=lambda place: content_digest(examples[place]))
    some = sorted(by_content[: round(share * len(examples))])
    drawn = [*(list(examples) * int(copies)), *(examples[place] for place in some)]
    if not drawn:
        raise UserError(none_drawn(name, weight, len(examples)))
    return drawn
