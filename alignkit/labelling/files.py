"""The files that a label run leaves beside its config and its results."""

from __future__ import annotations

LABELS = "labels.jsonl"
"""The rows to train on."""
JUDGED = "judged.jsonl"
"""Every prompt that was judged, with all of its answers and what the judge said: what a run that was stopped goes on from."""
POOL = "pool.jsonl"
"""With `query=margin` and `ensemble`: the answers to all prompts of the pool and their scores, of which some are chosen."""
SOURCES = "sources.json"
"""What the run began with: digests of prompts, answers and weights, and the keys that decide its rows."""
