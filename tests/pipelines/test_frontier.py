"""`python -m alignkit.pipeline experiment=frontier size=small`: a packaged experiment from its question to its answer."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from alignkit import pipeline as shell
from alignkit.analysis.answers.frontier import best_of_points, trained_points
from alignkit.analysis.runs import load_runs


@pytest.mark.slow  # minutes of jobs in processes of their own; tests of experiments and of each answer are its twins
def test_the_small_frontier_ends_with_a_table_a_figure_and_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "frontier"
    monkeypatch.setattr("sys.argv", ["alignkit-pipeline", "experiment=frontier", "size=small", f"run_dir={folder}", "debug=true"])
    assert shell.main() == 0

    runs = load_runs(folder)
    trained, sampled = trained_points(runs), best_of_points(runs)
    seeds = trained.groupby(["method", "strength"])["seed"].nunique()
    assert set(seeds.index.get_level_values("method")) == {"ppo", "dpo"}
    assert (seeds == 3).all()
    # A weak pull to the reference ends further from it than a strong one.
    for _, own in trained.groupby("method"):
        assert own.groupby("strength")["kl"].mean().is_monotonic_decreasing
    # Every seed begins at the supervised model, and the best of one sample is that model's sample.
    assert (sampled.loc[sampled["strength"] == 1, "kl"] == 0).all()
    gains = sampled.pivot(index="seed", columns="strength", values="reward")
    assert (gains[16] > gains[1]).all()

    table = pd.read_csv(folder / "answer" / "table.csv")
    assert set(table["method"]) == {"ppo", "dpo", "best of N, reward model"}
    assert (table["seeds"] == 3).all()
    assert (folder / "answer" / "figure.svg").read_text().count("<svg") == 1
    assert (folder / "answer" / "figure.png").stat().st_size > 10_000
    findings = (folder / "answer" / "findings.md").read_text()
    assert findings.startswith("# Which objective buys the most gold reward for a nat of KL?")
    assert "at equal KL and seed" in findings
