"""The built book in a real browser: offline, drawn, reachable by keyboard, legible, and as narrow as a phone.

A small book is built from the real configuration, style and page script with notebooks of made-up figures; if
the real book lies in `_build/html`, it is opened too.
"""

import functools
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import plotly.offline
import pytest
from browsing import CONTRASTS, DESKTOP, EXPLORERS, OTHER, PAGE, PHONE, PLAIN, ROOT, html_pages, needs_browser
from sample_records import ATTACK, METHODS, summary

pytestmark = needs_browser


# ---------------------------------------------------------------------------------------------------------------------
# Tests of every page


MEGABYTE = 1_000_000
# The pages where axe-core is asked everything at a desk, too: the bars beside a page are on all.
AT_A_DESK = ("book/index.html", "book/methods/rome.html", EXPLORERS)
# Right of the window and not inside something that scrolls by itself.
WIDER = """() => [...document.querySelectorAll('.eu, .eu *')].filter(n => !n.closest('.eu-scroll table, svg')
  && n.getBoundingClientRect().right > innerWidth + 1).map(n => n.outerHTML.slice(0, 120))"""
# Captions that one has to scroll to read.
CUT = """() => [...document.querySelectorAll('.eu-scroll caption')]
  .filter(c => c.getBoundingClientRect().width > c.closest('.eu-scroll').clientWidth + 1).map(c => c.textContent)"""


@functools.cache
def axe() -> str:
    """axe-core's script, from the installed package, which is not imported."""
    try:
        files = importlib.metadata.files("axe-core-python") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("axe-core-python is not installed")
    return Path(next(f for f in files if f.name == "axe.min.js").locate()).read_text(encoding="utf-8")


# Marks up to three visible texts of each look: of the same colour and size on the same grounds. axe-core measures
# contrast text by text, and on a long page it would measure the same thousands of times.
LOOKS = """() => {
  const grounds = new Map([[null, '']]), looks = new Map();
  const ground = node => {
    if (!grounds.has(node)) {
      const { backgroundColor: colour, backgroundImage: image, opacity } = getComputedStyle(node);
      const plain = colour === 'rgba(0, 0, 0, 0)' && image === 'none' && opacity === '1';
      grounds.set(node, ground(node.parentElement) + (plain ? '' : [colour, image, opacity] + ';'));
    }
    return grounds.get(node);
  };
  document.querySelectorAll('[data-look]').forEach(n => n.removeAttribute('data-look'));
  for (const n of document.querySelectorAll('body *')) {
    if (!n.getClientRects().length || ![...n.childNodes].some(c => c.nodeType === 3 && c.textContent.trim())) continue;
    const style = getComputedStyle(n);
    if (style.visibility !== 'visible') continue;
    const look = [style.color, style.fontSize, style.fontWeight, ground(n)].join();
    looks.set(look, (looks.get(look) || 0) + 1);
    if (looks.get(look) <= 3) n.dataset.look = '';
  }
}"""


def violations(page, only_width: bool = False) -> list[tuple]:
    """Serious and critical violations: rule, where, what to do; or only of what another width can change."""
    if page.evaluate("typeof axe") == "undefined":
        page.evaluate(axe())
    page.evaluate(LOOKS)
    found = page.evaluate(
        """async narrow => {
          const kept = { resultTypes: ['violations'] };
          const colour = { ...kept, runOnly: { type: 'rule', values: ['color-contrast'] } };
          const rest = narrow
            ? { ...kept, runOnly: { type: 'rule', values: ['link-in-text-block', 'scrollable-region-focusable'] } }
            : { ...kept, rules: { 'color-contrast': { enabled: false } } };
          const runs = [await axe.run({ include: ['[data-look]'] }, colour), await axe.run(document, rest)];
          return runs.flatMap(run => run.violations);
        }""",
        only_width,
    )
    return [
        (v["id"], node["target"], node["html"][:120], node.get("failureSummary", "")[:200])
        for v in found
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"]
    ]


@pytest.mark.parametrize("other", [0, pytest.param(1, marks=pytest.mark.slow)])  # each page in its other theme, too
@pytest.mark.parametrize("part", range(4))  # of the pages, so that the workers share them
def test_every_page_from_disk_on_a_phone(pages, visit, part, other):
    """Nothing leaves the machine or goes wrong, nothing is too wide, axe-core finds no serious fault, and a page loads
    a megabyte besides what all share. Light and dark in turn: of what a page is made, its neighbours are made, too."""
    loaded = {}
    for number, name in enumerate(html_pages(pages)[part::4]):
        scheme = ("light", "dark")[(number + other) % 2]
        seen = visit(pages, name, size=PHONE, scheme=scheme)
        page, where = seen.page, f"{name}, {scheme}"
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        assert seen.away == [] and seen.errors == [], where
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), where
        assert page.evaluate(WIDER) == [] and page.evaluate(CUT) == [], where
        if name == "index.html":  # leads on to another at once
            seen.context.close()
            continue
        assert violations(page) == [], where
        if other or name in AT_A_DESK or page.locator(".eu-figure").count():
            page.set_viewport_size(DESKTOP)
            page.wait_for_timeout(300)  # figures are drawn anew
            assert violations(page, only_width=not other and name not in AT_A_DESK) == [], f"{where}, at a desk"
            assert seen.away == [] and seen.errors == [], f"{where}, at a desk"
        seen.context.close()
        files = {path.removeprefix(str(pages)): Path(path) for path in seen.asked if path.startswith(str(pages))}
        loaded[name] = {short: path.stat().st_size for short, path in files.items() if path.is_file()}
    own = {name: sizes for name, sizes in loaded.items() if name.startswith("book/")}
    shared = set.intersection(*map(set, own.values()))
    assert "/_static/book.js" in shared and not any(path.endswith(".html") for path in shared)
    weights = {
        name: sum(size for path, size in sizes.items() if path not in shared and "/_static/vendor/" not in path)
        for name, sizes in own.items()
    }  # vendor: the scripts for figures and formulas, which all pages that have some share
    assert min(weights.values()) > 5000  # the page itself at least
    assert {name: size for name, size in weights.items() if size > MEGABYTE} == {}


def test_a_fault_is_found(sample_book, visit):
    page = visit(sample_book, "book/index.html").page
    page.evaluate(
        "document.querySelector('article').insertAdjacentHTML('beforeend', "
        '\'<img src="x.png"><p style="color:#ccc;background:#fff">pale</p>\')'
    )
    assert {"image-alt", "color-contrast"} <= {rule for rule, *_ in violations(page)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", [PAGE, PLAIN, EXPLORERS])
def test_figures_are_drawn_and_legible(pages, visit, name, scheme):
    seen = visit(pages, name, scheme=scheme).page
    found = seen.evaluate(CONTRASTS)
    assert any(svg for _, _, svg in found) and len(found) > 30
    assert [row for row in found if row[0] < 4.5] == []
    sizes = seen.evaluate(
        """() => [...document.querySelectorAll('.eu-plot')].map(p => {
             const box = p.querySelector('svg.main-svg').getBoundingClientRect();
             return [box.width, box.height, p.querySelectorAll('.trace, .hm').length]; })"""
    )
    assert sizes
    assert all(width > 300 and height > 200 and traces for width, height, traces in sizes)
    assert seen.locator(".updatemenu-container, .slider-container").count() == 0  # native ones took their place


# ---------------------------------------------------------------------------------------------------------------------
# Tests of the sample book alone: what its figures are is known


def drawn(page, figure: int) -> str:
    """The marks of a figure as drawn."""
    paths = "[...document.querySelectorAll('.eu-plot')][%d].querySelectorAll('.trace path')" % figure  # noqa: UP031
    return page.evaluate(f"[...{paths}].map(p => p.getAttribute('d') + p.getAttribute('transform')).join()")


@pytest.mark.parametrize("figure", [0, 1])
def test_a_selector_changes_its_figure_by_keyboard(sample_book, visit, figure):
    page = visit(sample_book).page
    select = page.locator(".eu-figure").nth(figure).get_by_label("Data set")
    before = drawn(page, figure)
    select.focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_timeout(200)
    assert select.input_value() == "1"
    assert drawn(page, figure) != before
    page.keyboard.press("ArrowUp")
    page.wait_for_timeout(200)
    assert drawn(page, figure) == before


def test_a_slider_changes_its_figure_by_keyboard(sample_book, visit):
    page = visit(sample_book).page
    slider = page.get_by_label("Forget set")
    before = page.evaluate("document.querySelectorAll('.eu-plot')[2].data[0].y.join()")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(200)
    assert slider.get_attribute("aria-valuetext") == "20"
    assert page.evaluate("document.querySelectorAll('.eu-plot')[2].data[0].y.join()") == "20,40" != before


def test_controls_are_reached_by_tab(sample_book, visit):
    page = visit(sample_book).page
    page.locator(".eu-figure").nth(0).get_by_label("Data set").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.eu-keys') !== null")
    page.keyboard.press("Space")
    page.wait_for_timeout(200)
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "false"
    assert page.evaluate("document.querySelector('.eu-plot').data[0].visible") == "legendonly"


def test_a_legend_key_shows_its_methods_mark(sample_book, visit):
    keys = visit(sample_book).page.locator(".eu-figure").nth(1).locator(".eu-keys button")
    marks = keys.evaluate_all("bs => bs.map(b => b.querySelector('.legendpoints').outerHTML)")
    assert len(marks) == len(set(marks)) == summary().method.nunique()


def test_a_key_of_a_trace_without_points_has_its_own_mark(sample_book, visit):
    keys = visit(sample_book).page.locator(".eu-figure").last.locator(".eu-keys button")
    assert keys.all_inner_texts() == ["later", "now"]
    shapes = keys.evaluate_all("bs => bs.map(b => b.querySelector('.legendpoints path').getAttribute('d'))")
    assert shapes[0] != shapes[1]


def test_an_image_of_a_figure_has_its_title_and_its_keys(sample_book, visit):
    """They are text on the page; the image stands alone."""
    page = visit(sample_book).page
    page.evaluate(
        "() => { const save = Plotly.downloadImage; Plotly.downloadImage = "
        "(f, o) => { window.saved = f.layout; return save(f, o); }; }"
    )
    button = page.locator(".eu-figure").nth(0).locator(".modebar-btn")
    with page.expect_download() as download:
        button.focus()
        page.keyboard.press("Enter")
    title, saved = page.locator(".eu-title").first.inner_text(), page.evaluate("window.saved")
    assert download.value.suggested_filename == f"{title}.png"
    assert saved["title"]["text"] == title and "0123abc" in saved["title"]["subtitle"]["text"] and saved["showlegend"]
    assert page.evaluate("document.querySelector('.eu-plot').layout.showlegend") is False  # the page is as it was
    header = Path(download.value.path()).read_bytes()[:24]
    assert int.from_bytes(header[16:20], "big") == 2 * saved["width"] > 1000


def test_dark_and_light_change_without_reload(sample_book, visit):
    page = visit(sample_book).page
    fill = "getComputedStyle(document.querySelector('.eu-plot .angularaxistick text, .eu-plot text')).fill"
    light = page.evaluate(fill)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_timeout(300)
    assert page.evaluate(fill) != light
    assert [row for row in page.evaluate(CONTRASTS) if row[0] < 4.5] == []


def test_a_figure_follows_the_width_of_the_page(sample_book, visit):
    page = visit(sample_book).page
    page.set_viewport_size(PHONE)
    page.wait_for_timeout(400)
    width = page.evaluate("document.querySelector('.eu-plot svg.main-svg').getBoundingClientRect().width")
    assert 250 < width <= 390


def shown_case(page) -> str:
    return page.locator("#side-by-side .eu-case:visible").inner_text()


def test_side_by_side_by_keyboard_with_its_state_in_the_address(sample_book, visit):
    first = visit(sample_book, EXPLORERS)
    page = first.page
    assert page.locator("#side-by-side .eu-case:visible").count() == 1
    before = shown_case(page)
    page.locator("#side-by-side").get_by_label("Question").focus()
    page.keyboard.press("ArrowDown")
    assert shown_case(page) != before
    assert "factual/forget/factual-1/0" in unquote(page.evaluate("location.hash"))
    page.keyboard.press("Tab")
    page.keyboard.type("MEM")
    assert page.locator("#side-by-side li:visible").count() == 2 and "method=memit" in page.evaluate("location.hash")
    page.keyboard.press("Home")  # all methods again
    page.keyboard.press("Tab")
    page.keyboard.press("r")  # jumps to "refusal"
    assert page.locator("#side-by-side").get_by_label("Outcome").input_value() == "refusal"
    words = page.locator("#side-by-side li:visible:not([data-method=base]) .eu-outcome").all_inner_texts()
    assert set(words) == {"refusal"}
    assert page.locator("#side-by-side li[data-method=base]:visible").count() == 1
    state = page.evaluate("location.hash")
    assert "outcome=refusal" in state

    page.keyboard.press("Tab")
    page.keyboard.type("ADA PLACEHOLDER")  # in the answer of one question of each set
    case = shown_case(page)
    assert "Ada Placeholder" in case or "ada placeholder" in case
    assert page.locator("#side-by-side option:enabled", has_text="Fixture").count() == 0
    state = page.evaluate("location.hash")
    assert "find=ADA+PLACEHOLDER" in state

    again = visit(sample_book, EXPLORERS + state).page
    assert shown_case(again) == case
    again.locator("#side-by-side").get_by_label("Find").fill("nobody says this")
    assert "No question fits" in again.locator("#side-by-side .eu-count").inner_text()


def test_one_choice_moves_radar_dots_table_and_outputs(sample_book, visit):
    page = visit(sample_book, EXPLORERS).page
    view = page.locator("#explorer")
    method, data = (
        view.locator(":scope > .eu-controls select").nth(1),
        view.locator(":scope > .eu-controls select").nth(0),
    )
    view.locator(".eu-figure[data-drawn]").nth(1).wait_for()
    radar = "document.querySelectorAll('#explorer .eu-figure')[0].querySelector('.eu-plot')"
    dots = "document.querySelectorAll('#explorer .eu-figure')[1].querySelector('.eu-plot')"
    method.focus()
    page.keyboard.type("MEMIT")
    page.wait_for_function(f"{radar}.data.filter(t => t.opacity === 1).map(t => t.meta).join() === 'memit,paper memit'")
    page.wait_for_function(f"{dots}.layout.shapes.length === 1")
    assert view.locator("tr[data-chosen]:visible th").inner_text() == "MEMIT"
    assert view.locator(".eu-sbs li:visible").count() == 2  # the base model and the chosen one
    assert page.evaluate("location.hash") == "#explorer?data=factual&method=memit"
    before = page.evaluate(f"{radar}.data[2].r.join()")
    data.focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function(f"{radar}.data[2].r.join() !== '{before}'")
    assert view.locator("tbody:visible").count() == 1
    tick = view.locator("input[type=checkbox]")
    tick.focus()
    page.keyboard.press("Space")
    page.wait_for_function(f"{radar}.data.some(t => t.meta === 'paper ga' && t.visible === true)")
    view.locator("tr[data-method=wise]:visible").click()
    assert method.evaluate("e => e.value") == "wise"


def test_a_link_to_an_explorer_restores_its_state(sample_book, visit, serve):
    address = serve(sample_book)
    page = visit(address, f"{EXPLORERS}#explorer?data=contracts&method=gd").page
    page.wait_for_function("document.querySelector('#explorer tr[data-chosen] th')?.textContent === 'GD'")
    page = visit(address, f"{EXPLORERS}#stops?method=memit&at=5").page
    assert page.locator("#stops .eu-stop:visible .eu-question").inner_text() == "MEMIT, m = 5"


def test_the_slider_moves_numbers_cost_and_outputs_by_keyboard(sample_book, visit):
    page = visit(sample_book, EXPLORERS).page
    view = page.locator("#stops")
    view.locator("select").select_option("memit")
    slider = view.locator("input[type=range]")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "m 2"
    shown = view.locator(".eu-stop:visible")
    assert shown.count() == 1 and shown.locator(".eu-cost").inner_text() == "seven edits"
    assert shown.locator(".eu-bar").count() == 4 and shown.locator("li").count() > 0
    assert page.evaluate("location.hash") == "#stops?method=memit&at=2"
    page.keyboard.press("End")
    assert view.locator(".eu-stop:visible .eu-question").inner_text() == "MEMIT, m = 5"


def test_without_a_script_the_answers_are_still_there(sample_book, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{sample_book.as_uri()}/{EXPLORERS}")
    assert page.locator("#side-by-side details").count() == 12
    assert page.locator("#stops details").count() == 3 * len(METHODS)
    assert "Radar chart" in page.locator(".eu-plot").first.inner_text()
    context.close()


def test_a_planted_script_stays_text(sample_book, visit):
    seen = visit(sample_book, EXPLORERS)
    assert seen.page.evaluate("window.planted") is None
    assert seen.page.locator(".eu-output script, .eu-output img").count() == 0
    assert ATTACK in seen.page.locator("#side-by-side li[data-method=wise]:visible .eu-output").inner_text()


def test_a_page_loads_no_more_of_plotly_than_its_figures_need(sample_book, visit):
    """Nothing, the small part, or the whole."""
    assert visit(sample_book, "book/how_to_read.html").page.evaluate("typeof Plotly") == "undefined"
    for page, script in ((PAGE, "plotly-small.min.js"), (OTHER, "plotly.min.js")):
        seen = visit(sample_book, page)
        assert [Path(path).name for path in seen.asked if "plotly" in path] == [script]
        assert seen.page.locator(".eu-plot .trace").count() > 0


def test_the_small_plotly_is_of_the_pinned_version_and_has_the_traces_that_are_asked_of_it(sample_book, visit):
    page = visit(sample_book).page
    assert page.evaluate("Plotly.version") == plotly.offline.get_plotlyjs_version(), "run book/plotly/make.sh"
    (asked,) = re.findall(
        r"SMALL = new Set\((.*?)\)", (ROOT / "book" / "_static" / "book.js").read_text(encoding="utf-8")
    )
    assert sorted(page.evaluate("Object.keys(Plotly.PlotSchema.get().traces)")) == sorted(json.loads(asked))


def test_a_page_loads_only_what_it_needs(pages):
    """No formula, no MathJax; no figure, no figures' script; icons without a script; the index where one searches."""
    for name in html_pages(pages):
        page = (pages / name).read_text(encoding="utf-8")
        loads = set(re.findall(r'<script[^>]* src="(?:[^"]*/)?([\w.-]+)\.js', page))
        assert ("tex-svg" in loads) == ('class="math' in page), name
        assert ("explore" in loads) <= ("data-explore" in page), name
        assert ("searchindex" in loads) == (name == "search.html") and "fontawesome" not in loads, name


def test_the_front_page_weighs_less_than_a_megabyte(pages, visit):
    there = pages / "book/index.html" if (pages / "book/index.html").exists() else pages / PLAIN
    seen = visit(pages, str(there.relative_to(pages)))
    loaded = {Path(path) for path in seen.asked if Path(path).is_file()}
    weight = sum(path.stat().st_size for path in loaded)
    assert len(loaded) > 10 and weight <= MEGABYTE, weight


def test_icons_are_drawn(sample_book, visit):
    """A font that lacks a sign draws a box or nothing: every icon that is seen must look unlike that."""
    page = visit(sample_book, PLAIN).page
    page.evaluate("document.fonts.ready")
    looks = page.evaluate("""() => {
      const draw = (sign, font) => { const c = document.createElement('canvas').getContext('2d');
        c.canvas.width = c.canvas.height = 40; c.font = font; c.fillText(sign, 5, 30); return c.canvas.toDataURL(); };
      return [...document.querySelectorAll('[class*=fa-]')].filter(n => n.checkVisibility()).map(n => {
        const s = getComputedStyle(n, '::before'), font = `${s.fontWeight} 24px ${s.fontFamily}`;
        return [n.className, draw(s.content.replaceAll('"', ''), font), draw('\uf000', font)]; }); }""")
    assert len(looks) >= 5 and len({drawn for _, drawn, _ in looks}) >= 4
    assert [name for name, drawn, absent in looks if drawn == absent] == []


def test_formulas_are_set(sample_book, visit):
    page = visit(sample_book).page
    page.wait_for_selector("mjx-container svg")
    assert page.locator("mjx-container svg").count() == 2


def test_parameters_are_folded_away_and_traces_of_tools_removed(sample_book, visit):
    page = visit(sample_book).page
    assert page.locator("div.cell.tag_hide-input").count() == 2
    notebook = json.loads((sample_book.parents[1] / "book" / "executed" / "rq1_methods.ipynb").read_text())
    assert "papermill" not in json.dumps([notebook["metadata"], [c["metadata"] for c in notebook["cells"]]])


def test_launch_links_name_the_source_notebook(sample_book):
    html = (sample_book / PAGE).read_text()
    assert "/blob/main/notebooks/rq1_methods.ipynb" in html
    assert "/blob/main/book/executed" not in html


def test_a_method_without_a_page_has_one_behind_the_others(sample_book, visit):
    """The method comes from outside of the library: see `plug_in`."""
    index = visit(sample_book, "book/methods/index.html").page
    entries = index.locator(".bd-sidebar-primary a").evaluate_all("links => links.map(a => a.getAttribute('href'))")
    place = entries.index("../executed/methods/ihl.html")
    assert "../executed/covariance.html" in entries[:place] and entries[place + 1] == "../executed/rq1_methods.html"
    index.locator(".eu-facts a", has_text="IHL").click()
    page = index.locator("article")
    assert "There are no committed results yet." in page.inner_text()
    assert "1 + p_θ(a_t | x, a_<t)" in page.locator(".eu-head").inner_text()  # the head of its file
    assert "def ihl(job: Job) -> Outcome:" in page.locator(".highlight-python").inner_text()  # and all of it
    assert page.locator(".eu-facts caption").all_inner_texts()[0] == "Presets of IHL"


def test_the_map_leads_from_room_to_room(sample_book, visit):
    page = visit(sample_book, "book/reference/map.html").page
    assert page.locator("#room-methods").get_by_text("imports", exact=False).count() > 0
    page.locator("#room-methods a", has_text="patch").click()
    assert page.evaluate("location.hash") == "#room-patch" and page.locator("#room-patch:target").count() == 1


def test_a_missing_page_is_named(tmp_path):
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/index\nchapters: [{file: book/nowhere}]\n")
    script = ROOT / "book" / "build.py"
    run = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 1 and "book/nowhere" in run.stderr
