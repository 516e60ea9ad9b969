"""How positive a text is, by VADER. Imports no torch, so that the lab's worlds can be drawn without it.

Hutto & Gilbert 2014, VADER: a parsimonious rule-based model for sentiment analysis of social media text (ICWSM). A lexicon with rules
for negation, degree and `but`; no training, no randomness, a tenth of a millisecond a text.
"""

from __future__ import annotations

from functools import cache

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer


def compound(text: str) -> float:
    """VADER's compound score s / sqrt(s^2 + 15) in [-1, 1], s the summed valence of the text's words: 0 where it has no word of
    sentiment; rounded by VADER to 1e-4."""
    return float(_analyzer().polarity_scores(text)["compound"])


@cache
def _analyzer() -> SentimentIntensityAnalyzer:
    # Reads 7,500 words from disk, 20 ms.
    return SentimentIntensityAnalyzer()
