"""The run that nothing happens to, with which those of this folder are compared."""

from __future__ import annotations

SHORT = (
    *("loss=con_dph", "steps=6", "validation.every=2", "validation.samples=1", "validation.sample_tokens=3", "logger.every=1"),
    *("hardware.threads=1", "batch.pairs=2", "dataset.pairs=12", "dataset.validation_examples=2", "schedule.warmup_steps=1"),
    "callbacks.progress_bar=false",
)
"""Six steps in a second or two."""
ROW = "alignkit.run_dir:RunDir.append_metrics"
ROWS = 10
"""Of metrics: four validations, six steps."""
LOGGED = 14
"""Of W&B: those, and four tables of samples."""
