"""What the tests of pages share: a sample book, built once a session, and one browser.

Two browsers of Playwright cannot be open in one process, so every test that needs one takes the fixture `browser`.
"""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pandas as pd
import plotly.graph_objects as go
import pytest
from filelock import FileLock
from sample_records import paper, records, summary

from editunlearn_lib import show

# No name but this machine's resolves in it.
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
ROOT = Path(__file__).resolve().parent.parent
PAGE = "book/executed/rq1_methods.html"
PLAIN = "book/executed/rq2_robustness.html"  # in the sample book: figures that stand alone
EXPLORERS = "book/executed/rq3_improving.html"  # in the sample book: what has a state in the address
OTHER = "book/executed/covariance.html"  # in the sample book: a trace that the book itself does not use
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

# Text of figures against what lies behind it; WCAG's formula. Transparent backgrounds show what is further out.
CONTRASTS = """() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const c = parse(getComputedStyle(node).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const leaves = [...document.querySelectorAll('.eu *')].filter(n => n.getClientRects().length
    && !n.closest('.modebar, script') && [...n.childNodes].some(c => c.nodeType === 3 && c.textContent.trim()));
  return leaves.map(n => {
    const style = getComputedStyle(n), svg = n.namespaceURI.endsWith('svg');
    const [a, b] = [luminance(parse(svg ? style.fill : style.color)), luminance(behind(n))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), n.textContent.slice(0, 40), svg];
  });
}"""


# ---------------------------------------------------------------------------------------------------------------------
# The sample book


def slider_figure() -> go.Figure:
    """The library draws menus only; the page script knows sliders too."""
    steps = [{"label": str(n), "method": "restyle", "args": [{"y": [[n, 2 * n]]}]} for n in (10, 20, 40)]
    slider = {"steps": steps, "active": 0, "currentvalue": {"prefix": "Forget set: "}}
    return go.Figure(go.Scatter(x=[0, 1], y=[10, 20]), {"sliders": [slider], "meta": {"alt": "Slider"}})


def gap_figure() -> go.Figure:
    """The first trace has no points before another entry of the menu is chosen."""
    traces = [
        go.Scatter(x=[], y=[], name="later", mode="markers", marker={"symbol": "square"}),
        go.Scatter(x=[1], y=[2], name="now", mode="markers", marker={"symbol": "diamond"}),
    ]
    return go.Figure(traces, {"meta": {"alt": "Gap"}})


def notebook(title: str, shown: list) -> nbformat.NotebookNode:
    """An executed notebook as papermill leaves it, with a part for everything that is shown."""
    cells = [
        nbformat.v4.new_markdown_cell(f"# {title}\n\nInline $1 - R$ and\n\n$$s = 1 - R_f + R_r$$"),
        nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"], "papermill": {"duration": 1}}),
        nbformat.v4.new_code_cell("seed = 1", metadata={"tags": ["injected-parameters"]}),
    ]
    for i, item in enumerate(shown):
        figure = isinstance(item, go.Figure)
        bundle = show.BookRenderer().to_mimebundle(item.to_dict()) if figure else item._repr_mimebundle_()
        output = nbformat.v4.new_output("execute_result", bundle, execution_count=i)
        cells.append(nbformat.v4.new_markdown_cell(f"## Part {i + 1}"))
        cells.append(nbformat.v4.new_code_cell(f"show({i})", outputs=[output], execution_count=i))
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        "papermill": {"duration": 3},
    }
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def sample_notebooks() -> dict[str, nbformat.NotebookNode]:
    """Every kind of output, on four pages, so that a test loads little besides what it asks about."""
    live = {"provenance": "committed results, 0123abc"}
    attacked, factual = summary().rename(columns={"set": "attack"}), summary().query("dataset == 'factual'")
    answers = records().query("dataset == 'factual'")
    first = notebook(
        "A page of made-up figures",
        [
            show.radar(summary(), **live),
            show.trade_off(summary(), **live),
            slider_figure(),
            show.table(summary(), paper(), caption="ROUGE-1 recall of made-up methods", **live),
            gap_figure(),
        ],
    )
    # The first figure as papers have it: numbered, with a caption.
    first.cells[4].metadata["mystnb"] = {"figure": {"name": "fig-sample", "caption": "A radar of made-up values."}}
    plain = [
        show.pairs(summary(), title="Pairs", reading="Left is better.", **live),
        show.matrix(attacked, "method", "attack", title="Matrix", reading="Light is better.", **live),
        show.sweep(factual, "n", title="Sweep", x_title="n", **live),
    ]
    explorers = [
        show.side_by_side(records(), questions=2, **live),
        show.linked(summary(), records(), paper(), caption="Linked", questions=2, **live),
        show.stops(
            pd.concat([factual.assign(merge=m) for m in (1, 2, 5)]),
            pd.concat([answers.assign(merge=m) for m in (1, 2, 5)]),
            "merge",
            title="Stops",
            reading="Move it.",
            label="m",
            cost={("memit", 2): "seven edits"},
            **live,
        ),
    ]
    other = notebook("Other", [go.Figure(go.Violin(y=[1, 2, 4], name="a violin"), {"meta": {"alt": "Violin"}})])
    return {PAGE: first, PLAIN: notebook("Plain", plain), EXPLORERS: notebook("Explorers", explorers), OTHER: other}


def plug_in(folder: Path) -> dict[str, str]:
    """The method of the page "With a method of your own" as an installed package; the environment that knows it."""
    text = (ROOT / "book" / "run" / "your_method.md").read_text(encoding="utf-8")
    about = folder / "ihl-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "ihl.py").write_text(text.split(":caption: ihl.py\n")[1].split("```")[0], encoding="utf-8")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ihl\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text("[editunlearn.methods]\nihl = ihl\n", encoding="utf-8")
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def make_book(root: Path) -> Path:
    """The real book with the sample notebooks in place of four, empty ones in place of the others; its built pages.

    A method is registered from outside, for which nobody has written a page.
    """
    shutil.copytree(ROOT / "book", root / "book", ignore=shutil.ignore_patterns("executed", "vendor", "__pycache__"))
    for name in ("_config.yml", "_toc.yml", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "benchmarks", root / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "editunlearn_lib").symlink_to(ROOT / "editunlearn_lib")  # what the reference pages describe
    executed = root / "book" / "executed"
    executed.mkdir()
    for notebook in (ROOT / "notebooks").rglob("*.ipynb"):
        if ".ipynb_checkpoints" in notebook.parts:
            continue
        title = nbformat.v4.new_markdown_cell(f"# {notebook.stem}")
        copy = executed / notebook.relative_to(ROOT / "notebooks")
        copy.parent.mkdir(exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=[title]), copy)
    for page, sample in sample_notebooks().items():
        nbformat.write(sample, root / Path(page).with_suffix(".ipynb"))
    build = [sys.executable, str(root / "book" / "build.py")]
    run = subprocess.run(build, capture_output=True, text=True, check=False, env=plug_in(root / "plugin"))
    assert run.returncode == 0, run.stdout + run.stderr
    return root / "_build" / "html"


@pytest.fixture(scope="session")
def sample_book(tmp_path_factory, worker_id) -> Path:
    pytest.importorskip("jupyter_book")
    if worker_id == "master":
        return make_book(tmp_path_factory.mktemp("book"))
    root = tmp_path_factory.getbasetemp().parent / "sample_book"  # the first worker that asks builds it for all
    with FileLock(f"{root}.lock"):
        if not (root / "done").exists():
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            make_book(root)
            (root / "done").touch()
    return root / "_build" / "html"


@pytest.fixture(scope="session", params=["sample", "real"])
def pages(request) -> Path:
    """The pages of the sample book, then those of the real one where it is built."""
    if request.param == "sample":
        return request.getfixturevalue("sample_book")
    if not (ROOT / "_build" / "html" / PAGE).exists():
        pytest.skip("the real book is not built")
    return ROOT / "_build" / "html"


@pytest.fixture(scope="session")
def serve():
    """Serve folders on this machine; the address of each."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    servers = []

    def start(folder: Path) -> str:
        handler = functools.partial(Quiet, directory=str(folder))
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()


# ---------------------------------------------------------------------------------------------------------------------
# The browser


@pytest.fixture(scope="session")
def browser():
    playwright_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright_api.sync_playwright() as p:
        instance = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)  # a new profile folder each time
        yield instance
        instance.close()


class Visit:
    """One page; notes every request, those off the machine (none gets there: no name resolves) and console errors."""

    def __init__(self, browser, address: str, *, size: dict, scheme: str = "light"):
        self.asked, self.away, self.errors = set(), [], []
        self.context = browser.new_context(viewport=size, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.on("request", self._note)
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("requestfailed", lambda r: self.errors.append(f"failed: {r.url}"))
        self.page.goto(address)
        self.page.wait_for_load_state("load")
        # Figures, too, are drawn; a page without figures is ready at once.
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('.eu-figure')].every(f => f.dataset.drawn === 'true')"
        )
        self.page.wait_for_timeout(150)  # resize observers

    def _note(self, request):
        url = urlsplit(request.url)
        self.asked.add(unquote(url.path))
        if url.scheme not in ("file", "data", "blob") and url.hostname != "127.0.0.1":
            self.away.append(request.url)


@pytest.fixture
def visit(browser):
    """Open a page of a folder, from disk unless an address is given."""
    open_visits = []

    def start(folder: Path | str, page: str = PAGE, *, size=DESKTOP, scheme="light") -> Visit:
        base = folder if isinstance(folder, str) else folder.as_uri()
        open_visits.append(Visit(browser, f"{base}/{page}", size=size, scheme=scheme))
        return open_visits[-1]

    yield start
    for v in open_visits:
        v.context.close()


def html_pages(folder: Path) -> list[str]:
    pages = [str(p.relative_to(folder)) for p in sorted(folder.rglob("*.html"))]
    return [page for page in pages if not page.startswith(("_static", "_sources"))]
