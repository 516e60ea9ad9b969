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
SKIPPED_STEPS = "divergence/skipped"
ROLLBACKS = "divergence/rollbacks"
TOKENS_PER_SECOND = "throughput/tokens_per_second"
PADDING_FRACTION = "throughput/padding_fraction"
SCORES = "objective/scores"
SCORES_STD = "objective/scores_std"
SCORE_PART = "scores/"
"""Before the name of a part of a scorer that has several."""
BENCHMARK = "benchmark/"
"""Before the name of a task and of who scores its candidates: `benchmark/arc_easy/logp_mean`."""
RLHF_REWARD = "objective/rlhf_reward"
KL = "objective/kl"
KL_K3 = "objective/kl_k3"
KL_STANDARD_ERROR = "objective/kl_standard_error"
KL_K3_STANDARD_ERROR = "objective/kl_k3_standard_error"
REFERENCE_NLL = "objective/reference_nll"
ENTROPY = "objective/entropy"
KL_COEFFICIENT = "objective/kl_coefficient"
GOLD = "objective/gold"
GOLD_STD = "objective/gold_std"
CLIPPED_SCORES = "reward/clipped"
LENGTH_PENALTY = "reward/length_penalty"
TERMINATOR_PENALTY = "reward/missing_terminator_penalty"
LENGTH = "rollout/length"
TERMINATED = "rollout/terminated"
DISTINCT_1 = "rollout/distinct_1"
DISTINCT_2 = "rollout/distinct_2"
SAMPLER_ERROR = "rollout/sampler_error"
IMPORTANCE = "rollout/importance_weight"
POLICY_LOSS = "policy/loss"
APPROX_KL = "policy/approx_kl"
CLIP_FRACTION = "policy/clip_fraction"
RATIO = "policy/ratio"
EPOCHS = "policy/epochs"
VALUE_LOSS = "value/loss"
VALUE_CLIP_FRACTION = "value/clip_fraction"
VALUE_MEAN = "value/mean"
RETURN_MEAN = "value/return"
EXPLAINED_VARIANCE = "value/explained_variance"
PTX_LOSS = "ptx/loss"
SURROGATE_GAIN = "trust_region/surrogate_gain"
TRUST_KL = "trust_region/kl"
STEP_FRACTION = "trust_region/step_fraction"
SAMPLING_SECONDS = "seconds/sampling"
SCORING_SECONDS = "seconds/scoring"
UPDATE_SECONDS = "seconds/update"


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
            name=SKIPPED_STEPS,
            unit="steps",
            better="lower",
            meaning="steps of the run so far whose update was left out: a loss or gradient that is not finite, or far out",
        ),
        Metric(name=ROLLBACKS, unit="1", better="lower", meaning="times that the run went back to a checkpoint because of a spike"),
        Metric(
            name=TOKENS_PER_SECOND,
            unit="tokens/s",
            better="higher",
            meaning="tokens trained on, each prompt once, per second of training steps",
        ),
        Metric(name=PADDING_FRACTION, unit="fraction", better="lower", meaning="computed positions that hold no token"),
        Metric(name=SCORES, unit="score", better="higher", meaning="mean score of samples, after clipping and penalties, without KL"),
        Metric(name=SCORES_STD, unit="score", better="neither", meaning="standard deviation of these scores over the samples"),
        Metric(
            name=RLHF_REWARD,
            unit="score",
            better="higher",
            meaning="mean over samples of the score minus kl_coefficient times the sum of log(pi/ref): what RLHF maximises",
        ),
        Metric(
            name=KL,
            unit="nats",
            better="neither",
            meaning="mean over samples of the sum of log(pi/ref) over a completion: KL(pi | ref) a sequence, by k1, which is unbiased",
        ),
        Metric(name=KL_K3, unit="nats", better="neither", meaning="the same KL by k3, whose terms are never negative"),
        Metric(name=KL_STANDARD_ERROR, unit="nats", better="neither", meaning="standard error of that mean, of held-out samples (k1)"),
        Metric(name=KL_K3_STANDARD_ERROR, unit="nats", better="neither", meaning="standard error of the KL of held-out samples by k3"),
        Metric(
            name=REFERENCE_NLL,
            unit="nats",
            better="neither",
            meaning="mean of -log ref of the tokens of held-out samples: e to it is their perplexity under the reference",
        ),
        Metric(
            name=ENTROPY,
            unit="nats",
            better="neither",
            meaning="mean of -log pi of the sampled tokens: the entropy of the policy a token, estimated from what it drew",
        ),
        Metric(
            name=KL_COEFFICIENT,
            unit="score/nat",
            better="neither",
            meaning="kl_coefficient in this update; it moves where kl_target is set",
        ),
        Metric(name=GOLD, unit="score", better="higher", meaning="mean score of held-out samples by the scorer that validation.gold names"),
        Metric(name=GOLD_STD, unit="score", better="neither", meaning="standard deviation of gold scores over held-out samples"),
        Metric(name=CLIPPED_SCORES, unit="fraction", better="lower", meaning="samples whose score was clipped by reward.clip"),
        Metric(name=LENGTH_PENALTY, unit="score", better="neither", meaning="mean of what reward.length_penalty takes from a score"),
        Metric(
            name=TERMINATOR_PENALTY,
            unit="score",
            better="neither",
            meaning="mean of what reward.missing_terminator_penalty takes from a score",
        ),
        Metric(name=LENGTH, unit="tokens", better="neither", meaning="mean tokens of a sample, its terminator included"),
        Metric(name=TERMINATED, unit="fraction", better="higher", meaning="samples that end with the terminator instead of being cut"),
        Metric(
            name=DISTINCT_1,
            unit="fraction",
            better="higher",
            meaning="different words of all held-out samples over their words (arXiv:1510.03055); it falls where samples repeat themselves "
            "and each other, and with the number of samples",
        ),
        Metric(name=DISTINCT_2, unit="fraction", better="higher", meaning="the same of pairs of neighbouring words"),
        Metric(
            name=SAMPLER_ERROR,
            unit="nats",
            better="lower",
            meaning="largest difference of a sampled token's log-prob as it was drawn from the one that training computes",
        ),
        Metric(
            name=IMPORTANCE, unit="1", better="neither", meaning="mean importance weight of a token, 1 for samples of the policy itself"
        ),
        Metric(name=POLICY_LOSS, unit="1", better="neither", meaning="mean of the clipped surrogate loss over the epochs of an update"),
        Metric(
            name=APPROX_KL,
            unit="nats",
            better="neither",
            meaning="mean over tokens and epochs of half the squared change of log pi since sampling: how far an update moves",
        ),
        Metric(name=CLIP_FRACTION, unit="fraction", better="neither", meaning="tokens (rloo: completions) whose ratio the clip holds back"),
        Metric(name=RATIO, unit="1", better="neither", meaning="mean of pi / pi at sampling over tokens and epochs; 1 without bias"),
        Metric(name=EPOCHS, unit="epochs", better="neither", meaning="passes over the rollout that an update made before stop_kl ended it"),
        Metric(name=VALUE_LOSS, unit="score^2", better="lower", meaning="mean loss of the value head, before value_coefficient"),
        Metric(name=VALUE_CLIP_FRACTION, unit="fraction", better="neither", meaning="tokens whose value the value clip holds back"),
        Metric(name=VALUE_MEAN, unit="score", better="neither", meaning="mean value of the sampled tokens as they were drawn"),
        Metric(name=RETURN_MEAN, unit="score", better="neither", meaning="mean return of the sampled tokens, which values learn"),
        Metric(
            name=EXPLAINED_VARIANCE,
            unit="fraction",
            better="higher",
            meaning="1 - variance of (return - value) over variance of returns, as they were drawn; 0 for a value that says nothing",
        ),
        Metric(name=PTX_LOSS, unit="nats", better="lower", meaning="mean loss a token of the data's own completions (ptx_coefficient)"),
        Metric(name=SURROGATE_GAIN, unit="advantage", better="higher", meaning="surrogate objective after the step minus before, TRPO"),
        Metric(name=TRUST_KL, unit="nats", better="neither", meaning="mean KL(old | new) a token of the step that was taken, TRPO"),
        Metric(
            name=STEP_FRACTION, unit="fraction", better="neither", meaning="share of the full step that the line search took; 0 is none"
        ),
        Metric(name=SAMPLING_SECONDS, unit="s", better="lower", meaning="of an update spent drawing samples"),
        Metric(name=SCORING_SECONDS, unit="s", better="lower", meaning="of an update spent on scores, reference, values and old log-probs"),
        Metric(name=UPDATE_SECONDS, unit="s", better="lower", meaning="of an update spent on epochs over the rollout"),
    )
}


def metric(name: str) -> Metric:
    """What a logged name stands for; `loss/TERM` and `TERM/NAME` come from objectives with several terms, `scores/PART` from scorers.

    Raises:
        KeyError: for a name that nothing logs.
    """
    if name in METRICS:
        return METRICS[name]
    if name.startswith(TERM_LOSS):
        meaning = f"mean loss of the term {name.removeprefix(TERM_LOSS)}, before its weight"
        return Metric(name=name, unit="nats", better="lower", meaning=meaning)
    if name.startswith(SCORE_PART):
        meaning = f"mean score of samples by {name.removeprefix(SCORE_PART)}, before its weight"
        return Metric(name=name, unit="score", better="higher", meaning=meaning)
    if name.startswith(BENCHMARK):
        task, _, scorer = name.removeprefix(BENCHMARK).partition("/")
        meaning = f"score of {task} as the benchmark defines it, its candidates ranked by {scorer}"
        return Metric(name=name, unit="1", better="higher", meaning=meaning)
    term, _, own = name.partition("/")
    return replace(METRICS[own], name=name, meaning=f"{METRICS[own].meaning} ({term})")
