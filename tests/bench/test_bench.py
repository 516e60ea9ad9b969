"""The pure pieces of the benchmarks. Their timings are for people to read; nothing here asserts one."""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

sys.path.append(str(Path(__file__).parent))  # the scripts are run by path and import each other as their folder's modules

from contest import Contest, Training, TRLJob
from flops import ModelSize, training_flops, visible_pairs
from measure import job_order, median, parse_arguments, ratios, run_child, split, worst_difference


@dataclass(frozen=True, kw_only=True)
class Example:
    objective: Literal["dpo", "sft"]
    steps: int = 4
    precisions: tuple[Literal["bf16", "fp32"], ...] = ("bf16",)
    lr: float = 1e-5
    extra: tuple[str, ...] = ()


def test_arguments_become_the_types_of_their_fields() -> None:
    options = parse_arguments(Example, ["objective=sft", "steps=7", "precisions=fp32,bf16", "lr=1e-3", "extra=a.b=1,c={d: e, f: g}"])
    assert options == Example(objective="sft", steps=7, precisions=("fp32", "bf16"), lr=1e-3, extra=("a.b=1", "c={d: e, f: g}"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["objective=dpo", "step=7"], "'step=7': no such argument.*objective, steps, precisions"),
        (["--steps"], "written key=value"),
        (["steps=7"], "objective= is missing"),
        (["objective=ppo"], "objective = 'ppo'; must be one of dpo, sft"),
        (["objective=dpo", "precisions=bf16,fp8"], "'fp8'; must be one of bf16, fp32"),
        (["objective=dpo", "steps=many"], "steps = 'many'; must be a value of type int"),
    ],
)
def test_a_wrong_argument_is_one_message(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        parse_arguments(Example, arguments)


def test_commas_inside_brackets_separate_nothing() -> None:
    assert split("a=[1,2],b={c: d, e: f},g=h") == ["a=[1,2]", "b={c: d, e: f}", "g=h"]
    assert split("") == []


def test_contestants_take_turns() -> None:
    assert job_order(["A", "B"], 2) == [(0, "A"), (0, "B"), (1, "A"), (1, "B")]


def test_ratios_are_of_the_same_step_and_round() -> None:
    # 3/1, 8/2; 10/5, 6/1: sorted 2, 3, 4, 6, whose median is 3.5
    found = ratios([[3.0, 8.0], [10.0, 6.0]], [[1.0, 2.0], [5.0, 1.0]])
    assert found == [3.0, 4.0, 2.0, 6.0]
    assert median(found) == 3.5
    assert math.isnan(median([]))
    with pytest.raises(ValueError, match="shorter"):
        ratios([[1.0, 2.0]], [[1.0]])


def test_losses_differ_absolutely_when_small_and_relatively_when_large() -> None:
    assert worst_difference([0.5, 0.25], [0.5, 0.75]) == 0.5
    assert worst_difference([8.0], [6.0]) == 0.25
    with pytest.raises(ValueError, match="shorter"):
        worst_difference([0.5, 0.5], [0.5])


def test_visible_pairs_of_a_shared_prompt() -> None:
    # prompt 1 + 2; first completion 3 + 4; second 3
    assert visible_pairs(2, (2, 1)) == 13
    # one completion is a plain causal row: 1 + 2 + 3 + 4
    assert visible_pairs(1, (3,)) == 10


def test_training_flops_by_hand() -> None:
    size = ModelSize(trunk=100, head=10, layers=2, attention_width=3)
    # 5 tokens, 3 of completions, 13 visible pairs: 6*100*5 + 6*10*3 + 12*2*3*13 = 3000 + 180 + 936
    assert training_flops(size, [(2, (2, 1))]) == 4116
    assert training_flops(size, [(2, (2, 1))] * 2) == 8232


def test_a_child_reports_its_exit_code_and_its_own_peak(tmp_path: Path) -> None:
    idle = run_child([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "idle.log", threads=1)
    full = run_child([sys.executable, "-c", "x = b'x' * 2**27; print(len(x))"], tmp_path / "full.log", threads=1)
    assert (idle.exit_code, full.exit_code) == (3, 0)
    assert (tmp_path / "full.log").read_text() == f"{2**27}\n"
    assert full.peak_bytes >= 2**27


def test_alignkit_is_given_the_optimizer_that_trl_has_by_default(tmp_path: Path) -> None:
    from alignkit.command_line import precheck
    from alignkit.optimizer_settings import AdamWSettings

    contest = Contest(Training(pairs=4, extra=("batch.tokens=256",)), "reward", "python", tmp_path)
    (settings,) = precheck(contest.overrides("fp32", 5))
    optimizer = settings.optimizer
    assert isinstance(optimizer, AdamWSettings)
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.clip_norm) == (0.9, 0.999, 1e-8, 1.0)
    assert (optimizer.weight_decay, optimizer.head_weight_decay, settings.schedule.warmup_steps) == (0.0, 0.0, 0)
    assert (settings.steps, settings.batch.pairs, settings.batch.tokens) == (5, 4, 256)


def test_tokens_of_a_step_count_each_prompt_once(tmp_path: Path) -> None:
    (tmp_path / "examples.jsonl").write_text(
        '{"step": 0, "prompt": [1, 2, 3], "completions": [[4, 5], [6]]}\n'
        '{"step": 0, "prompt": [1], "completions": [[4], [6]]}\n'
        '{"step": 1, "prompt": [1], "completions": [[2], [3, 4]]}\n'
    )
    assert Contest(Training(), "dpo", "python", tmp_path).step_tokens() == [9, 4]


def test_the_worker_reads_only_what_a_job_of_trl_has() -> None:
    text = (Path(__file__).parent / "trl_worker.py").read_text()
    read = {part.split('"')[0] for part in text.split('job["')[1:]}
    assert read - {"result", "started"} <= {field.name for field in dataclasses.fields(TRLJob)}
