"""The page in a real browser: what people see of it, and what it does not do."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

from alignkit.report import report

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]

EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
BREAKOUT = "</script><script>window.hacked = 1</script>\u2028<!--"
METRIC = "val/rewards/accuracies"
TRACES = "#plot .scatterlayer .trace path.js-line"
BETAS = (0.05, 0.1, 0.5)

CONTRASTS = (Path(__file__).parent / "contrasts.js").read_text(encoding="utf-8")


def pair(number: int, margin: float) -> dict[str, object]:
    texts = {"prompt": f"{number} {BREAKOUT}", "chosen": f"good {EVIL}", "rejected": f"bad {number} {EVIL}"}
    tokens = {"chosen_tokens": 3, "rejected_tokens": 4}
    return {"step": 40, **texts, **tokens, "rewards/chosen": margin, "rewards/rejected": 0.0}


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory, run_maker: Any) -> Path:
    """A sweep of 12 runs and one that has not ended, with names, values and texts that would like to be code."""
    folder = tmp_path_factory.mktemp("report")
    for name in ("dpo", "ipo"):
        for beta in BETAS[:2] if name == "ipo" else BETAS:
            for seed in range(3 if beta != 0.5 else 1):
                config = {"loss": {"name": name, "beta": beta}, "seed": seed, "model": {"name": EVIL if name == "dpo" else "tiny"}}
                level = 0.6 + beta / 5 + seed / 100
                history = [
                    {"step": step, "train/loss": math.exp(-step / 10) + seed / 10, METRIC: level - 0.1 / (step + 1)}
                    for step in range(1, 41)
                ]
                results = {
                    METRIC: level,
                    "val/objective/kl": 1 / beta + seed,
                    "val/objective/gold": level,
                    "data/train": 100,
                    "seconds": 1.0,
                }
                samples = [
                    {"step": step, "prompt": BREAKOUT, "policy": f"a great film {EVIL}", "reference": f"a dull film {BREAKOUT}"}
                    for step in (0, 40)
                ]
                pairs = [pair(number, 0.5 - number % 2) for number in range(30)]
                run_maker(
                    folder / f"<b>{name}-{beta}-{seed}", config=config, results=results, history=history, samples=samples, pairs=pairs
                )
    run_maker(folder / "running <i>", config={"loss": {"name": "ipo", "beta": 0.1}, "seed": 7}, history=[{"step": 3, "train/loss": 0.5}])
    report([str(folder), "-o", str(folder / "report.html"), "--title", f"Title {EVIL}"])
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page, and all that it complained of or asked for."""

    def __init__(self, browser: Browser, file: Path, *, width: int, scheme: Any) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.route("**/*", self._only(file.as_uri()))
        self.page.goto(file.as_uri())
        expect(self.page.locator("#map .heatmaplayer .hm")).to_have_count(1, timeout=20_000)
        expect(self.page.locator("#texts article").first).to_be_visible()

    def _only(self, address: str) -> Any:
        def decide(route: Route) -> None:
            if route.request.url == address:
                route.continue_()
            else:
                self.requests.append(route.request.url)
                route.abort()

        return decide


@pytest.fixture(scope="module")
def wide(browser: Browser, page_file: Path) -> Iterator[Watched]:
    watched = Watched(browser, page_file, width=1600, scheme="light")
    yield watched
    watched.page.close()


@pytest.fixture(scope="module")
def narrow(browser: Browser, page_file: Path) -> Iterator[Watched]:
    watched = Watched(browser, page_file, width=400, scheme="dark")
    yield watched
    watched.page.close()


@pytest.fixture(params=["wide", "narrow"])
def either(request: pytest.FixtureRequest) -> Watched:
    watched: Watched = request.getfixturevalue(request.param)
    return watched


def lines_after(watched: Watched, change: Any, count: int) -> Locator:
    """Do something, and wait until so many lines are drawn."""
    change()
    lines = watched.page.locator(TRACES)
    expect(lines).to_have_count(count)
    return lines


def test_nothing_from_data_is_code(either: Watched) -> None:
    page = either.page
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.querySelectorAll('main img, main b, main i').length") == 0
    assert page.title() == f"Title {EVIL}"
    expect(page.locator("#asked")).to_have_text(BREAKOUT.replace("\u2028", " "), use_inner_text=False)
    assert EVIL in page.locator("#texts").inner_text()
    assert page.locator("#runs tbody th").first.inner_text() == "<b>dpo-0.1-0"


def test_no_page_scrolls_sideways(either: Watched) -> None:
    page, own = either.page, either.page.viewport_size
    assert own is not None
    for width in (own["width"], 320):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size(own)


def test_texts_and_lines_stand_out_in_both_schemes(either: Watched) -> None:
    page = either.page
    for theme in ("light", "dark"):
        page.locator(f"#theme input[value={theme}]").check(force=True)
        for key in ("run", "seed"):
            page.locator("#colour").select_option(label=key)
            page.wait_for_timeout(150)
            assert min(measured(page, "ofLines")) >= 3.0
        worst, text = measured(page, "ofTexts")[0]
        assert worst >= 4.5, f"{theme}: {text!r}"
    page.locator("#theme input[value='']").check(force=True)


def test_numbers_on_the_heat_map_stand_out_from_their_cells(wide: Watched) -> None:
    for theme in ("light", "dark"):
        wide.page.locator(f"#theme input[value={theme}]").check(force=True)
        wide.page.wait_for_timeout(150)
        ratios = measured(wide.page, "ofCells")
        assert len(ratios) == 5
        assert min(ratios) >= 4.5
    wide.page.locator("#theme input[value='']").check(force=True)


def measured(page: Page, what: str) -> list[Any]:
    """What a function of `contrasts.js` finds."""
    found: list[Any] = page.evaluate(f"() => {{ {CONTRASTS} return {what}(); }}")
    return found


def test_a_run_is_switched_off_and_on(wide: Watched) -> None:
    page = wide.page
    lines_after(wide, lambda: page.locator("#metric").select_option(METRIC), 13)
    box = page.locator("#boxes input").first
    lines_after(wide, box.uncheck, 12)
    expect(page.locator("#count")).to_have_text("12 of 13 drawn")
    lines_after(wide, lambda: page.get_by_role("button", name="None").click(), 0)
    lines_after(wide, lambda: page.get_by_role("button", name="All").click(), 13)
    expect(box).to_be_checked()


def test_a_value_of_a_config_is_switched_off(wide: Watched) -> None:
    page = wide.page
    lines_after(wide, lambda: page.locator("#metric").select_option(METRIC), 13)
    box = page.locator("#facets").get_by_label("0.05", exact=True)
    lines_after(wide, box.uncheck, 7)
    lines_after(wide, box.check, 13)


def test_means_over_seeds_are_one_line_a_setting(wide: Watched) -> None:
    page = wide.page
    lines_after(wide, lambda: page.locator("#metric").select_option(METRIC), 13)
    # five settings, of which four have several seeds and so a band
    lines_after(wide, lambda: page.locator("#draw").select_option("means"), 9)
    drawn = page.evaluate(
        "document.getElementById('plot').data.filter((trace) => trace.name?.includes('dpo') && trace.name.includes('0.05'))[0].y"
    )
    assert drawn[0] == pytest.approx(0.6 + 0.05 / 5 + 0.01 - 0.05, abs=1e-6)  # seed 1 lies in the middle of three; step 1 takes 0.1 / 2
    assert len(drawn) == 40
    lines_after(wide, lambda: page.locator("#draw").select_option("runs"), 13)


def test_another_metric_is_drawn_with_its_unit_and_the_run_that_has_not_ended(wide: Watched) -> None:
    page = wide.page
    lines_after(wide, lambda: page.locator("#metric").select_option("train/loss"), 13)
    expect(page.locator("#plot .ytitle")).to_have_text("train/loss (nats)")
    expect(page.locator("#drawn")).to_have_text("")
    lines_after(wide, lambda: page.locator("#metric").select_option(METRIC), 13)
    expect(page.locator("#plot .ytitle")).to_have_text(f"{METRIC} (fraction)")
    expect(page.locator("#drawn")).to_contain_text("1 run of 14 does not log this metric")


def test_hovering_tells_run_step_and_value(wide: Watched) -> None:
    page = wide.page
    lines_after(wide, lambda: page.locator("#metric").select_option(METRIC), 13)
    page.evaluate("document.getElementById('plot').scrollIntoView({ block: 'center' })")
    line = page.locator(TRACES).first.bounding_box()
    assert line is not None
    page.mouse.move(line["x"] + line["width"] - 2, line["y"] + 2)
    label = page.locator("#plot .hoverlayer .hovertext")
    expect(label).to_have_count(1)
    told = label.text_content() or ""
    assert "<b>" in told  # of the run's name, as it is
    assert "step" in told


def test_headings_sort_a_table(wide: Watched) -> None:
    column = wide.page.locator("#results tbody tr td:nth-child(4)")
    wide.page.locator("#results thead button").nth(3).click()
    low = [float(value) for value in column.evaluate_all("cells => cells.map((cell) => cell.dataset.order)")]
    wide.page.locator("#results thead button").nth(3).click()
    high = [float(value) for value in column.evaluate_all("cells => cells.map((cell) => cell.dataset.order)")]
    assert low == sorted(low) == high[::-1]
    assert low[0] < low[-1]


def test_words_that_differ_are_marked(wide: Watched) -> None:
    page = wide.page
    card = page.locator("#texts article:not(.reference)").first
    assert card.locator("ins").first.inner_text() == "great"
    assert card.locator("del").first.inner_text() == "dull"
    page.locator("#marks").uncheck()
    expect(page.locator("#texts ins, #texts del")).to_have_count(0)
    page.locator("#marks").check()


def test_pairs_that_rewards_contradict_are_told_with_their_texts(wide: Watched) -> None:
    section = wide.page.locator("#data-counts")
    expect(section).to_contain_text("15 of 30 pairs, by most of the 13 runs")
    rows = section.locator("table.disputes tbody tr")
    expect(rows).to_have_count(12)
    assert EVIL in rows.first.inner_text()


def test_what_has_no_results_says_so(wide: Watched) -> None:
    row = wide.page.locator("#runs tbody tr", has_text="running <i>")
    expect(row).to_contain_text("unfinished")
    expect(row).to_contain_text("3 of 40")


def test_the_keyboard_reaches_the_filters(wide: Watched) -> None:
    page = wide.page
    box = page.locator("#facets input").first
    box.focus()
    before = page.locator(TRACES).count()
    page.keyboard.press("Space")
    expect(page.locator(TRACES)).not_to_have_count(before)
    page.keyboard.press("Space")
    expect(page.locator(TRACES)).to_have_count(before)
    assert page.evaluate("[...document.querySelectorAll('.scroll')].every((box) => box.tabIndex === 0)")


def test_nothing_was_asked_for_and_nothing_complained(either: Watched) -> None:
    """Last, after all that the tests above did."""
    assert either.requests == []
    assert either.complaints == []
