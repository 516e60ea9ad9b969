"""`kind: cost`: what alignment took from a language model, the model at `model.path` against the one at `reference.path`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch

from alignkit.assembly import say
from alignkit.configuration import packaged, scorer_settings
from alignkit.data.encoding import Encoder
from alignkit.data.examples import PreferenceExample
from alignkit.data.packing import Packing
from alignkit.data.question_encoding import EncodedQuestion, encode_questions
from alignkit.data.question_rows import read_questions
from alignkit.data.questions import Question
from alignkit.errors import UserError, check_choice
from alignkit.evaluating.cost_report import CostReport
from alignkit.evaluating.held_out_text import read_held_out_text
from alignkit.evaluating.outcome import Outcome
from alignkit.evaluating.side_by_side import SideBySide
from alignkit.evaluating.two_models import Places, TwoModels, find_both, load_both
from alignkit.evaluation.cost_measures import TEXT_KL
from alignkit.evaluation.estimates import Change
from alignkit.evaluation.misconceptions import Misconceptions, misconception_changes
from alignkit.evaluation.perplexity import HeldOutText, TextMeasures, measure_texts
from alignkit.evaluation.sample_measures import divergences, sample_changes
from alignkit.evaluation.scoring import QuestionScorer, ScoredQuestion
from alignkit.evaluation_settings import CostSettings, EvaluateSettings
from alignkit.generate_settings import CHAT, HELD_OUT, TRAINING
from alignkit.generation.answering import build_encoder, products, surroundings_of
from alignkit.generation.prompt_reading import PromptReader, read_prompts
from alignkit.models.backbone import Backbone
from alignkit.models.heads import Heads
from alignkit.models.reference import fingerprint
from alignkit.modules.collector import Writing
from alignkit.resolution import build_scorer
from alignkit.rollout_assembly import open_scorer
from alignkit.rollout_settings import NO_SCORER, ScorerSettings
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings

MISCONCEPTIONS = "evaluation.misconceptions"
WINDOW = 2048
"""Tokens of a window for models without a limit."""
LONGEST = 2**30
"""Tokens of an answer with its question, for such models."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Everything that is read but the weights."""

    places: Places
    reader: PromptReader
    prompts: list[PreferenceExample]
    terminator: int
    texts: list[HeldOutText]
    """Empty for none."""
    window: int
    """Tokens of the longest window of a text."""
    questions: list[Question]
    """Those that can be encoded; empty for none."""
    encoded: list[EncodedQuestion]
    toxicity: ScorerSettings | None
    counts: Mapping[str, int]
    """What became of prompts and questions on their way to the models."""


def evaluate(settings: RunSettings, own: EvaluateSettings, run: RunDir) -> Outcome:
    """Ask both models the same: prompts, held-out text, questions that many people answer wrongly. Writes `samples.jsonl`, a line a prompt
    with the samples of both.

    Raises:
        UserError: when a file, one of the models or the scorer cannot be had, or they do not fit together.
    """
    evaluation = own.evaluation
    assert isinstance(evaluation, CostSettings)
    check_sampling(settings, evaluation)
    inputs = read_inputs(settings, evaluation)
    models = load_both(settings, inputs.places)
    surroundings = surroundings_of(settings, models.model, inputs.places.tokenizer, models.device)
    facts: dict[str, Scalar] = {"fingerprint": surroundings.trunk_fingerprint, "reference_fingerprint": fingerprint(models.reference)}
    toxicity = None if inputs.toxicity is None else open_scorer(inputs.toxicity, settings, surroundings)
    for model in (models.model, models.reference):
        model.to(models.device)
    side_by_side = SideBySide(
        settings=settings,
        models=models,
        writing=Writing(tokenizer=inputs.places.tokenizer, terminator=inputs.terminator, packing=models.packing),
        reader=inputs.reader,
        toxicity=toxicity,
    )
    with products(settings, models.device):
        with run.samples.open("w", encoding="utf-8") as file:
            before, after = side_by_side(inputs.prompts, file, lambda done: say(f"samples: {done} of {len(inputs.prompts)} prompts"))
        changes = sample_changes(before, after, toxicity=None if inputs.toxicity is None else inputs.toxicity.name)
        measured = measure_text(inputs, models)
        changes |= {} if measured is None else measured.changes
        changes |= measure_misconceptions(inputs, models)
    apart = divergences(after) | ({} if measured is None or measured.divergence is None else {TEXT_KL: measured.divergence})
    facts |= {
        "prompts": len(inputs.prompts),
        "samples": sum(len(one.texts) for one in after),
        "tokens": sum(sum(one.tokens) for one in after),
        "trimmed_prompts": inputs.reader.trimmed,
        **inputs.counts,
        **({} if measured is None else {"texts": len(inputs.texts), "text_tokens": measured.tokens, "window": inputs.window}),
        **({"questions": len(inputs.questions)} if inputs.questions else {}),
    }
    return CostReport(divergences=apart, changes=changes, facts=facts).outcome


def check_sampling(settings: RunSettings, evaluation: CostSettings) -> None:
    """Refuse samples of which KL cannot be measured.

    Raises:
        UserError: naming the key.
    """
    rollout = settings.rollout
    if rollout.top_k > 0 or rollout.top_p < 1.0:
        raise UserError(
            "rollout.top_k and rollout.top_p sample from something else than the model, whose KL is measured on its samples. "
            "Type top_k=0 top_p=1."
        )
    if rollout.backend != "torch":
        raise UserError(f"rollout.backend = {rollout.backend!r}: alignkit.evaluate samples with the model itself. Leave it out.")
    if evaluation.prompts == CHAT:
        raise UserError("evaluation.prompts = 'chat': both models answer the same prompts. Type a file, dataset or dataset:train.")


def read_inputs(settings: RunSettings, evaluation: CostSettings) -> Inputs:
    """Everything but the weights, so that a mistake costs as little as it can.

    Raises:
        UserError: when something is not there, or not in its format.
    """
    places, toxicity = find_both(settings), toxicity_settings(evaluation, settings)
    of_dataset = evaluation.prompts in (HELD_OUT, TRAINING)
    reader = PromptReader(build_encoder(settings, places.tokenizer), room=places.room(settings, of_dataset=of_dataset))
    prompts = reader.usable(list(read_prompts(evaluation.prompts, settings))[: evaluation.limit], strict=not of_dataset)
    texts = [] if evaluation.text is None else read_held_out_text(evaluation.text, places.tokenizer)
    counts = {"left_out_prompts": reader.left_out.total()}
    questions, encoded = list[Question](), list[EncodedQuestion]()
    if evaluation.misconceptions is not None:
        task = Misconceptions()
        questions = read_questions(task, "truthfulqa", evaluation.misconceptions, train=False, where=MISCONCEPTIONS).questions
        encoder = Encoder(places.tokenizer, format="text", max_length=places.positions or LONGEST, overflow="drop")
        encoded = encode_questions(questions, encoder)
        if not encoded:
            account = ", ".join(f"{reason} {count}" for reason, count in encoder.report.dropped.items())
            raise UserError(f"{MISCONCEPTIONS} = {evaluation.misconceptions}: no question can be encoded ({account}). Choose another file.")
        counts["left_out_questions"] = len(questions) - len(encoded)
        questions = [questions[one.key] for one in encoded]
    return Inputs(
        places=places,
        reader=reader,
        prompts=[prompt.example for prompt in prompts],
        terminator=reader.terminator(prompts[0].example),
        texts=texts,
        window=window_of(evaluation, places.positions),
        questions=questions,
        encoded=encoded,
        toxicity=toxicity,
        counts=counts,
    )


def toxicity_settings(evaluation: CostSettings, settings: RunSettings) -> ScorerSettings | None:
    """The scorer that says how toxic samples are, with the values of its file and those that were typed; it has checked its own ranges.

    Raises:
        UserError: for a name that is no option of `scorer=`, or an option of it that is wrong.
    """
    name = evaluation.toxicity
    if name is None:
        return None
    known = {option: values for option, values in packaged("scorer").items() if option != NO_SCORER}
    if "." not in name:
        check_choice("evaluation.toxicity", name, known)
    chosen = {**known.get(name, {}), **evaluation.toxicity_options, "name": name}
    scorer = scorer_settings(chosen, settings.allow_code, "evaluation.toxicity_options")
    try:
        build_scorer(scorer, settings.allow_code)
    except UserError as error:
        # A scorer names its fields `scorer.path`, wherever it stands.
        raise UserError(f"evaluation.toxicity_options: {error}") from None
    return scorer


def window_of(evaluation: CostSettings, positions: int | None) -> int:
    """Tokens of the longest window of a text. Raises UserError where the models have no positions for it."""
    if evaluation.window is None:
        return positions or WINDOW
    if positions is not None and evaluation.window > positions:
        raise UserError(f"evaluation.window = {evaluation.window}: the models have positions for {positions}. Type evaluation.window=null.")
    return evaluation.window


def measure_text(inputs: Inputs, models: TwoModels) -> TextMeasures | None:
    """Perplexity before and after; None where there is no text."""
    if not inputs.texts:
        return None
    say(f"text: {len(inputs.texts)} texts in windows of {inputs.window} tokens")
    return measure_texts(inputs.texts, models.model, models.reference, window=inputs.window, packing=models.packing, device=models.device)


def measure_misconceptions(inputs: Inputs, models: TwoModels) -> dict[str, Change]:
    """Log-probs of false and of correct answers before and after; nothing where there is no question."""
    if not inputs.questions:
        return {}
    say(f"misconceptions: {len(inputs.questions)} questions")
    before, after = (score(model, inputs.encoded, models.packing, models.device) for model in (models.reference, models.model))
    return misconception_changes(inputs.questions, before, after)


def score(backbone: Backbone, questions: list[EncodedQuestion], packing: Packing, device: torch.device) -> list[ScoredQuestion]:
    """What a model thinks of the candidates; those of a question share its prompt."""
    scorer = QuestionScorer(backbone=backbone, heads=Heads(backbone.hidden_width, {}), packing=packing, device=device, normalizations={})
    return list(scorer(questions))
