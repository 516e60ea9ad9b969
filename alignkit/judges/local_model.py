"""A language model on this machine that judges: its weights, and questions as it reads them.   Q questions"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from alignkit.data.dropping import REASONS
from alignkit.data.encoding import Encoder
from alignkit.data.examples import Message, PreferenceExample
from alignkit.errors import UserError
from alignkit.models.backbone import Backbone
from alignkit.models.loading import check_fit, load_config, load_tokenizer
from alignkit.models.location import locate
from alignkit.models.reference import LiveReference, fingerprint
from alignkit.models.texts import PLAIN, load_texts
from alignkit.scorers.own_model import load_frozen, positions_of, run_of
from alignkit.scorers.scorer import Surroundings

SETTING = "judge.model"
UNBOUNDED = 2**30
"""Positions of a model that has no limit."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LocalModel:
    """An open model."""

    backbone: Backbone
    encoder: Encoder
    """As the model is written to: through its chat template, or as plain text where it has none."""
    positions: int
    """Tokens of the longest question with its reply."""

    @property
    def terminator(self) -> int:
        """The token that ends a reply."""
        return self.encoder.turn.terminator if self.encoder.uses_template else self.encoder.text_terminator

    def read(self, questions: Sequence[tuple[Message, ...]], replies: Sequence[str], room: int) -> list[PreferenceExample | str]:
        """[Q] questions with beginnings of replies to them, as the model can be asked them, or why it cannot be.

        `room`: tokens that a reply may need. A longer question than the model has positions for is refused, and so is one with a text
        that the tokenizer would turn into a control token: a judge that is shown less than it is told, or another speaker's turn, judges
        something else. Where a chat template knows no system's turn, its text begins the user's.
        """
        read: list[PreferenceExample | str] = []
        for question in questions:
            example, reason = self._encodable(question, replies)
            if not reason and len(self.encoder.encode_prompt(example, UNBOUNDED)) + room > self.positions:
                reason = f"the question has more tokens than the {self.positions} of the model leave"
            read.append(reason or example)
        return read

    def _encodable(self, question: tuple[Message, ...], replies: Sequence[str]) -> tuple[PreferenceExample, str]:
        example = PreferenceExample(prompt=question, completions=tuple(replies))
        reason = self._fault(example)
        if reason == "template_refused" and question[0].role == "system":
            example = PreferenceExample(prompt=without_system(question), completions=tuple(replies))
            reason = self._fault(example)
        return example, REASONS.get(reason, reason)

    def _fault(self, example: PreferenceExample) -> str:
        (outcome,) = self.encoder.outcomes({0: example})
        return outcome.reason


def without_system(question: tuple[Message, ...]) -> tuple[Message, ...]:
    """A dialogue whose first turn, the system's, stands at the beginning of the second."""
    system, first, *rest = question
    return (Message(role=first.role, content=f"{system.content}\n\n{first.content}"), *rest)


def open_local(path: str, surroundings: Surroundings) -> LocalModel:
    """The model of a folder, a run, an adapter, the hub or the package, frozen on the run's device. The run's own frozen model is taken
    where it has the same weights: then there is no second one in memory.

    Raises:
        UserError: when it cannot be read.
    """
    run = run_of(path)
    found = locate(SETTING, path if run is None else str(run.model))
    config, tokenizer = load_config(SETTING, found), load_tokenizer(SETTING, found)
    check_fit(SETTING, config, tokenizer, 0)
    texts = None if run is None else load_texts(run.texts)
    form = PLAIN if texts is not None and texts.format == PLAIN else "auto"
    backbone = load_frozen(SETTING, found, surroundings)
    positions = positions_of(backbone) or UNBOUNDED
    # Compared as loaded: a folder's files do not say what its weights are in another type, or with an adapter merged.
    if isinstance(surroundings.trunk, LiveReference) and fingerprint(backbone) == surroundings.trunk_fingerprint:
        backbone = surroundings.trunk.backbone
        gc.collect()  # transformers' models are in cycles
    return LocalModel(
        backbone=backbone.to(surroundings.device),
        encoder=Encoder(tokenizer, format=form, max_length=UNBOUNDED, overflow="drop"),
        positions=positions,
    )


def check_room(model: LocalModel, max_tokens: int) -> None:
    """Refuse replies that would fill all positions.

    Raises:
        UserError: with what to type.
    """
    if max_tokens >= model.positions:
        raise UserError(f"judge.max_tokens = {max_tokens}: the model has positions for {model.positions}, question included. Type less.")
