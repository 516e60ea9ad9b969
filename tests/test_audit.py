"""`python -m alignkit.audit`: what the model will see, as numbers and as a page."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from rich.cells import cell_len

from alignkit import audit
from alignkit.audit_page import Cell, elide, lines, page_text, visible
from alignkit.errors import UserError
from alignkit.inspection import Ends, Inspection, LayoutCost, ShownExample, Spread
from alignkit.models.location import locate

Command = Callable[..., int]

PAGE = Inspection(
    model="tiny (builtin:tiny): llama",
    data="local: plain texts, as they stand",
    head="dph",
    counts={"rows": 9, "identical": 1, "empty": 0, "train": 5, "validation": 3, "cut_completions": 1},
    lengths={"prompt": Spread(low=1, median=2, high=3, longest=4000), "chosen": Spread(low=5, median=6, high=7, longest=8)},
    steps=2,
    layouts=(
        LayoutCost(layout="packed", micro_batches=2, rows=2, tokens=45, positions=50),
        LayoutCost(layout="rows", micro_batches=2, rows=8, tokens=75, positions=100),
    ),
    layout="packed",
    why_not_packed=None,
    ends=Ends(
        terminator="</s>", terminator_id=2, completions=16, terminated=15, early=0, bos="<s>", bos_id=1, prompts=8, begun=8, begun_twice=0
    ),
    train=5,
    examples=[
        ShownExample(
            number=1,
            prompt=["<s>", "Is", " it", "?"],
            completions={"chosen": [" yes", "\n", " [", "</s>"], "rejected": [" no"]},
            terminated={"chosen": True, "rejected": False},
        )
    ],
)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Calls the command in this process, in a directory with a `pairs.jsonl`, and returns its exit code."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    rows = [{"prompt": f"Film {number}:", "chosen": " It is good.", "rejected": " It is bad."} for number in range(8)]
    rows[0] |= {"prompt": "[red]A[/red]:", "chosen": " \x1b[2J[b]good[/b] :smile:", "rejected": " \u202ebad\r"}
    rows[1] |= {"chosen": " It<|end|>"}
    (work / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*argv: str) -> int:
        monkeypatch.setattr(sys, "argv", ["alignkit-audit", *argv])
        return audit.main()

    return run


LOCAL = ("dataset=local", "dataset.path=pairs.jsonl", "dataset.validation_examples=2")


def table(text: str, heading: str) -> dict[str, list[str]]:
    """The rows of a table, by their first cell."""
    body = text.partition(f"\n {heading} ")[2].partition("\n\n")[0]
    return {cells[0]: cells[1:] for cells in map(str.split, body.splitlines()[1:])}


# The command


def test_it_tells_counts_lengths_packing_ends_and_examples(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*LOCAL, "audit.examples=2", "steps=1", "schedule.warmup_steps=0", "batch.pairs=5") == 0
    out = capsys.readouterr().out
    counts = table(out, "examples")
    assert {name: int(cells[0]) for name, cells in counts.items()} == {
        "rows": 8,
        "special_token_in_text": 1,
        "train": 5,
        "validation": 2,
    }
    assert " ".join(counts["special_token_in_text"][1:]) == "dropped: a text spells one of the tokenizer's control tokens"
    assert table(out, "tokens").keys() == {"prompt", "chosen", "rejected"}
    layouts = table(out, "steps 1-1")
    # Five pairs are ten rows of one completion; packed, they fit into fewer.
    assert layouts["layout=rows"][:2] == ["1", "10"]
    assert int(layouts["layout=packed,"][3]) < 10
    assert "<|end|> (id 1) ends 14 of 14 completions" in out
    assert "<|bos|> (id 0) begins 7 of 7 prompts" in out
    assert "example 1 of 5" in out
    assert "example 2 of 5" in out
    assert "example 3 of 5" not in out


def test_texts_of_data_are_shown_and_never_obeyed(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*LOCAL, "audit.examples=5") == 0
    out = capsys.readouterr().out
    assert not [character for character in out if character in "\x1b\r\u202e"]
    bare = out.replace("][", "")
    assert r"<|bos|>\[red\]A\[/red\]:" in bare
    assert r"[ \x1b\[2J\[b\]good\[/b\] :smile:" in bare
    assert r"\u202ebad\r*<|end|>*]" in bare


def test_supervised_fine_tuning_shows_one_completion_and_no_head(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("loss=sft", *LOCAL, "audit.examples=1") == 0
    out = capsys.readouterr().out
    assert table(out, "tokens").keys() == {"prompt", "completion"}
    assert "  completion, " in out
    assert "rejected" not in out
    assert "[*" not in out


def test_it_needs_no_weights_and_leaves_nothing_behind(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "weightless"
    shutil.copytree(locate("model.path", "builtin:tiny"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    assert command("model=hf", f"model.path={folder}", *LOCAL, "run_dir=mine") == 0
    assert [path.name for path in Path.cwd().iterdir()] == ["pairs.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["audit.exmples=1"], "audit.exmples: no such key. Did you mean 'examples'?"),
        (["audit.examples=some"], "audit.examples = 'some'; must be a whole number."),
        (["+audit.examples=-1"], "audit.examples = -1; must be a number in [0, inf)."),
        (["loss=dpoo"], "unknown loss 'dpoo'"),
        (["-m", "loss=dpo,ipo"], "looks at one run"),
        (["--cfg", "job"], "looks at one run"),
        (["dataset=local", "dataset.path=nowhere.jsonl"], "there is no such file"),
        (["model=hf", "model.path=./nowhere"], "there is no such folder"),
        (["dataset.max_length=1000"], "the model has positions for 512 tokens"),
        ([*LOCAL, "dataset.max_dropped=0.1"], "special_token_in_text 1 (a text spells"),
        (["loss=dpo", "model.train=heads"], "this objective trains no head"),
    ],
)
def test_what_training_would_refuse_is_refused(
    command: Command, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert command(*arguments) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


def test_help_names_the_keys_of_its_own(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    out = capsys.readouterr().out
    own, _ = audit.read_own([])
    assert f"audit.examples={own.examples} " in out
    assert f"audit.tokens={own.tokens} " in out


def test_its_own_keys_are_kept_from_the_config() -> None:
    own, rest = audit.read_own(["loss=dpo", "audit.examples=7", "++audit.tokens=0", "-cd", "mine"])
    assert (own.examples, own.tokens) == (7, 0)
    assert rest == ["loss=dpo", "-cd", "mine"]
    with pytest.raises(UserError, match=r"audit.tokens = -1"):
        audit.read_own(["audit.tokens=-1"])


def test_nothing_heavy_is_imported_before_the_config_is_known_to_be_good() -> None:
    code = "import sys, alignkit.audit; print(sorted({'torch', 'transformers', 'lightning', 'datasets'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# The page


def test_without_colours_brackets_mark_what_is_trained_and_what_is_read() -> None:
    assert page_text(PAGE, longest=200).endswith(
        r"""
Token by token: prompt [ trained][ token] [*read by head dph*]; \n is a line break

example 1 of 5: prompt, 4 tokens
    <s>Is it?
  chosen, 4 tokens, ends with the terminator
    <s>Is it?[ yes][\n]
    [ \[][*</s>*]
  rejected, 1 token, CUT, no terminator
    <s>Is it?[* no*]
"""
    )


def test_the_figures_stand_above_the_examples() -> None:
    text = page_text(PAGE, longest=200)
    assert "terminator </s> (id 2) ends 15 of 16 completions; the other 1 were cut\n" in text
    assert "beginning  <s> (id 1) begins 8 of 8 prompts\n" in text
    assert {name: cells[0] for name, cells in table(text, "examples").items()} == {
        "rows": "9",
        "identical": "1",
        "train": "5",
        "validation": "3",
        "cut_completions": "1",
    }
    assert table(text, "tokens") == {"prompt": ["1", "2", "3", "4,000"], "chosen": ["5", "6", "7", "8"]}
    assert table(text, "steps 1-2") == {
        "layout=packed,": ["in", "use", "2", "2", "45", "50", "10.0%"],
        "layout=rows": ["2", "8", "75", "100", "25.0%"],
    }
    assert "layout=packed computes 50% fewer positions" in text


def test_what_must_not_be_is_told_loudly() -> None:
    text = page_text(replace(PAGE, ends=replace(PAGE.ends, early=2, begun_twice=3)), longest=200)
    assert "2 HOLD IT BEFORE THEIR END" in text
    assert "3 BEGIN WITH TWO" in text


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"bos": None, "bos_id": None}, "the tokenizer has no beginning-of-text token"),
        ({"begun": 0}, "<s> (id 1) begins no prompt: the tokenizer does not add it"),
        ({"begun": 6}, "<s> (id 1) begins 6 of 8 prompts; the others were trimmed"),
    ],
)
def test_it_is_told_how_prompts_begin(change: dict[str, Any], line: str) -> None:
    assert f"beginning  {line}\n" in page_text(replace(PAGE, ends=replace(PAGE.ends, **change)), longest=200)


def test_a_model_without_packed_rows_is_told_why() -> None:
    page = replace(PAGE, layouts=PAGE.layouts[1:], layout="rows", why_not_packed="it uses ALiBi positions")
    text = page_text(page, longest=200)
    assert "layout=packed is not possible, because it uses ALiBi positions." in text
    assert table(text, "steps 1-2").keys() == {"layout=rows,"}


def test_on_a_terminal_colours_take_the_place_of_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = page_text(PAGE, longest=200)
    dim, trained, read, end = "\x1b[2m", ("\x1b[30;42m", "\x1b[30;46m"), "\x1b[1;30;43m", "\x1b[0m"
    assert f"{dim}?{end}{trained[0]} yes{end}{trained[1]}\\n{end}\n    {trained[0]} [{end}{read}</s>{end}\n" in text
    monkeypatch.setenv("NO_COLOR", "1")
    assert "[ yes][\\n]\n" in page_text(PAGE, longest=200), "colours that are not shown mark nothing"


def test_a_long_text_is_shown_at_both_ends() -> None:
    cells = [Cell(str(number)) for number in range(10)]
    assert [cell.text for cell in elide(cells, 5)] == ["0", "1", " ... 5 tokens ...", "7", "8", "9"]
    assert elide(cells, 10) == elide(cells, 0) == cells


def test_lines_break_between_tokens_and_after_line_breaks() -> None:
    cells = [Cell("ab"), Cell("中"), Cell("c"), Cell("\\n", ends_line=True), Cell("longer than a line"), Cell("d")]
    broken = [[cell.text for cell in line] for line in lines(cells, 4)]
    assert broken == [["ab", "中"], ["c", "\\n"], ["longer than a line"], ["d"]]
    assert cell_len("ab中") == 4


@pytest.mark.parametrize(
    ("text", "seen"),
    [("a b", "a b"), ("\n\t\x1b\x00\x7f", r"\n\t\x1b\x00\x7f"), ("\u202e\u200b\ufeff", r"\u202e\u200b\ufeff"), ("é中🙂[x]", "é中🙂[x]")],
)
def test_control_characters_are_spelt_out(text: str, seen: str) -> None:
    assert visible(text) == seen


# Checks of the data


def test_checks_find_what_was_put_into_the_data(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    films = [f"Tell me of film number {number}, please, and say whether to see it." for number in range(60)]
    rows = [{"prompt": film, "chosen": " It is a good film, see it.", "rejected": " It is bad."} for film in films]
    rows[5] |= {"chosen": " It is bad.", "rejected": " It is a good film, see it."}
    rows += [{**rows[7], "chosen": rows[7]["rejected"], "rejected": rows[7]["chosen"]}]  # line 61 against line 8
    rows += [{"prompt": "x", "chosen": " a\x1b[2J", "rejected": " a\x1b[2J"}]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("held.jsonl").write_text(json.dumps({"prompt": films[3].replace("please", "Please"), "chosen": " a", "rejected": " b"}) + "\n")
    typed = ("dataset=local", "dataset.path=pairs.jsonl", "dataset.validation_path=held.jsonl", "dataset.validation_examples=1")
    assert command(*typed, "checks=all", "audit.examples=0", "audit.suspects=2", "audit.out=found.json") == 0
    out = capsys.readouterr().out
    assert "1 examples were left out: chosen and rejected are the same" in out
    assert "1 OF 1 HELD-OUT PROMPTS ARE NEAR TO A TRAINING PROMPT; the first to dataset.path = pairs.jsonl, line 4" in out
    assert "1 of 1 pairs of completions that are there more than once are labelled both ways" in out
    assert "dataset.path = pairs.jsonl, line 8 and line 61" in out
    assert "position   not known" in out
    assert out.index("suspect 1:") < out.index("suspect 2:")
    assert out.endswith("quality: found.json\n")
    found = json.loads(Path("found.json").read_text())
    assert {suspect["row"] for suspect in found["suspects"]} <= {f"dataset.path = pairs.jsonl, line {line}" for line in (6, 8, 61)}
    assert found["contradictions"]["opposed_rows"] == [["dataset.path = pairs.jsonl, line 8", "dataset.path = pairs.jsonl, line 61"]]
    assert found["lengths"][0]["longer"]["value"] == pytest.approx(59 / 61)
    assert found["noise"]["accuracy"]["value"] == pytest.approx(59 / 61)


def test_only_the_checks_that_were_asked_for_are_made(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*LOCAL, "checks=[length,contradictions]", "audit.examples=0") == 0
    out = capsys.readouterr().out
    assert "AUC of length" in out
    assert "opposed" in out
    assert "leaks" not in out
    assert "noise" not in out


def test_without_checks_nothing_of_them_is_said(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*LOCAL, "audit.examples=0") == 0
    assert "quality of" not in capsys.readouterr().out


def test_data_without_preferences_say_so(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    Path("texts.jsonl").write_text("".join(json.dumps({"prompt": f"Film {n}:", "completion": " It is."}) + "\n" for n in range(8)))
    typed = ("loss=sft", "dataset=local", "dataset.path=texts.jsonl", "dataset.validation_examples=2")
    assert command(*typed, "checks=all", "audit.examples=0") == 0
    assert "No completion is preferred to another one, so that there are no labels to check." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["checks=nois"], "there is no check 'nois'. Did you mean 'noise'?"),
        (["checks="], "there is no check ''"),
        (["audit.out=x.json"], "audit.out = x.json has no effect without checks"),
        (["checks=all", "audit.out=no/x.json"], "there is no folder"),
        (["checks=all", "audit.out=."], "is a folder"),
        (["checks=all", "audit.suspects=-1"], "audit.suspects = -1"),
        (["checks=all", "failure=."], "checks with failure"),
        (["checks=all", "dataset.streaming=true"], "checks with dataset.streaming = true"),
    ],
)
def test_mistakes_in_what_is_to_be_checked_are_told_before_data_are_read(
    command: Command, capsys: pytest.CaptureFixture[str], typed: list[str], message: str
) -> None:
    assert command(*LOCAL, *typed) == 2
    assert message in capsys.readouterr().err
    assert not Path("x.json").exists()
