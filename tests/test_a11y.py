"""The book for everybody: its first figure is there at once, and paper shows what the screen does."""

import os

import pytest
from browsing import CONTRASTS, DESKTOP, PAGE, needs_browser

pytestmark = needs_browser

# ---------------------------------------------------------------------------------------------------------------------
# Speed


# Notes when the first figure is drawn, in milliseconds since the navigation began.
STOPWATCH = """new MutationObserver((_, self) => {
  const drawn = document.querySelector('.eu-figure[data-drawn="true"]');
  if (drawn) { window.firstFigure = performance.now(); self.disconnect(); }
}).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ['data-drawn'] });"""


def test_the_first_figure_is_drawn_within_two_seconds(pages, browser, serve):
    """On a machine with other work the clock also counts that work: there, the page's own share of it is asked."""
    where, took, own = serve(pages), [], []
    for _ in range(3):
        context = browser.new_context(viewport=DESKTOP)
        context.add_init_script(STOPWATCH)
        page = context.new_page()
        session = context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})  # the time that the page's thread was at work
        page.goto(f"{where}/{PAGE}", wait_until="commit")
        page.wait_for_function("window.firstFigure")
        own.append(
            1000 * {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}["TaskDuration"]
        )
        took.append(page.evaluate("window.firstFigure"))
        context.close()
        if took[-1] < 2000:
            return
    assert os.getloadavg()[0] > os.cpu_count(), took
    assert min(own) < 2000, (took, own)


# ---------------------------------------------------------------------------------------------------------------------
# Paper

SHOWN = "nodes => nodes.filter(n => n.getClientRects().length && getComputedStyle(n).visibility !== 'hidden').length"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_paper_there_are_figures_and_no_navigation(pages, visit, scheme):
    page = visit(pages, scheme=scheme).page
    page.emulate_media(media="print")
    page.wait_for_timeout(100)
    navigation = (
        ".bd-header, .bd-sidebar-primary, .bd-sidebar-secondary, .prev-next-area, .bd-header-article, .eu-controls"
    )
    assert page.locator(navigation).count() > 3
    assert page.locator(navigation).evaluate_all(SHOWN) == 0
    assert page.locator(".eu-plot svg.main-svg").count() > 0
    assert page.locator(".eu-plot").evaluate_all(SHOWN) == page.locator(".eu-plot").count()
    assert page.locator("main h1").evaluate_all(SHOWN) == 1  # the theme has one of its own for paper
    pale = [row for row in page.evaluate(CONTRASTS) if row[0] < 4.5]
    assert pale == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_on_paper_fold_outs_are_open(pages, visit):
    page = visit(pages).page
    page.emulate_media(media="print")
    folds = "details:not(.eu-case[hidden])"
    assert page.locator(folds).count() > 0
    empty = page.locator(folds).evaluate_all(
        """folds => folds.filter(f => f.getClientRects().length && ![...f.children]
             .filter(c => c.tagName !== 'SUMMARY').some(c => c.getBoundingClientRect().height > 0))
             .map(f => f.outerHTML.slice(0, 90))"""
    )
    assert empty == []
    page.emulate_media(media="screen")
    before = page.locator("details[open]").count()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")  # for browsers without that part of CSS
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == before


def test_on_paper_links_are_legible(pages, visit):
    page = visit(pages, "book/run/large.html", scheme="dark").page
    page.emulate_media(media="print")
    link = page.locator("article p a[href^='http']").first
    style = link.evaluate(
        "n => [getComputedStyle(n).textDecorationLine, getComputedStyle(n).color, "
        "getComputedStyle(n, '::after').content]"
    )
    assert style[:2] == ["underline", "rgb(11, 74, 143)"]
    assert link.get_attribute("href") in style[2]


def test_a_page_can_be_printed(sample_book, visit):
    assert visit(sample_book).page.pdf().startswith(b"%PDF-")
