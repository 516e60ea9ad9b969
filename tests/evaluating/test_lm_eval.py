"""A model through lm-evaluation-harness: what it says is the model's own log-probs, and what a run keeps of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignkit.errors import UserError
from alignkit.evaluate import parse
from alignkit.evaluating.config import carry_out
from alignkit.run_dir import RunDir, read_jsonl

pytest.importorskip("lm_eval")
TINY = Path(__file__).parents[2] / "alignkit/lab/pretrained/tiny"
ROWS = [
    {"question": "Is the film good?", "choices": ["yes", "no, it is not"], "gold": 0},
    {"question": "Is the film any bad?", "choices": ["yes, it is bad", "no"], "gold": 1},
    {"question": "Is it a film?", "choices": ["it is", "no"], "gold": 0},
    {"question": "Was it?", "choices": ["it was", "no"], "gold": 0},
]
COMMON = """\
dataset_path: json
dataset_kwargs: {{data_files: {{train: {file}, test: {file}}}}}
fewshot_split: train
test_split: test
metadata: {{version: 3}}
"""
CHOOSING = """\
task: choosing
output_type: multiple_choice
doc_to_text: "{{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: mcc, aggregation: matthews_corrcoef, higher_is_better: true}
"""
WRITING = """\
task: writing
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["."], max_gen_toks: 3}
filter_list: [{name: upper, filter: [{function: uppercase}, {function: take_first}]}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness asks the machine what is installed on it, which takes seconds and of which nothing is kept."""
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", str)


def tasks_in(folder: Path) -> Path:
    """The two tasks above, which read `ROWS`."""
    folder.mkdir()
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, own in (("choosing", CHOOSING), ("writing", WRITING)):
        (folder / f"{name}.yaml").write_text(own + COMMON.format(file=file))
    return folder


def evaluated(place: Path, *overrides: str) -> tuple[RunDir, dict[str, object]]:
    evaluation = parse(["logger=jsonl", "hardware=cpu", *overrides]).evaluation
    run = RunDir.create(place)
    return run, carry_out(evaluation, run)


def logp(lm: torch.nn.Module, ids: list[int], continued: list[int]) -> float:
    """log p(continued | ids), in float64 from the logits of one plain forward pass."""
    logits = lm(torch.tensor([ids + continued])).logits[0].double()
    places = torch.arange(len(ids) - 1, len(ids) + len(continued) - 1)
    return float(logits.log_softmax(-1)[places, torch.tensor(continued)].sum())


@torch.no_grad()
def test_a_run_keeps_what_the_harness_says_of_a_model(tmp_path, capfd):
    folder = tasks_in(tmp_path / "mine")
    run, results = evaluated(
        tmp_path / "run",
        *("model.path=builtin:tiny", "evaluation=lm_eval", "evaluation.tasks=[choosing,writing]"),
        *(f"evaluation.include_path={folder}", "evaluation.limit=3", "batch.tokens=60"),
    )
    tokenizer, lm = AutoTokenizer.from_pretrained(TINY), AutoModelForCausalLM.from_pretrained(TINY).eval()
    rows = list(read_jsonl(run.samples))
    assert [(row["task"], row["doc_id"]) for row in rows] == [(task, place) for task in ("choosing", "writing") for place in range(3)]
    right, longest = 0, 0
    for row, asked in zip(rows[:3], ROWS, strict=False):
        begun = tokenizer(f"{asked['question']}\nAnswer:")["input_ids"]
        wholes = [tokenizer(f"{asked['question']}\nAnswer: {choice}")["input_ids"] for choice in asked["choices"]]
        expected = [logp(lm, begun, whole[len(begun) :]) for whole in wholes]
        assert row["log_probs"] == pytest.approx(expected, rel=1e-5)
        assert row["target"] == asked["gold"]
        right += expected.index(max(expected)) == asked["gold"]
        longest = max(longest, *map(len, wholes))
    assert all(row["responses"] == [row["responses"][0].upper()] and "." not in row["responses"][0] for row in rows[3:])
    kept = json.loads(run.results.read_text())
    assert results == kept
    assert kept["choosing/acc"] == pytest.approx(right / 3)
    assert kept["choosing/acc_stderr"] == pytest.approx((right / 3 * (1 - right / 3) / 2) ** 0.5)  # n - 1 below
    assert {"choosing/acc_norm", "choosing/mcc", "choosing/mcc_stderr", "writing/exact_match/upper"} <= kept.keys()
    assert kept["choosing/rows"] == 3
    document = json.loads((run.path / "evaluation.json").read_text())
    assert document["n-samples"]["choosing"] == {"original": 4, "effective": 3}
    assert document["versions"] == {"choosing": 3, "writing": 3}
    assert document["configs"]["choosing"]["doc_to_text"] == "{{question}}\nAnswer:"
    assert document["config"]["batch_sizes"] == [60 // longest]
    printed = capfd.readouterr()
    assert "choosing: 3 of 4 rows" in printed.out
    assert "exact_match/upper" in printed.out
    assert not printed.err
    assert "bootstrapping" not in printed.out


@torch.no_grad()
def test_shots_stand_before_the_question_and_bf16_is_the_runs_number_format(tmp_path):
    folder = tasks_in(tmp_path / "mine")
    common = ("model.path=builtin:tiny", "evaluation=lm_eval", "evaluation.tasks=[choosing]", f"evaluation.include_path={folder}")
    run, _ = evaluated(tmp_path / "run", *common, "evaluation.shots=1", "precision=bf16", "seed=3")
    document = json.loads((run.path / "evaluation.json").read_text())
    assert document["n-shot"] == {"choosing": 1}
    assert document["config"]["fewshot_seed"] == 3
    tokenizer, lm = AutoTokenizer.from_pretrained(TINY), AutoModelForCausalLM.from_pretrained(TINY).eval()
    shown = [f"{row['question']}\nAnswer: {row['choices'][row['gold']]}\n\n" for row in ROWS]
    row, asked = next(iter(read_jsonl(run.samples))), ROWS[0]
    tail = f"{asked['question']}\nAnswer:"
    distances = {}
    for shot in shown:
        begun, whole = (tokenizer(shot + text)["input_ids"] for text in (tail, f"{tail} {asked['choices'][0]}"))
        distances[shot] = abs(row["log_probs"][0] - logp(lm, begun, whole[len(begun) :]))
    nearest = min(distances, key=distances.__getitem__)
    assert distances[nearest] == pytest.approx(0, abs=0.2)  # eight bits of mantissa
    assert distances[nearest] > 1e-6


def test_a_chat_template_that_is_not_there_is_missed_before_the_tasks_are_looked_for(tmp_path):
    with pytest.raises(UserError, match="the tokenizer has no chat template"):
        evaluated(tmp_path / "run", "model.path=builtin:tiny", "evaluation=lm_eval", "dataset.format=chat")
