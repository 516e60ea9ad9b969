"""Every number that alignkit logs: its name, unit, direction and meaning, here and nowhere else.

Metrics of training and of held-out data share their names, under `train/` and `val/`. Each is a mean over pairs
(or completions, or tokens, as said), weighted by counts across micro-batches, steps and devices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, final

TRAIN = "train/"
VALIDATION = "val/"

LOSS = "loss"
CHOSEN_REWARDS = "rewards/chosen"
REJECTED_REWARDS = "rewards/rejected"
MARGINS = "rewards/margins"
ACCURACIES = "rewards/accuracies"
IMPLICIT_CHOSEN_REWARDS = "implicit_rewards/chosen"
IMPLICIT_REJECTED_REWARDS = "implicit_rewards/rejected"
IMPLICIT_MARGINS = "implicit_rewards/margins"
IMPLICIT_ACCURACIES = "implicit_rewards/accuracies"
TERM_LOSS = "loss/"
"""Before the name of a term of an objective with several."""
RATING_ERROR = "ratings/error"
CHOSEN_LOGPS = "logps/chosen"
REJECTED_LOGPS = "logps/rejected"
CHOSEN_CHANGE = "logps/chosen_change"
CHOSEN_FELL = "logps/chosen_fell"
CALIBRATION_ERROR = "rewards/calibration_error"
LENGTH_CORRELATION = "rewards/length_correlation"
GRADIENT_COSINE = "gradients/cosine"
TOKEN_ACCURACY = "token_accuracy"
LEARNING_RATE = "learning_rate"
GRADIENT_NORM = "gradient_norm"
TOKENS_PER_SECOND = "throughput/tokens_per_second"
PADDING_FRACTION = "throughput/padding_fraction"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """What a logged number is."""

    name: str
    unit: str
    better: Literal["higher", "lower", "neither"]
    meaning: str


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name=LOSS, unit="nats", better="lower", meaning="the objective, mean over pairs (sft: over completion tokens)"),
        Metric(name=CHOSEN_REWARDS, unit="reward", better="neither", meaning="mean reward of the chosen completions"),
        Metric(name=REJECTED_REWARDS, unit="reward", better="neither", meaning="mean reward of the rejected completions"),
        Metric(name=MARGINS, unit="reward", better="higher", meaning="mean of chosen minus rejected reward"),
        Metric(
            name=ACCURACIES, unit="fraction", better="higher", meaning="pairs whose chosen side has the higher reward; a tie counts half"
        ),
        Metric(name=IMPLICIT_CHOSEN_REWARDS, unit="nats", better="neither", meaning="beta * log-ratio of the chosen completions"),
        Metric(name=IMPLICIT_REJECTED_REWARDS, unit="nats", better="neither", meaning="beta * log-ratio of the rejected completions"),
        Metric(name=IMPLICIT_MARGINS, unit="nats", better="higher", meaning="mean of chosen minus rejected implicit reward"),
        Metric(name=IMPLICIT_ACCURACIES, unit="fraction", better="higher", meaning="pairs ordered rightly by the implicit reward"),
        Metric(name=RATING_ERROR, unit="rating", better="lower", meaning="mean distance of a head's score from the rating it learns"),
        Metric(
            name=CHOSEN_LOGPS, unit="nats", better="neither", meaning="mean log-probability of a chosen completion, summed over its tokens"
        ),
        Metric(
            name=REJECTED_LOGPS,
            unit="nats",
            better="neither",
            meaning="mean log-probability of a rejected completion, summed over its tokens",
        ),
        Metric(
            name=CHOSEN_CHANGE,
            unit="nats",
            better="neither",
            meaning="mean change of a held-out chosen completion's log-probability since the first validation; below 0 with growing "
            "margins the likelihood is displaced",
        ),
        Metric(
            name=CHOSEN_FELL,
            unit="fraction",
            better="lower",
            meaning="held-out chosen completions that are less likely than at the first validation",
        ),
        Metric(
            name=CALIBRATION_ERROR,
            unit="fraction",
            better="lower",
            meaning="expected calibration error in 15 bins: how far sigmoid(|margin|) is from the share of held-out pairs ordered rightly",
        ),
        Metric(
            name=LENGTH_CORRELATION,
            unit="1",
            better="neither",
            meaning="Pearson correlation of held-out completions' rewards with their tokens; far from 0 the reward measures length",
        ),
        Metric(
            name=GRADIENT_COSINE,
            unit="1",
            better="neither",
            meaning="cosine between the gradients of the chosen and of the rejected log-probabilities of a probe batch; near 1 an update "
            "that lowers one side lowers both",
        ),
        Metric(name=TOKEN_ACCURACY, unit="fraction", better="higher", meaning="completion tokens that the model ranks first"),
        Metric(
            name=LEARNING_RATE,
            unit="1",
            better="neither",
            meaning="of the trunk in the step (of the heads where the trunk is frozen)",
        ),
        Metric(name=GRADIENT_NORM, unit="1", better="neither", meaning="global gradient norm before clipping"),
        Metric(
            name=TOKENS_PER_SECOND,
            unit="tokens/s",
            better="higher",
            meaning="tokens trained on, each prompt once, per second of training steps",
        ),
        Metric(name=PADDING_FRACTION, unit="fraction", better="lower", meaning="computed positions that hold no token"),
    )
}


def metric(name: str) -> Metric:
    """What a logged name stands for; `loss/TERM` and `TERM/NAME` come from objectives with several terms.

    Raises:
        KeyError: for a name that nothing logs.
    """
    if name in METRICS:
        return METRICS[name]
    if name.startswith(TERM_LOSS):
        meaning = f"mean loss of the term {name.removeprefix(TERM_LOSS)}, before its weight"
        return Metric(name=name, unit="nats", better="lower", meaning=meaning)
    term, _, own = name.partition("/")
    return replace(METRICS[own], name=name, meaning=f"{METRICS[own].meaning} ({term})")
