"""What a label run works with: the prompts, and around the model whoever answers, chooses, judges and measures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from alignkit.assembly import say
from alignkit.caches.place import cache_root
from alignkit.data.encoding import Encoder
from alignkit.data.examples import EncodedExample
from alignkit.data.source import two_kinds
from alignkit.errors import UserError
from alignkit.evaluating.player import Player
from alignkit.generation.answering import surroundings_of
from alignkit.hardware import device_kind
from alignkit.judge_assembly import build_judge
from alignkit.judges.judge import REPLIES, JudgeKind, JudgeSurroundings
from alignkit.label_settings import ALL, OF_DATASET, LabelSettings
from alignkit.labelling.answering import Answerer, Given, Sampled, as_prompts
from alignkit.labelling.earlier import Earlier, not_yet, read_earlier
from alignkit.labelling.pool import Entry, digest, merged, read_pool
from alignkit.models.loading import load_config
from alignkit.modules.collector import answers_of
from alignkit.rollout_assembly import build_sampler, gold_settings, open_scorer
from alignkit.rollout_settings import NO_SCORER
from alignkit.scorers.scorer import Answers, Scorer, Surroundings
from alignkit.settings import RunSettings


@final
@dataclass(frozen=True, kw_only=True)
class Ground:
    """All that is known before any weights are loaded."""

    settings: RunSettings
    own: LabelSettings
    player: Player
    given: Given | None
    """Where answers are there already."""
    entries: tuple[Entry, ...]
    """What could be labelled, in order."""
    earlier: Earlier
    judge: JudgeKind
    pool: int
    """Prompts that there were before those that the model cannot be asked, or that are labelled, were left out."""

    @property
    def terminator(self) -> int:
        """The token that ends answers."""
        return self.player.reader.terminator(self.entries[0].example)

    @property
    def left_out(self) -> Counter[str]:
        """Prompts that the model cannot be asked, by reason."""
        return self.player.reader.left_out if self.given is None else self.given.left_out

    @property
    def trimmed(self) -> int:
        """Prompts that were too long for the model."""
        return self.player.reader.trimmed if self.given is None else self.given.trimmed

    @property
    def cut(self) -> int:
        """Answers that were too long for the model."""
        return 0 if self.given is None else self.given.cut

    @property
    def digests(self) -> dict[str, str]:
        """What a run that goes on must find as it was."""
        return {"pool": digest(self.entries), "earlier": self.earlier.digest}


@final
@dataclass(frozen=True, kw_only=True)
class Bench:
    """The same with the models that it takes."""

    ground: Ground
    answerer: Answerer
    surroundings: JudgeSurroundings
    scorer: Scorer | None
    """Who says what is uncertain."""
    gold: Scorer | None
    fingerprint: str | None
    """Of the weights that answers are sampled from."""
    device: torch.device

    def scored(self, scorer: Scorer, examples: Sequence[EncodedExample]) -> tuple[list[float], Mapping[str, Tensor]]:
        """[C] scores of all answers, and the parts that they are made of.

        Raises:
            UserError: when one is no number.
        """
        answers = self.surroundings.answers(renumbered(examples))
        said = scorer(answers)
        if bad := (~said.total.isfinite()).nonzero()[:, 0].tolist():
            text, score = answers.completions[bad[0]][:200], float(said.total[bad[0]])
            raise UserError(f"scorer: the score of {text!r} is {score}, not a finite number.")
        return said.total.tolist(), said.parts


def renumbered(examples: Sequence[EncodedExample]) -> tuple[EncodedExample, ...]:
    """Examples with keys that differ."""
    return tuple(replace(example, key=place) for place, example in enumerate(examples))


def read_ground(settings: RunSettings, own: LabelSettings) -> Ground:
    """Read prompts, answers and earlier labels.

    Raises:
        UserError: when one of them is not what it should be, or nothing is left to be asked.
    """
    judge = build_judge(own.judge, settings.allow_code)
    of_dataset = (own.candidates or [own.prompts])[0] in OF_DATASET
    player = Player.at("model.path", settings.model.path, settings, of_dataset=of_dataset)
    read = read_pool(settings, own)
    given, entries = None, read
    if own.candidates:
        given = Given(encoder_of_answers(settings, player, of_dataset=of_dataset))
        entries = given.usable(read, own.fewest_answers)
    else:
        usable = player.reader.usable(as_prompts(merged(read)), strict=not of_dataset)
        entries = [Entry(example=prompt.example, place=prompt.place) for prompt in usable]
    check_one_kind(entries)
    earlier = read_earlier(own)
    left = not_yet(entries, earlier, own)
    if own.query != ALL and own.count is not None and own.count > len(left):
        raise UserError(f"count = {own.count}: there are {len(left)} prompts without a label. Type count={len(left)}, or less.")
    return Ground(
        settings=settings,
        own=own,
        player=player,
        given=given,
        entries=tuple(left),
        earlier=earlier,
        judge=judge,
        pool=len(read),
    )


def check_one_kind(entries: Sequence[Entry]) -> None:
    """Refuse texts and chat messages together: rows of both are no data set.

    Raises:
        UserError: naming the first of either kind.
    """
    first = entries[0]
    is_text = isinstance(first.example.prompt, str)
    if other := next((entry for entry in entries if isinstance(entry.example.prompt, str) != is_text), None):
        raise UserError(two_kinds(first.place, other.place, now_text=not is_text))


def encoder_of_answers(settings: RunSettings, player: Player, *, of_dataset: bool) -> Encoder:
    """Answers that are there become tokens as in training, with the room that the model has; those of a data set with the room of
    training."""
    context: int | None = getattr(load_config("model.path", player.path), "max_position_embeddings", None)
    rooms = [*([context] if context is not None else []), *([settings.dataset.max_length] if of_dataset else [])]
    return Encoder(player.tokenizer, format=settings.dataset.format, max_length=min(rooms, default=2**30), overflow="trim")


def open_bench(ground: Ground, check_weights: Callable[[str], None]) -> Bench:
    """Load the model that is sampled, and the scorers. The judge is opened by whoever needs it.

    `check_weights` is told the fingerprint of the model that is sampled, before anything is sampled.

    Raises:
        UserError: when one of them cannot be had.
    """
    settings, tokenizer, terminator = ground.settings, ground.player.tokenizer, ground.terminator
    device = torch.device(device_kind(settings.hardware.accelerator))
    answerer: Answerer
    fingerprint = None
    if ground.given is not None:
        answerer, scoring = ground.given, surroundings_of(settings, None, tokenizer, device)
    else:
        backbone = ground.player.load()
        scoring = surroundings_of(settings, backbone, tokenizer, device)
        fingerprint = scoring.trunk_fingerprint
        assert fingerprint is not None
        check_weights(fingerprint)
        backbone.to(device)
        answerer = Sampled(
            settings=settings,
            reader=ground.player.reader,
            tokenizer=tokenizer,
            sampler=build_sampler(settings, backbone, terminator),
            terminator=terminator,
            device=device,
        )
    gold = settings.validation.gold
    return Bench(
        ground=ground,
        answerer=answerer,
        surroundings=judge_surroundings(ground, scoring),
        scorer=open_scorer(settings.scorer, settings, scoring) if settings.scorer.name != NO_SCORER else None,
        gold=None if gold is None else open_scorer(gold_settings(gold), settings, scoring),
        fingerprint=fingerprint,
        device=device,
    )


def judge_surroundings(ground: Ground, scoring: Surroundings) -> JudgeSurroundings:
    """What judges are opened in."""
    tokenizer, terminator = ground.player.tokenizer, ground.terminator

    def answers(examples: tuple[EncodedExample, ...]) -> Answers:
        return answers_of(examples, tokenizer, terminator)

    return JudgeSurroundings(
        scoring=scoring,
        answers=answers,
        model_path=ground.player.path,
        cache=cache_root(ground.settings.cache_dir) / REPLIES,
        batch=ground.settings.batch.pairs,
        say=say,
    )
