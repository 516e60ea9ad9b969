"""TL;DR: summaries of Reddit posts, compared by people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.examples import PreferenceExample
from alignkit.data.rows import RowError, number, text
from alignkit.data.source import RowSource


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TLDR(RowSource):
    """`openai/summarize_from_feedback`, `comparisons`: a post, two summaries, and which of them was chosen.

        "SUBREDDIT: r/tifu\\nTITLE: ...\\nPOST: ...\\nTL;DR:" + " I overslept"

    Plain text: the models of this data are not chat models. Posts of news articles, which the validation split mixes in, are left
    out. Stiennon et al. 2020 (arXiv:2009.01325); the prompt is that of the reference model of the DPO paper, with single line feeds
    where OpenAI's own has double ones.
    """

    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("info", "summaries", "choice"),)

    def to_examples(self, row: Mapping[str, object]) -> list[PreferenceExample]:
        """One pair, or none for a news article."""
        info, summaries = row["info"], row["summaries"]
        if not isinstance(info, Mapping):
            raise RowError("'info' must be an object with post, title and subreddit.")
        if not isinstance(summaries, list) or len(summaries) != 2 or not all(isinstance(one, Mapping) for one in summaries):
            raise RowError("'summaries' must be a list of two objects with text.")
        choice = number(row, "choice")
        if choice not in (0.0, 1.0):
            raise RowError(f"'choice' is {row['choice']!r}; must be 0 or 1, the number of the better summary.")
        if info.get("post") is None and info.get("article") is not None:
            return []
        prompt = f"SUBREDDIT: r/{text(info, 'subreddit')}\nTITLE: {text(info, 'title')}\nPOST: {text(info, 'post')}\nTL;DR:"
        first, second = (" " + text(summary, "text").strip() for summary in summaries)
        return [PreferenceExample(prompt=prompt, completions=(first, second) if choice == 0.0 else (second, first))]
