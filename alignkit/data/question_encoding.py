"""Questions to token ids: candidates share their prompt, and it is known which tokens of each one log-probs are asked of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from alignkit.data.encoding import Encoder
from alignkit.data.examples import EncodedExample, PreferenceExample
from alignkit.data.outcomes import Outcome
from alignkit.data.questions import Question


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedQuestion:
    """The K candidates of a question."""

    key: int
    """Place of the question among those that were encoded."""
    examples: tuple[EncodedExample, ...]
    """One example with all candidates; one for each where they share no token with which a prompt could begin. Each candidate ends with
    the terminator, where heads read."""
    spans: tuple[tuple[int, int], ...]
    """K first and last-but-one places, in each candidate's completion, of the tokens whose log-probs count: neither what is given nor the
    terminator."""
    characters: tuple[int, ...]
    """K lengths of the scored texts, without the space before them, at least 1."""
    terminator: int
    """The token that ends candidates."""


@final
@dataclass(frozen=True, slots=True)
class _Candidate:
    prompt: tuple[int, ...]
    """Of the question with what is given."""
    completion: tuple[int, ...]


def encode_questions(questions: Sequence[Question], encoder: Encoder) -> list[EncodedQuestion]:
    """The questions in the order they came, without those of which a candidate cannot be encoded: `encoder.report` counts why, and counts
    questions.

    A candidate is encoded as any completion is: with one terminator, and what the tokenizer merges across its beginning belongs to it.
    """
    # Each candidate by itself: an encoder refuses equal completions of one prompt, and what is given is prompt for it.
    chat = encoder.strings_are_messages
    texts = [_text(question, place, chat=chat) for question in questions for place in range(len(question.candidates))]
    every = encoder.outcomes(dict(enumerate(texts)))
    encoded: list[EncodedQuestion] = []
    for key, question in enumerate(questions):
        outcomes = [next(every) for _ in question.candidates]
        whole = _of_question(outcomes)
        encoder.report.add(whole)
        candidates = [_Candidate(own.prompt_ids, own.completion_ids[0]) for outcome in outcomes if (own := outcome.example) is not None]
        if len(candidates) == len(question.candidates):
            alike = _cut_alike(candidates) if whole.trimmed and not question.given else candidates
            encoded.append(_joined(key, question, alike, encoder))
    return encoded


def _of_question(outcomes: Sequence[Outcome]) -> Outcome:
    """Why a question is left out, else what was done to any of its candidates."""
    if reason := next((outcome.reason for outcome in outcomes if outcome.reason), ""):
        return Outcome(reason=reason)
    return Outcome(
        trimmed=any(outcome.trimmed for outcome in outcomes),
        cut=sum(outcome.cut for outcome in outcomes),
        merged=any(outcome.merged for outcome in outcomes),
    )


def _text(question: Question, place: int, *, chat: bool) -> PreferenceExample:
    given = question.given[place] if question.given else ""
    if given and isinstance(question.prompt, str) and not chat:
        return PreferenceExample(prompt=question.prompt + given, completions=(question.candidates[place],))
    return PreferenceExample(prompt=question.prompt, completions=(given + question.candidates[place],))


def _joined(key: int, question: Question, candidates: Sequence[_Candidate], encoder: Encoder) -> EncodedQuestion:
    shared = min(_common(candidates[0].prompt, other.prompt) for other in candidates)
    completions = [(*one.prompt[shared:], *one.completion) for one in candidates]
    begun = [len(one.prompt) - shared for one in candidates]
    if shared == 0:  # nothing that all of them could begin with: too long prompts were cut at different places
        examples = tuple(EncodedExample(key=key, prompt_ids=one.prompt, completion_ids=(one.completion,)) for one in candidates)
        completions, begun = [one.completion for one in candidates], [0] * len(candidates)
    else:
        examples = (EncodedExample(key=key, prompt_ids=candidates[0].prompt[:shared], completion_ids=tuple(completions)),)
    terminators = {encoder.turn.terminator, encoder.text_terminator}
    return EncodedQuestion(
        key=key,
        examples=examples,
        # A completion that was cut has no terminator.
        spans=tuple(
            (start, len(ids) - (ids[-1] in terminators and len(ids) - start > 1)) for ids, start in zip(completions, begun, strict=True)
        ),
        characters=tuple(max(1, len(text.removeprefix(" "))) for text in question.candidates),
        terminator=next((ids[-1] for ids in completions if ids[-1] in terminators), encoder.text_terminator),
    )


def _cut_alike(candidates: Sequence[_Candidate]) -> Sequence[_Candidate]:
    """Candidates whose prompts were cut at different places, cut as the longest one needs it, so that there is one prompt again. A token
    that begins every text stays."""
    shortest = min((one.prompt for one in candidates), key=len)
    cuts = [
        (one.prompt[len(one.prompt) - len(shortest) :], (one.prompt[0], *one.prompt[len(one.prompt) - len(shortest) + 1 :]))
        for one in candidates
    ]
    return [_Candidate(shortest, one.completion) for one in candidates] if all(shortest in cut for cut in cuts) else candidates


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    for place, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return place
    return min(len(left), len(right))


def numbered(questions: Sequence[EncodedQuestion]) -> tuple[list[EncodedExample], Mapping[int, int]]:
    """All examples with keys of their own, and the question's key of each."""
    examples = [dataclasses.replace(example, key=place) for place, example in enumerate(e for q in questions for e in q.examples)]
    owners = [question.key for question in questions for _ in question.examples]
    return examples, dict(enumerate(owners))
