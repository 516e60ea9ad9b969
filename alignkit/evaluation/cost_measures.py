"""What `evaluation=cost` measures: each number's name, unit, direction and meaning, here and nowhere else.

Names of `results.json`. Those of two models are followed by `/before`, `/after` or `/change`.
"""

from __future__ import annotations

from collections.abc import Mapping

from alignkit.metrics import Metric

KL_K1 = "kl/k1"
KL_K3 = "kl/k3"
KL_EXACT = "kl/exact"
KL_K1_TOKEN = "kl/k1_per_token"
KL_K3_TOKEN = "kl/k3_per_token"
KL_EXACT_TOKEN = "kl/exact_per_token"
TEXT_KL = "text/reference_kl"
TEXT_NLL = "text/nll"
PERPLEXITY = "text/perplexity"
BITS_PER_BYTE = "text/bits_per_byte"
LENGTH = "samples/length"
ENDED = "samples/ended"
ENTROPY = "samples/entropy"
DISTINCT_1 = "samples/distinct_1"
DISTINCT_2 = "samples/distinct_2"
SELF_BLEU = "samples/self_bleu"
SELF_BLEU_ACROSS = "samples/self_bleu_across"
TOXICITY = "toxicity/"
"""Before the name of the scorer."""
FALSE_LOGPS = "misconceptions/false_logps"
CORRECT_LOGPS = "misconceptions/correct_logps"
MISLED = "misconceptions/misled"

COSTS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name=KL_K1, unit="nats", better="neither", meaning="KL(model | reference) per sample, by k1"),
        Metric(name=KL_K3, unit="nats", better="neither", meaning="KL(model | reference) per sample, by k3"),
        Metric(name=KL_EXACT, unit="nats", better="neither", meaning="KL(model | reference) per sample, over the vocabulary"),
        Metric(name=KL_K1_TOKEN, unit="nats", better="neither", meaning="KL(model | reference) per token, by k1"),
        Metric(name=KL_K3_TOKEN, unit="nats", better="neither", meaning="KL(model | reference) per token, by k3"),
        Metric(name=KL_EXACT_TOKEN, unit="nats", better="neither", meaning="KL(model | reference) per token, over the vocabulary"),
        Metric(name=TEXT_KL, unit="nats", better="neither", meaning="KL(reference | model) per token of held-out text"),
        Metric(name=TEXT_NLL, unit="nats", better="lower", meaning="-log-prob per token of held-out text"),
        Metric(name=PERPLEXITY, unit="1", better="lower", meaning="perplexity of held-out text, per token"),
        Metric(name=BITS_PER_BYTE, unit="bits", better="lower", meaning="bits per byte of held-out text"),
        Metric(name=LENGTH, unit="tokens", better="neither", meaning="tokens of a sample"),
        Metric(name=ENDED, unit="fraction", better="higher", meaning="share of samples that ended by themselves"),
        Metric(name=ENTROPY, unit="nats", better="neither", meaning="entropy per token of a model's own samples"),
        Metric(name=DISTINCT_1, unit="fraction", better="higher", meaning="distinct-1: different words over words"),
        Metric(name=DISTINCT_2, unit="fraction", better="higher", meaning="distinct-2: different pairs of words over pairs"),
        Metric(name=SELF_BLEU, unit="fraction", better="lower", meaning="self-BLEU of the samples of a prompt"),
        Metric(name=SELF_BLEU_ACROSS, unit="fraction", better="lower", meaning="self-BLEU of samples of different prompts"),
        Metric(name=FALSE_LOGPS, unit="nats", better="lower", meaning="log-prob per token of common false answers"),
        Metric(name=CORRECT_LOGPS, unit="nats", better="higher", meaning="log-prob per token of correct answers"),
        Metric(name=MISLED, unit="fraction", better="lower", meaning="questions whose likeliest answer is false"),
    )
}


def cost_measure(name: str) -> Metric:
    """What a name stands for; those of toxicity come from scorers, whose scores are higher where a text is less toxic.

    Raises:
        KeyError: for a name that is none.
    """
    if name.startswith(TOXICITY):
        scorer = name.removeprefix(TOXICITY)
        return Metric(name=name, unit="score", better="higher", meaning=f"score by {scorer}, higher is less toxic")
    return COSTS[name]
