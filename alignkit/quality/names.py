"""What checks are called: known before anything that computes them is imported."""

CHECKS = ("duplicates", "contradictions", "length", "position", "noise")
"""The values of `checks=`; `all` is all of them."""
