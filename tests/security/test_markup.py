"""Texts of data, models, runs and configs are shown as text: on the page, in Markdown, in tables for spreadsheets, on a terminal."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import html5lib
import pandas as pd
import pytest
import yaml
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from rich.table import Table

from alignkit.analysis.answer import Answer, write_answer
from alignkit.audit_page import page_text
from alignkit.callbacks.samples import Continuation, Samples
from alignkit.command_line import precheck
from alignkit.errors import UserError
from alignkit.inspection import Ends, Inspection, LayoutCost, ShownExample, Spread
from alignkit.job import ending, show
from alignkit.lab.tiny import __file__ as tiny_file
from alignkit.markdown import code, escaped, fenced, plain
from alignkit.models.loading import load_tokenizer
from alignkit.models.model_card import CardFacts, model_card
from alignkit.models.texts import Texts
from alignkit.report import report
from alignkit.run_dir import RunDir
from alignkit.summary import final_table, print_table, sweep_table

PAYLOADS = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<svg><script href=data:,alert(1) />",
    "\"><script>alert(1)</script>",
    "' onmouseover='alert(1)",
    "\" onfocus=alert(1) autofocus=\"",
    "<iframe src=https://evil.example></iframe>",
    "<a href='javascript:alert(1)'>x</a>",
    "[x](javascript:alert(1))",
    "[x](https://evil.example)",
    "![x](https://evil.example/x.png)",
    "[x]: https://evil.example",
    "<https://evil.example>",
    "<link rel=stylesheet href=//evil.example>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<base href=//evil.example>",
    "<style>@import '//evil.example'</style>",
    "<!--", "-->", "]]>", "<![CDATA[",
    "</textarea></title></style><b>",
    "{{ 7*7 }}{% raw %}", "${7*7}", "{# x",
    "```\n# out\n<b>", "````", "`x` | y |\n| a | b |",
    "\n\n# heading\n\n<hr>",
    "[/INST] [bold red]x[/]",
    "\x1b]0;title\x07\x1b[2J\x1b[31m", "\r\x08\x9b31m",
    "\u202egpj.exe", "\u2028\u2029", "\ud800", "&lt;script&gt;&#60;b&#62;", "\\u003cscript\\u003e",
    "=HYPERLINK(\"//evil.example\")", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)",
)  # fmt: skip
ATTRIBUTES_OF_ADDRESSES = ("href", "src", "action", "formaction", "data", "poster", "xlink:href", "srcset", "background")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report on runs in which every text is one of the payloads."""
    folder = tmp_path_factory.mktemp("markup") / "sweep <b onclick=x>'\""
    for number, payload in enumerate(PAYLOADS):
        run = folder / f"{number}-<img src=x onerror=alert({number})>"
        run.mkdir(parents=True)
        clean = payload.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        config = {"loss": {"name": clean, "monitor": "val/loss", clean: clean}, "seed": number % 2, "note": clean, "steps": 2}
        (run / "config.yaml").write_text(json.dumps(config))
        (run / "metrics.jsonl").write_text(
            json.dumps({"step": 2, "epoch": 1.0, "time": 1.0, "val/loss": 0.5, f"val/{payload}": 1.0}) + "\n"
        )
        results = {
            "val/loss": 0.5,
            f"val/{payload}": 1.0,
            f"data/{payload}": 3,
            f"certificate/{payload}": 0.1,
            "steps": 2,
            payload: payload,
        }
        (run / "results.json").write_text(json.dumps(results))
        sample = {"step": 2, "prompt": payload, "policy": f"{payload} b", "reference": payload, payload: 1.0}
        (run / "samples.jsonl").write_text(json.dumps(sample) + "\n")
        pair = {"step": 2, "prompt": payload, "chosen": payload, "rejected": clean + "x", "chosen_tokens": 1, "rejected_tokens": 1}
        (run / "pairs.jsonl").write_text(json.dumps({**pair, "chosen_reward": 0.0, "rejected_reward": 1.0}) + "\n")
        if number % 7 == 0:
            (run / "results.json").unlink()
            (run / "failure.json").write_text(json.dumps({"exit_code": 1, "message": payload}))
    (folder / "answer").mkdir()
    (folder / "answer" / "findings.md").write_text("\n".join(["# <script>Which?</script>", "", *(f"- {text!r}" for text in PAYLOADS)]))
    (folder / "answer" / "table.csv").write_text("a,<b>\n" + "".join(f'"{text!r}",1\n'.replace("\"'", "\"'") for text in PAYLOADS[:3]))
    (folder / "answer" / "figure.svg").write_text(
        "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'><script>alert(1)</script></svg>"
    )
    file = folder.parent / "page.html"
    assert report([str(folder), "-o", str(file), "--title", "</title><script>alert(1)</script>"]) == 0
    return file.read_text(encoding="utf-8")


def elements(html: str) -> Iterator[Any]:
    yield from html5lib.parse(html, namespaceHTMLElements=False).iter()


@pytest.fixture(scope="module")
def parsed(page: str) -> list[Any]:
    """The elements of the page, without the four megabytes of plotly's script."""
    begin = page.index("<script>", page.index('id="data"'))
    end = page.index("</script>", begin)
    return list(elements(f"{page[:begin]}<script>{page[end:]}"))


def test_the_page_has_its_own_elements_and_no_other(parsed: list[Any]) -> None:
    scripts, policies = [], []
    for element in parsed:
        if not isinstance(element.tag, str):
            continue
        assert element.tag not in ("iframe", "object", "embed", "base", "link", "form", "svg", "math", "video", "audio", "frame"), (
            element.tag
        )
        for name, value in element.attrib.items():
            assert not str(name).lower().startswith("on"), (element.tag, name, value)
            if name in ATTRIBUTES_OF_ADDRESSES:
                assert str(value).startswith(("#", "data:image/")), (element.tag, name, value)
        if element.tag == "script":
            scripts.append(element)
        if element.tag == "img":
            assert element.attrib["src"].startswith("data:image/")
        if element.attrib.get("http-equiv", "").lower() == "content-security-policy":
            policies.append(element.attrib["content"])
        assert element.attrib.get("http-equiv", "").lower() in ("", "content-security-policy")
    assert [script for script in scripts if script.attrib.get("type") != "application/json"].__len__() == 2  # plotly's and the page's own
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policies[0].partition("style-src")[0]
    for script in scripts:
        if script.attrib.get("type") == "application/json":
            json.loads("".join(script.itertext()))


def test_payloads_are_there_as_text(parsed: list[Any]) -> None:
    texts = "".join("".join(element.itertext()) for element in parsed if element.tag in ("td", "th", "dd", "li", "h1", "title"))
    for payload in ("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))"):
        assert payload in texts


def test_nothing_on_the_page_acts_on_a_terminal(page: str) -> None:
    own = page[page.index("<script>") : page.rindex("</script>")]  # plotly's
    assert not {"\x1b", "\x9b", "\u202e", "\x08"} & set(page.replace(own, ""))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("model", str(Path(tiny_file).parent / "pretrained" / "tiny"))


def card(payload: str, tokenizer: Any) -> str:
    (settings,) = CARD_SETTINGS
    settings = dataclasses.replace(
        settings,
        model=dataclasses.replace(settings.model, name=payload, path=payload.replace("\0", "") or "x"),
        dataset=dataclasses.replace(settings.dataset, name=payload, options={**settings.dataset.options, "hub": payload}),
        loss=dataclasses.replace(settings.loss, name=payload, options={**settings.loss.options, payload: payload}),
    )
    results = {
        **{f"val/{payload}": 0.5, f"start/val/{payload}": 0.4, f"certificate/{payload}": 0.1, "formula": payload, "steps": 2},
        **{"policy_fingerprint": payload, f"data/{payload}": 3},
    }
    heads = {"dph": {**HEAD, "reads": payload, "gain": 1.0, "bias": 0.0}}
    facts = CardFacts(settings=settings, results=results, heads=heads, texts=Texts(kind="text", terminator_id=2), tokenizer=tokenizer)
    return str(model_card(facts))


CARD_SETTINGS = precheck([])
HEAD = {
    "name": "dph",
    "pooler": "identity",
    "dropout": 0.0,
    "init_std": 0.02,
    "layers": [-1],
    "tokens": "last",
    "standardize": 0,
    "normalize": 0,
    "hidden_width": 160,
    "reads": "the hidden state after the final norm at the completion's last token, which ends with the terminator",
    "terminator_id": 1,
    "terminator": "<|end|>",
}
"""As `heads.json` has it."""


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_a_model_card_is_text(payload: str, tokenizer: Any) -> None:
    payload = payload.encode("utf-8", "replace").decode()
    told = card(payload, tokenizer)
    _, front, body = told.split("---\n", 2)
    assert isinstance(yaml.safe_load(front), dict)
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    for element in elements(html):
        if not isinstance(element.tag, str):
            assert not str(element.text).strip(), "a comment"
            continue
        assert element.tag not in ("script", "img", "svg", "iframe", "style", "link", "meta", "base", "input", "b", "hr"), (
            element.tag,
            payload,
        )
        assert not [name for name in element.attrib if str(name).startswith("on")]
        if element.tag == "a":
            assert element.attrib["href"].startswith("https://huggingface.co/datasets/")
    assert html.count("<h1>") == 1
    assert "\x1b" not in told


def test_code_of_a_card_is_the_cards_own(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = {"dph": HEAD}
    monkeypatch.setattr(tokenizer, "convert_ids_to_tokens", lambda ids: "</s>\nimport os\nos.system('x')")
    facts = CardFacts(settings=CARD_SETTINGS[0], results={}, heads=heads, texts=Texts(kind="text", terminator_id=2), tokenizer=tokenizer)
    for block in re.findall(r"^```python\n(.*?)^```", str(model_card(facts)), flags=re.DOTALL | re.MULTILINE):
        import ast

        calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)}
        assert "os.system" not in calls
        assert "__import__" not in calls
        assert not [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Import) and node.names[0].name == "os"]


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_an_answer_is_text(payload: str, tmp_path: Path) -> None:
    payload = payload.encode("utf-8", "replace").decode()
    answer = Answer(table=pd.DataFrame({"arm": [payload], payload: [-1.5]}), findings=[payload], figure=Figure())
    write_answer(answer, tmp_path, "Which?")
    (heading, row) = list(csv.reader(io.StringIO((tmp_path / "answer" / "table.csv").read_bytes().decode(), newline="")))
    assert row[-1] == "-1.5"
    assert not [cell for cell in (*heading, row[0]) if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    for name in ("table.md", "findings.md"):
        html = MarkdownIt("commonmark", {"html": True}).enable("table").render((tmp_path / "answer" / name).read_text())
        tags = {element.tag for element in elements(html) if isinstance(element.tag, str)}
        assert tags <= {
            "html",
            "head",
            "body",
            "h1",
            "ul",
            "li",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "p",
            "em",
            "strong",
            "code",
        }, payload


def test_what_was_escaped_can_be_read_again() -> None:
    for payload in PAYLOADS:
        if payload.isprintable():
            assert plain(escaped(payload)) == payload
    assert escaped("0.6 [0.5, 0.7] at val/rewards_x") == "0.6 [0.5, 0.7] at val/rewards_x"
    assert code("a`b") == "``a`b``"
    assert fenced("```\nx").startswith("````\n")


def is_quiet(text: str) -> bool:
    """Whether a terminal would only show it."""
    return not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069]", text)


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_a_terminal_only_shows(payload: str, capsys: pytest.CaptureFixture[str]) -> None:
    payload = payload.encode("utf-8", "replace").decode()
    for error in (UserError(f"pairs.jsonl, line 3: {payload}"), RuntimeError(payload)):
        show(error, *ending(error), debug=False)
    print_table(final_table({f"val/{payload}": 0.5, payload: 1.0}))
    job = {"job": 0, "overrides": [f"{payload}={payload}"], "status": payload, "results": {}}
    print_table(sweep_table([job]))
    captured = capsys.readouterr()
    assert is_quiet(captured.out + captured.err)


def test_an_audit_only_shows() -> None:
    texts = [payload.encode("utf-8", "replace").decode() for payload in PAYLOADS]
    example = ShownExample(
        number=1, prompt=texts, completions={"chosen": texts, "rejected": texts}, terminated={"chosen": True, "rejected": False}
    )
    cost = LayoutCost(layout="packed", micro_batches=1, rows=1, tokens=1, positions=1)
    ends = {"completions": 1, "terminated": 1, "early": 0, "prompts": 1, "begun": 1, "begun_twice": 0}
    page = Inspection(
        model="\x1b[31mx",
        data="\x1b]0;t\x07",
        head="\x1b[1m",
        counts={"train": 1},
        lengths={"prompt": Spread(low=1, median=1, high=1, longest=1)},
        steps=1,
        layouts=(cost, cost),
        layout="packed",
        why_not_packed=None,
        ends=Ends(terminator="\x1b[31m", terminator_id=1, bos="\x1b", bos_id=0, **ends),
        train=1,
        examples=[example],
    )
    assert is_quiet(page_text(page, longest=0))


def test_a_table_of_wandb_holds_text(tmp_path: Path) -> None:
    """W&B shows strings of a table as text; what it would render is `wandb.Html`, which nothing here makes."""
    import alignkit

    sources = [file.read_text(encoding="utf-8") for file in Path(alignkit.__file__).parent.rglob("*.py")]
    assert not [source for source in sources if re.search(r"wandb\.(Html|Markdown|plot|Object3D)|IPython|display\(HTML", source)]
    assert Samples is not None
    assert Continuation is not None
    assert isinstance(final_table({}), Table)
    assert RunDir is not None


def test_frames_in_notebooks_are_escaped(tmp_path: Path) -> None:
    from alignkit.analysis.runs import load_runs

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text(json.dumps({"note": "<script>alert(1)</script>"}))
    shown = load_runs(tmp_path).config._repr_html_()
    assert "<script>alert" not in shown
    assert "&lt;script&gt;" in shown
