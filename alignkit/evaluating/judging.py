"""What a judge of an evaluation is opened in."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from alignkit.caches.place import cache_root
from alignkit.data.examples import EncodedExample
from alignkit.judges.judge import REPLIES, JudgeSurroundings
from alignkit.modules.collector import answers_of
from alignkit.scorers.scorer import Answers, Surroundings
from alignkit.settings import RunSettings


def judge_surroundings(
    settings: RunSettings, scoring: Surroundings, tokenizer: PreTrainedTokenizerBase, terminator: int
) -> JudgeSurroundings:
    """The model at `model.path` is what judges for a language model that names none; `terminator` ends the answers that are judged."""

    def answers(examples: tuple[EncodedExample, ...]) -> Answers:
        return answers_of(examples, tokenizer, terminator)

    return JudgeSurroundings(
        scoring=scoring,
        answers=answers,
        model_path=settings.model.path,
        cache=cache_root(settings.cache_dir) / REPLIES,
        batch=settings.batch.pairs,
    )
