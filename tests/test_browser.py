"""Every page in a real browser: no errors, nobody else asked, readable, usable, and light."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect, sync_playwright

from grader.lab import Lab, all_labs
from grader.sandbox import find_program

sys.path.insert(0, str(Path(__file__).parent))
from built import Built, build_once, pages, served

PAGES = pages()
LESSONS = [one for one in PAGES if one.startswith("labs/")]
MOST_BYTES = 300_000  # that a lesson's first load may transfer
Palette = Literal["light", "dark"]
SCHEMES: dict[Palette, str] = {"light": "default", "dark": "slate"}
WIDE: ViewportSize = {"width": 1280, "height": 800}
NARROW: ViewportSize = {"width": 375, "height": 800}
CONTRAST = "color-contrast"
RULES: dict[str, Any] = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
# Without these a browser asks its maker's servers at every start.
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
QUIET += ["--disable-component-update", "--no-first-run", "--disable-quic"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_once(tmp_path_factory)


@pytest.fixture(scope="module")
def address(built: Built) -> Iterator[str]:
    with served(built.folder) as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=find_program("chromium"), args=QUIET)
        yield found
        found.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(viewport=WIDE)
    yield made
    made.close()


class Watched:
    """A page that keeps what it complains about and whom it asks."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.outside: list[str] = []
        page.on("console", lambda one: self.complain(one.type, one.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda one: one.url.startswith(address) or self.outside.append(one.url))

    def complain(self, kind: str, text: str) -> None:
        """Keep errors and warnings of the console."""
        if kind in ("error", "warning"):
            self.complaints.append(text)


def scrolls_sideways(page: Page) -> bool:
    """Whether the page is wider than the window."""
    root = "document.scrollingElement"
    return bool(page.evaluate(f"{root}.scrollWidth > {root}.clientWidth"))


def check_access(page: Page, **rules: Any) -> None:
    """Fail when axe finds a violation of WCAG 2.2 AA, and say which."""
    found = Axe().run(page, options={**RULES, "resultTypes": ["violations"], **rules})
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("palette", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_page_is_sound(path: str, palette: Palette, address: str, browser: Browser) -> None:
    # A context for each palette: a page remembers the one that it began with.
    with closing(
        browser.new_context(viewport=WIDE, color_scheme=palette, reduced_motion="reduce")
    ) as context:
        page = context.new_page()
        watched = Watched(page, address)
        page.goto(address + path, wait_until="networkidle")
        assert page.locator("body").get_attribute("data-md-color-scheme") == SCHEMES[palette]
        for size in (WIDE, NARROW):
            page.set_viewport_size(size)
            assert not scrolls_sideways(page), size
            if palette == "light":
                check_access(page, rules={CONTRAST: {"enabled": size == WIDE}})
            elif size == WIDE:  # of all that axe looks at, only colours are different
                check_access(page, runOnly=[CONTRAST])
        assert watched.complaints == []
        assert watched.outside == []


@pytest.mark.parametrize("lab", all_labs(), ids=lambda lab: lab.number)
def test_search_finds_each_lab(lab: Lab, address: str, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(address, wait_until="networkidle")
    words = page.get_by_role("textbox", name="Search")
    words.click()
    words.press_sequentially(lab.title)
    result = page.locator(f".md-search-result__link[href*='labs/{lab.number}-']")
    expect(result.first).to_be_visible()


@pytest.mark.parametrize("path", LESSONS)
def test_copy_buttons_give_the_exact_text(path: str, address: str, context: BrowserContext) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(address + path, wait_until="networkidle")
    blocks = page.locator("pre:has(> code)")
    assert blocks.count() > 5
    for at in range(blocks.count()):
        block = blocks.nth(at)
        block.hover()
        block.locator("button[data-md-type=copy], .md-clipboard").click()
        shown = block.locator("code").evaluate(
            """code => {
                 const copy = code.cloneNode(true);
                 copy.querySelectorAll(".gp").forEach(prompt => prompt.remove());
                 return copy.textContent;
               }"""
        )
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied.rstrip() == shown.rstrip()
        assert not any(line.startswith(("$ ", "# ")) for line in copied.splitlines()) or (
            block.locator(".gp").count() == 0
        )


@pytest.mark.parametrize("path", LESSONS)
def test_a_lesson_is_light(path: str, address: str, context: BrowserContext) -> None:
    page = context.new_page()
    sizes: list[int] = []
    page.on("requestfinished", lambda one: sizes.append(sum_of(one.sizes())))
    page.goto(address + path, wait_until="networkidle")
    assert len(sizes) > 3
    assert sum(sizes) <= MOST_BYTES


def sum_of(sizes: dict[str, int]) -> int:
    """Bytes of a reply on the wire."""
    return sizes["responseHeadersSize"] + sizes["responseBodySize"]


def test_the_build_is_fast(built: Built) -> None:
    assert built.seconds < 15
