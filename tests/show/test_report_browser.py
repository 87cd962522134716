"""The page of the results in a browser: opened from the disk in headless Chromium, and clicked through."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report_runs import hostile_run, two_runs

from engram.show.report import html

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}

# every visible text whose contrast with what is behind it is below 4.5, or 3 where it is large (WCAG 2.2, 1.4.3)
LOW_CONTRAST = """() => {
  const parse = (c) => { const [r, g, b, a = 1] = c.match(/[\\d.]+/g).map(Number); return {r, g, b, a}; };
  const light = ({r, g, b}) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.a === 1) return c; }
    return {r: 255, g: 255, b: 255};
  };
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || /^(script|style|title|desc)$/i.test(e.tagName)) continue;
    if (!e.getClientRects().length) continue;
    const s = getComputedStyle(e), ink = parse(e instanceof SVGElement ? s.fill : s.color);
    const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05), size = parseFloat(s.fontSize);
    const enough = size >= 24 || (size >= 18.66 && Number(s.fontWeight) >= 700) ? 3 : 4.5;
    if (ratio < enough) found.add(`${e.tagName}.${e.className} ${ratio.toFixed(2)} ${walker.currentNode.data.trim()}`);
  }
  return [...found];
}"""


class Watched:
    """A page, and all that it should not do."""

    def __init__(self, page: Any, file: Path) -> None:
        self.page = page
        self.wrong: list[str] = []
        own = file.as_uri()
        page.on("console", lambda message: self.wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request", lambda request: request.url in (own, "data:,") or self.wrong.append(f"request: {request.url}")
        )
        page.goto(own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.page, name)

    def rows(self) -> int:
        count: int = self.page.locator("#rows > tr:visible").count()
        return count

    def time(self) -> str:
        text: str = self.page.locator("#time").inner_text()
        return text

    def screen(self) -> list[str]:
        return [line.rstrip() for line in self.page.locator("#screen .row").all_text_contents()]


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something to become true; the browser's own way needs `eval`, which the page forbids."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = os.environ.get("ENGRAM_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} on PATH, and ENGRAM_CHROMIUM is not set")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = two_runs(tmp_path_factory.mktemp("results"))
    html.make(folder, folder / "report.html", "mlx")
    return folder / "report.html"


@pytest.fixture
def opened(browser: Any, file: Path, request: pytest.FixtureRequest) -> Iterator[Watched]:
    """The page, by default on a desk; whatever it did wrong fails the test."""
    context = browser.new_context(**{"viewport": DESK, **getattr(request, "param", {})})
    watched = Watched(context.new_page(), file)
    yield watched
    context.close()
    assert watched.wrong == []


def test_it_opens_without_a_request_or_an_error(opened: Watched) -> None:
    assert opened.locator("h1").inner_text().startswith("Broke something: retention of text")
    assert opened.evaluate("performance.getEntriesByType('resource').length") == 0
    assert opened.locator("#filters").is_visible() and opened.locator("#controls").is_visible()


def test_answers_are_filtered_and_counted(opened: Watched) -> None:
    status = opened.locator("#shown")
    assert status.inner_text().startswith(
        "24 of 48 answers: 15 fixed; 0 broken; 3 unchanged, right; 6 unchanged, wrong."
    )
    opened.select_option("#f-state", "fixed")
    assert opened.rows() == 15
    opened.select_option("#f-run", "cpu")
    assert opened.rows() == 16 and "16 of 48" in status.inner_text()
    opened.select_option("#f-state", "")
    opened.select_option("#f-split", "generalization")
    assert opened.rows() == 4
    opened.select_option("#f-category", "k/c")
    opened.fill("#f-text", "SHORT: 21")
    assert opened.rows() == 1
    opened.fill("#f-text", "no such text")
    assert opened.rows() == 0 and status.inner_text().startswith("0 of 48")
    opened.get_by_role("button", name="Clear").click()
    until(lambda: opened.rows() == 24)
    assert status.get_attribute("aria-live") == "polite"


def test_the_player_plays_seeks_and_jumps(opened: Watched) -> None:
    assert opened.time() == "0:12 / 0:12" and opened.screen()[0] == "the end"
    opened.get_by_role("button", name="middle").click()
    assert opened.time() == "0:04 / 0:12" and opened.screen()[:2] == ["engram · mlx", "green & bold plain"]
    assert opened.get_by_role("button", name="middle").get_attribute("aria-current") == "true"
    opened.get_by_role("button", name="start <b>").click()
    assert opened.screen() == ["engram · mlx", "", "", ""]
    opened.select_option("#rate", "4")
    opened.get_by_role("button", name="Play").click()
    until(lambda: opened.screen()[1] == "green & bold plain")
    opened.get_by_role("button", name="Pause").click()
    stood = opened.time()
    opened.wait_for_timeout(150)
    assert opened.time() == stood
    opened.get_by_role("button", name="Play").click()
    until(lambda: opened.locator("#play").inner_text() == "Play")
    assert opened.screen()[0] == "the end"


def test_the_player_obeys_the_keyboard(opened: Watched) -> None:
    seek = opened.locator("#seek")
    seek.focus()
    for key, shown in (("Home", "0:00"), ("ArrowRight", "0:05"), ("ArrowRight", "0:10"), ("ArrowLeft", "0:05")):
        opened.keyboard.press(key)
        assert opened.time() == f"{shown} / 0:12"
    assert opened.screen()[1] == "green & bold plain"
    assert seek.get_attribute("aria-valuetext") == "0:05 of 0:12"
    opened.keyboard.press("Space")
    assert opened.locator("#play").inner_text() == "Pause"
    opened.keyboard.press("Space")
    assert opened.locator("#play").inner_text() == "Play"
    opened.locator("#play").focus()
    opened.keyboard.press("Space")
    assert opened.locator("#play").inner_text() == "Pause"


def test_the_skip_link_comes_first_and_every_control_is_reached_and_seen(opened: Watched) -> None:
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.textContent") == "Skip to the results"
    assert opened.locator(".skip").bounding_box()["y"] >= 0
    opened.keyboard.press("Enter")
    assert opened.evaluate("document.activeElement.id") == "main"
    reached = set()
    for _ in range(40):
        opened.keyboard.press("Tab")
        if opened.evaluate("document.activeElement === document.body"):
            break
        name, drawn = opened.evaluate(
            "[document.activeElement.id || document.activeElement.textContent,"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert drawn != "none", name
        reached.add(name)
    assert {"play", "seek", "rate", "middle", "f-run", "f-state", "f-split", "f-category", "f-text"} <= reached


def test_everything_that_can_be_used_has_a_name_and_a_role(opened: Watched) -> None:
    session = opened.context.new_cdp_session(opened.page)
    session.send("Accessibility.enable")
    nodes = [node for node in session.send("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    roles: dict[str, list[str]] = {}
    for node in nodes:
        roles.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    for role in ("button", "combobox", "searchbox", "slider", "link", "region", "image", "search", "table"):
        assert all(name.strip() for name in roles.get(role, [])), (role, roles[role])
    assert {"Player", "Chapters"} <= set(roles["group"])
    assert len(roles["slider"]) == 1 and len(roles["combobox"]) == 5 and roles["search"] == ["Filter the answers"]
    for landmark in ("main", "navigation", "banner", "contentinfo"):
        assert len(roles[landmark]) == 1, landmark
    levels = opened.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))


@pytest.mark.parametrize(
    "opened",
    [{"viewport": size, "color_scheme": scheme} for size in (DESK, PHONE) for scheme in ("light", "dark")],
    indirect=True,
    ids=["desk light", "desk dark", "phone light", "phone dark"],
)
def test_it_fits_and_can_be_read(opened: Watched) -> None:
    width = opened.viewport_size["width"]
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    opened.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    assert opened.evaluate(LOW_CONTRAST) == []


@pytest.mark.parametrize("opened", [{"java_script_enabled": False}], indirect=True)
def test_without_scripts_all_is_there(opened: Watched) -> None:
    assert opened.rows() == 48
    assert opened.screen()[0] == "the end"
    assert not opened.locator("#filters").is_visible() and not opened.locator("#controls").is_visible()
    assert opened.locator(".plot .curve").count() == 2


def test_nothing_hostile_runs(browser: Any, tmp_path: Path) -> None:
    folder = hostile_run(tmp_path)
    html.make(folder, folder / "report.html")
    context = browser.new_context(viewport=PHONE)
    watched = Watched(context.new_page(), folder / "report.html")
    watched.fill("#f-text", "<script>")
    watched.locator("#seek").focus()
    watched.keyboard.press("Home")
    assert watched.screen()[0] == "</script><img src=x onerror=alert(1)>"
    watched.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert watched.evaluate("window.hacked") is None
    assert watched.evaluate("document.images.length + document.querySelectorAll('[onload], [onerror]').length") == 0
    assert watched.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    context.close()
    assert watched.wrong == []


def test_the_policy_would_stop_what_escaping_let_through(browser: Any, file: Path, tmp_path: Path) -> None:
    """The second wall, tried alone: the same page with a script and a handler written into it."""
    attack = "<script>window.hacked = 1</script><img src='data:,' onerror='window.hacked = 1'>"
    broken = tmp_path / "report.html"
    broken.write_text(file.read_text("utf-8").replace("<h1>", f"{attack}<h1>"), "utf-8")
    context = browser.new_context()
    watched = Watched(context.new_page(), broken)
    watched.wait_for_timeout(100)
    assert watched.evaluate("window.hacked") is None and watched.locator("#filters").is_visible()
    assert sum("Content Security Policy" in line for line in watched.wrong) >= 2
    context.close()
