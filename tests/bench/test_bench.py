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
from ppo_contest import PPOContest, PPOMeasured, TRLPPOJob, Updates
from trl_environment import TRL, TRL_PPO, requirements
from versus_ppo import TINY, PPOOptions, summarise


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


def test_the_ppo_worker_reads_only_what_a_job_has() -> None:
    text = (Path(__file__).parent / "trl_ppo_worker.py").read_text()
    read = {part.split('"')[0] for part in text.split('job["')[1:]}
    assert read - {"result", "started"} == {field.name for field in dataclasses.fields(TRLPPOJob)}


def test_an_environment_of_trl_is_what_runs_here_but_for_what_is_asked_for() -> None:
    usual, pinned = requirements(), requirements(TRL_PPO, ["transformers==5.0.0", "numpy<2"])
    assert usual[0] == f"trl=={TRL}"
    assert pinned[0] == f"trl=={TRL_PPO}"
    assert [name for name in pinned[1:] if name not in usual] == ["transformers==5.0.0", "numpy<2"]
    assert [name for name in usual[1:] if name not in pinned] == [next(name for name in usual if name.startswith("transformers"))]


def test_micro_batches_that_do_not_divide_an_update_are_not_tried() -> None:
    options = PPOOptions(objective="ppo", episodes=6, trl_precision=("fp32",), trl_micro=(1, 4, 6))
    assert [(variant.micro, variant.rollout) for variant in options.variants()] == [(1, 6), (6, 6)]


def ppo_run(*, seconds: list[float], cpu: list[float], gib: float) -> PPOMeasured:
    return PPOMeasured(
        step_seconds=seconds,
        cpu_seconds=cpu,
        sampling_seconds=[],
        episodes=2,
        scores=[],
        kls=[],
        startup_seconds=1.0,
        threads=2,
        versions={},
        settings={},
        peak_bytes=int(gib * 2**30),
        command_seconds=0.0,
    )


def test_ppo_is_summarised_by_the_median_of_ratios_of_the_same_update() -> None:
    runs = {
        "alignkit": [ppo_run(seconds=[2.0, 4.0], cpu=[4.0, 6.0], gib=1.0), ppo_run(seconds=[9.0, 4.0], cpu=[4.0, 6.0], gib=2.0)],
        "trl": [ppo_run(seconds=[4.0, 16.0], cpu=[8.0, 8.0], gib=4.0), ppo_run(seconds=[9.0, 16.0], cpu=[8.0, 8.0], gib=4.0)],
    }
    line = summarise(runs)["alignkit"]
    # updates 2, 4, 9, 4 have the median 4, of two episodes each; ratios 2/4, 4/16, 9/9, 4/16: sorted .25 .25 .5 1
    assert line["seconds_per_episode"] == 2.0
    assert line["seconds_ratio_to_trl"] == 0.375
    assert line["cpu_seconds_ratio_to_trl"] == 0.625  # .5 .75 .5 .75
    assert (line["peak_gib"], line["peak_ratio_to_trl"]) == (2.0, 0.5)


def test_alignkit_is_given_the_ppo_that_trl_has(tmp_path: Path) -> None:
    from alignkit.command_line import precheck

    updates = Updates(model=str(TINY), episodes=4, response=7, epochs=3, lr=3e-6, kl_coef=0.02, threads=1)
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (settings,) = precheck(PPOContest(updates, "python", tmp_path).overrides("bf16", 5))
    assert (settings.steps, settings.batch.pairs, settings.rollout.samples, settings.rollout.max_tokens) == (5, 4, 1, 7)
    assert (settings.loss.options["epochs"], settings.loss.options["minibatches"], settings.loss.options["kl_coefficient"]) == (3, 1, 0.02)
    assert settings.optimizer.clip_norm == 0
