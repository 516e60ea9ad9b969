"""The table of losses says what the classes say, and the README holds it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from alignkit.configuration import packaged
from alignkit.errors import UserError
from alignkit.loss_table import field_docstrings, in_range, loss_names, main, paper, row, table
from alignkit.losses import families
from alignkit.losses.dpo import DPO
from alignkit.losses.families import WeightsLoss
from alignkit.losses.grpo import GRPO
from alignkit.losses.ipo import IPO
from alignkit.losses.ppo import PPO
from alignkit.losses.rloo import RLOO
from alignkit.losses.rollout_families import SampledLoss
from alignkit.losses.trpo import TRPO
from alignkit.modules.term_kinds import kind_of, reads_head, reads_rating
from alignkit.resolution import LOSSES, loss_fields, resolve

README = Path(__file__).resolve().parents[1] / "README.md"
NUMERIC = [
    (name, field.name) for name in loss_names() for field in dataclasses.fields(resolve(LOSSES, name)) if field.type in ("float", float)
]


def test_the_readme_holds_the_table() -> None:
    inside = README.read_text(encoding="utf-8").partition("<!-- losses -->\n")[2].partition("\n<!-- /losses -->")[0]
    assert inside == table(), "run `python -m alignkit.loss_table` and put what it prints between the markers in README.md"


def test_every_loss_file_has_a_row() -> None:
    others = {"__init__", "families", "outputs", "rollout_families", "rollout_outputs"}
    files = {path.stem for path in Path(families.__file__).parent.glob("*.py")} - others
    first_cells = [line.split(" | ")[0].strip("| ") for line in table().splitlines()[2:]]
    assert sorted(cell.split(", ")[0].strip("`") for cell in first_cells) == sorted(files)


def test_rows_say_what_is_read_and_needed() -> None:
    assert row("dpo") == (
        "`dpo`",
        "log-probs of pairs",
        "yes",
        "`beta` 0.1 > 0",
        "none: beta h grows without bound",
        "[2305.18290](https://arxiv.org/abs/2305.18290)",
    )
    assert row("bradley_terry")[:4] == (
        "`bradley_terry`, `reward`",
        "head scores of pairs",
        "no",
        "`use_margin` false, `centering` 0.0 >= 0",
    )
    assert row("simpo")[1:3] == ("log-probs of pairs", "no")
    assert row("cdpo")[3] == "`beta` 0.1 > 0, `epsilon` 0.1 in [0, 0.5)"
    assert row("cdpo")[-1] == "[cdpo.pdf](https://ericmitchell.ai/cdpo.pdf)"
    assert row("orthogonality")[-1] == ""


def test_a_joint_term_brings_its_reference_and_its_parameters() -> None:
    cells = row("con_dph")
    assert cells[2] == "for its `cdpo` term, not with `dpo_weight=0`"
    assert re.findall("`(.*?)`", cells[3]) == ["epsilon", "dpo_weight", "beta", "dpo_epsilon"]
    assert "`beta` 0.1 > 0" in cells[3]  # what null stands for while there is a joint term


def test_losses_are_together_by_what_they_read() -> None:
    read = [line.split(" | ")[1] for line in table().splitlines()[2:]]
    needs = [line.split(" | ")[1:3] for line in table().splitlines()[2:]]
    blocks = [cells for before, cells in zip([None, *needs], needs, strict=False) if cells != before]
    assert read[0] == "token log-probs of single completions"
    assert [cells for cells in blocks if cells[0] == "log-probs of pairs"] == [["log-probs of pairs", "yes"], ["log-probs of pairs", "no"]]


def test_losses_on_samples_come_last_and_need_a_reference() -> None:
    assert [line.split(" | ")[0] for line in table().splitlines()[-4:]] == ["| `grpo`", "| `ppo`", "| `rloo`", "| `trpo`"]
    for name in ("grpo", "ppo", "rloo", "trpo"):
        assert row(name)[1:3] == ("samples of the policy, scored", "yes")


def test_parameters_that_do_not_fit_are_counted() -> None:
    named = dataclasses.fields(PPO)
    shown = re.findall("`(.*?)` ", row("ppo")[3])
    assert shown == [field.name for field in named[: len(shown)]]
    assert row("ppo")[3].startswith("`kl_coefficient` 0.05 >= 0, ")
    assert row("ppo")[3].endswith(f", {len(named) - len(shown)} more in `conf/loss/ppo.yaml`")


@pytest.mark.parametrize("loss", [PPO, RLOO, GRPO, TRPO])
def test_no_term_reads_a_loss_on_samples(loss: type[SampledLoss]) -> None:
    with pytest.raises(UserError, match=rf"loss: {loss.__name__} learns from samples .* module 'ppo'"):
        kind_of(loss)
    assert reads_head(loss) == (loss in (PPO, TRPO))
    assert not reads_rating(loss)


def test_cells_keep_the_columns_and_are_short() -> None:
    widths = [len(re.findall(r"(?<= )\||\|(?= )|^\||\|$", line)) for line in table().splitlines()]
    assert set(widths) == {7}
    assert max(len(cell) for name in loss_names() for cell in row(name)) <= 120


@pytest.mark.parametrize(("name", "field"), NUMERIC)
def test_a_stated_range_is_the_one_that_the_class_checks(name: str, field: str) -> None:
    loss = resolve(LOSSES, name)
    values = loss_fields(packaged("loss")[name])
    options = {other.name: values[other.name] for other in dataclasses.fields(loss)}
    if options.get("beta", 0) is None:
        options["beta"] = 0.1
    stated = in_range(field_docstrings(loss)[field])
    assert stated, f"the docstring of {name}.{field} must state a range"
    interval = re.fullmatch(r" in ([\[(])(\S+), (\S+)([\])])", stated)
    bounds = [(interval[2], -1, interval[1] == "["), (interval[3], 1, interval[4] == "]")] if interval else []
    if bound := re.fullmatch(r" (>=?) (\S+)", stated):
        bounds = [(bound[2], -1, bound[1] == ">=")]
        loss(**options | {field: 1e6})
    assert bounds
    for text, outwards, is_legal in bounds:
        edge = float(text)
        loss(**options | {field: edge - outwards * 1e-6})
        with pytest.raises(UserError, match=rf"loss\.{field}"):
            loss(**options | {field: edge + outwards * 1e-6})
        if is_legal:
            loss(**options | {field: edge})
        else:
            with pytest.raises(UserError, match=rf"loss\.{field}"):
                loss(**options | {field: edge})


def test_a_range_is_found_in_a_docstring_and_left_out_where_there_is_none() -> None:
    assert in_range("Width, in (0, 1]. The authors use 0.05.") == " in (0, 1]"
    assert in_range("Weight, >= 0; 0.01 is usual.") == " >= 0"
    assert in_range("Strength, > 0. 0.1 is usual.") == " > 0"
    assert in_range("Whether it is so (or not), as in 0, 1 and 2.") == ""


def test_field_docstrings_are_those_of_fields_alone() -> None:
    assert list(field_docstrings(IPO)) == ["beta"]
    assert list(field_docstrings(PPO)) == [field.name for field in dataclasses.fields(PPO)]
    assert field_docstrings(DPO)["beta"].startswith("Strength of the KL constraint, > 0.")


def test_a_paper_is_the_first_that_the_docstring_names() -> None:
    class Sourced(WeightsLoss):
        """Of two (https://example.org/notes/first.pdf), then arXiv:2401.00001."""

    class Bare(WeightsLoss):
        """Of nobody, 2401.00001."""

    assert paper(Sourced) == "[first.pdf](https://example.org/notes/first.pdf)"
    assert paper(Bare) == ""


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    assert capsys.readouterr().out == table() + "\n"
