"""Losses that go wrong on purpose, named on a command line as anybody's own are."""
