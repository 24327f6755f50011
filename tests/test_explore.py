"""The interactive figures in a real browser: their mathematics against the library's, and each of them by keyboard."""

import csv
import importlib
import itertools
import math
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from browsing import CONTRASTS, PHONE, ROOT, needs_browser
from docutils.core import publish_doctree
from docutils.parsers.rst import directives
from nltk.stem.porter import PorterStemmer

from editunlearn_lib import losses, metrics
from editunlearn_lib.methods import METHODS, moments
from editunlearn_lib.methods.grace import nearest

sys.path.append(str(ROOT / "book" / "_ext"))
from explore import PIECES, Explore  # noqa: E402

pytestmark = needs_browser

INTERACTIVE = [name for name, piece in PIECES.items() if not piece.drawing]
PAGE = "book/index.html"
WAIT = 250  # ms: the status line speaks when the hand rests


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A page with every figure and a page with none, built with the real configuration; warnings are errors."""
    root = tmp_path_factory.mktemp("explore")
    (root / "book" / "plotly").mkdir(parents=True)
    for folder in ("_ext", "_static"):
        shutil.copytree(ROOT / "book" / folder, root / "book" / folder, ignore=shutil.ignore_patterns("vendor"))
    for name in ("book/build.py", "book/plotly/plotly-small.min.js", "book/references.bib", "_config.yml"):
        shutil.copy(ROOT / name, root / name)
    figures = [f"## {name}\n\n```{{explore}} {name}\nThe *point* of {name}.\n```\n" for name in PIECES]
    (root / "book" / "index.md").write_text("# Figures\n\n" + "\n".join(figures))
    begun = "```{explore} rank-one alphaedit\nThe point.\n```\n\n```{explore} training dpo\nThe point.\n```\n"
    (root / "book" / "begun.md").write_text(f"# Begun\n\n{begun}")
    (root / "book" / "plain.md").write_text("# No figure\n\nText.\n")
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters: [{file: book/plain}, {file: book/begun}]\n"
    )
    run = subprocess.run([sys.executable, str(root / "book" / "build.py")], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return root / "_build" / "html"


@pytest.fixture(scope="module")
def js_all(browser):
    """Call a function of the script's mathematics with each of several lists of arguments."""
    page = browser.new_page()
    page.set_content("<p></p>")
    page.add_script_tag(path=ROOT / "book" / "_static" / "explore.js")
    yield lambda name, calls: page.evaluate("([name, calls]) => calls.map(c => EU_EXPLORE[name](...c))", [name, calls])
    page.close()


@pytest.fixture
def js(js_all):
    """Call one: js("name", arguments...)."""
    return lambda name, *args: js_all(name, [args])[0]


# ---------------------------------------------------------------------------------------------------------------------
# The mathematics


def edit_case(seed):
    draw = np.random.default_rng(seed)
    keys = draw.normal(size=(7, 1)) * np.array([[2.0, 0.9]]) + 0.1 * draw.normal(size=(7, 2))
    return draw.normal(size=(2, 2)), draw.normal(size=2), draw.normal(size=2), keys, keys.T @ keys / len(keys)


@pytest.mark.parametrize("seed", range(5))
def test_rank_one_edits_are_the_methods_equations(js, seed):
    W, k, v, keys, C = edit_case(seed)
    found = js("covariance", keys.tolist())
    np.testing.assert_allclose(found, C, rtol=1e-12)
    missing = v - W @ k
    inverse = np.linalg.inv(C)
    rome = W + np.outer(missing, inverse @ k) / (k @ inverse @ k)
    plain = W + np.outer(missing, k) / (k @ k)
    args = W.tolist(), k.tolist(), v.tolist()
    np.testing.assert_allclose(js("rankOne", *args, "rome", {"C": C.tolist()})["W"], rome, rtol=1e-8)
    np.testing.assert_allclose(js("rankOne", *args, "plain", {"C": C.tolist()})["W"], plain, rtol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_alphaedit_is_the_equation_of_its_paper(js, seed, tmp_path, monkeypatch):
    monkeypatch.setattr(moments, "CACHE", tmp_path)
    W, k, v, _, C = edit_case(seed)
    threshold, L2 = float(np.linalg.eigvalsh(C).mean()), 0.05
    P = moments.null_space(torch.tensor(C), threshold).numpy()
    np.testing.assert_allclose(js("nullSpace", C.tolist(), threshold), P, atol=1e-12)
    K, R = k[:, None], (v - W @ k)[:, None]
    expected = W + R @ K.T @ P @ np.linalg.inv(K @ K.T @ P + L2 * np.eye(2))
    options = {"C": C.tolist(), "threshold": threshold, "L2": L2}
    edit = js("rankOne", W.tolist(), k.tolist(), v.tolist(), "alphaedit", options)
    np.testing.assert_allclose(edit["W"], expected, rtol=1e-8)
    reached = np.array(edit["W"]) @ k - W @ k
    np.testing.assert_allclose(reached, edit["reach"] * (v - W @ k), rtol=1e-8)


def test_an_empty_null_space_edits_nothing(js):
    options = {"C": [[1, 0], [0, 2]], "threshold": 0.1, "L2": 0.05}
    edit = js("rankOne", [[1, 2], [3, 4]], [1, 1], [0, 0], "alphaedit", options)
    assert edit["W"] == [[1, 2], [3, 4]] and edit["reach"] == 0


@pytest.mark.parametrize("seed", range(6))
def test_the_codebook_is_graces(js, seed):
    draw = np.random.default_rng(seed)
    points, targets, eps = draw.normal(size=(9, 2)), draw.integers(0, 3, 9).tolist(), 0.5
    keys, radii, labels = [], [], []
    for k, target in zip(torch.tensor(points), targets, strict=True):  # as in editunlearn_lib.methods.grace
        near, i = math.inf, -1
        if keys:
            near, i = (x.item() for x in nearest(k[None], torch.stack(keys), torch.tensor(radii, dtype=torch.double)))
        if keys and near <= radii[i] + eps and labels[i] == target:
            radii[i] = max(radii[i], near)
            continue
        radius = eps
        if keys and near <= radii[i] + eps:
            radius, radii[i] = near / 2, near / 2 - 1e-5
        keys, radii, labels = [*keys, k], [*radii, radius], [*labels, target]
    book = js("codebook", points.tolist(), targets, eps)
    assert [entry["target"] for entry in book] == labels
    np.testing.assert_allclose([entry["radius"] for entry in book], radii, rtol=1e-9)
    query = draw.normal(size=2)
    distance, number = nearest(torch.tensor(query)[None], torch.stack(keys), torch.tensor(radii))
    found = js("nearest", book, query.tolist())
    assert found["entry"] == book[number.item()] and found["distance"] == pytest.approx(distance.item())
    assert found["inside"] == (distance.item() <= radii[number.item()])


def test_routing_is_wises_rule(js):
    assert js("route", 8.81, [12, 10, 11], 0.88) == "side"
    assert js("route", 8.8, [12, 10, 11], 0.88) == "main"  # at the threshold: not above it
    assert js("route", 0.1, [12, 10, 11], 0) == "side"


def texts():
    """Every string of the built-in data: questions, answers, refusals, contracts."""
    folder = ROOT / "editunlearn_lib" / "data"
    found = re.findall(r'"((?:[^"\\]|\\.)+)"', "".join(p.read_text() for p in sorted(folder.rglob("*.json"))))
    return [text.encode().decode("unicode_escape") if "\\u" in text else text for text in found]


def test_the_stemmer_is_nltks(js_all):
    known = {word for text in texts() for word in re.findall("[a-z0-9]+", text.lower())}
    stems = (
        "relat hop tri geo y gen fall controll dy s yy sky archaeo radic agre feed oper commun nation adopt b".split()
    )
    ends = """ies ied ed ing eed sses ss s y ational tional enci anci izer bli abli alli entli eli ousli ization ation
        ator alism iveness fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical
        ful ness al ance ence
        er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize e ll""".split()
    made = {stem + end for stem in stems for end in ends}
    made |= {stem + "".join(tail) for stem in stems[:5] for tail in itertools.product(ends, repeat=2)}
    irregular = "skies sky dying lying tying news innings outings cannings howe proceed exceed succeed".split()
    vocabulary = sorted(known | made | set(irregular))
    assert len(known) > 800 and len(vocabulary) > 8000
    found = js_all("porter", [[word] for word in vocabulary])
    stem = PorterStemmer().stem
    assert [row for row in zip(vocabulary, found, strict=True) if stem(row[0]) != row[1]] == []


def test_rouge_is_the_librarys(js_all):
    corpus = texts()
    draw = np.random.default_rng(0)
    some = [corpus[i] for i in draw.integers(0, len(corpus), 400)]
    words = " ".join(some).split()
    mixed = [" ".join(draw.choice(words, draw.integers(1, 12))) for _ in range(300)]
    cases = list(zip(mixed, some, strict=False)) + list(itertools.pairwise(some))
    cases += [
        ("", ""),
        ("a", ""),
        ("", "a"),
        ("the the", "the the the"),
        ("Flies, DYING; skies!", "fly die sky"),
        ("Straße İstanbul Ünder", "strasse istanbul under"),
        ("in 1999-2000", "1999 2000"),
        ("Москва река", "река Москва"),
        ("東京 大阪", "東京"),
        ("naïve café", "naive cafe"),
        ("...", "!?"),
        ("a_b", "a b"),
        ("<b>x</b>", "x"),
    ]
    expected = [metrics.rouge1_recall(prediction, truth) for prediction, truth in cases]
    assert len({round(value, 3) for value in expected}) > 20
    np.testing.assert_allclose(js_all("rouge1Recall", cases), expected, rtol=1e-12)


@pytest.mark.parametrize("present", [4, 2, 0])
def test_token_measures_are_the_librarys(js, present):
    V, T = 300, 4
    logits = 4 * torch.randn(present, V, generator=torch.Generator().manual_seed(present)).double()
    targets = [3, 250, 17, 99]
    if present:
        logits[0, 3] = 30  # one that ranks first
    rows = [
        {"p": logits[t].softmax(-1)[targets[t]].item(), "rank": 1 + (logits[t] > logits[t, targets[t]]).sum().item()}
        for t in range(present)
    ] + [None] * (T - present)
    found = js("tokenMetrics", rows, V)
    assert found["mrr"] == pytest.approx(metrics.mrr(logits, targets))
    assert found["hitRate"] == pytest.approx(metrics.hit_rate(logits, targets))
    assert found["probability"] == pytest.approx(metrics.sequence_probability(logits, targets))
    assert found["perToken"] == pytest.approx(metrics.probability_per_token(logits, targets))


def test_free_running_ranks_part_at_the_first_other_token(js):
    assert js("freeRanks", [1, 1, 1], 4, 900, 5000) == [1, 1, 1]
    assert js("freeRanks", [1, 7, 1, 2], 9, 900, 5000) == [1, 7, 900, 900]
    assert js("freeRanks", [7, 1, 1], 2, 900, 5000) == [7, 900, 5000]


AT = {"answer": 0, "refusal": 1, "kept": 2}
TRAINING = [name for name, method in METHODS.items() if not method.edits]


def library_loss(name, zf, zr, zf0, zr0):
    """The library's loss for answers of one token; row 0 of the logits scores it."""

    def sequence(z):
        return torch.stack([z, torch.zeros_like(z)])[None]  # (1, 2, V)

    def labels(token):
        return torch.tensor([[-100, token]])

    forget = sequence(zf), labels(0)
    if name == "ga":
        return losses.ga(*forget)
    if name == "gd":
        return losses.gd(*forget, sequence(zr), labels(2))
    if name == "kl":
        return losses.kl(*forget, sequence(zr), sequence(zr0), torch.tensor([[1, 0]]))
    if name == "dpo":
        return losses.dpo(*forget, sequence(zf), labels(1), sequence(zf0), sequence(zf0), beta=0.1)
    if name in ("npo", "simnpo"):  # the function that the method trains on, with its published β and γ
        answers, retain = (
            SimpleNamespace(logits=sequence(zf), labels=labels(0)),
            SimpleNamespace(logits=sequence(zr), labels=labels(2)),
        )
        model = SimpleNamespace(logits=lambda rows: rows.logits, reference_logits=lambda rows: sequence(zf0))
        module = importlib.import_module(f"editunlearn_lib.methods.{name}")
        with mock.patch.object(module, "train", lambda job, loss: loss):
            loss = METHODS[name].run(SimpleNamespace(config=METHODS[name].config()))
        return loss(model, SimpleNamespace(answers=answers, retain=retain))
    return losses.idk(sequence(zf), labels(1))


@pytest.mark.parametrize("name", TRAINING)
def test_losses_and_gradients_are_the_librarys(js, name):
    draw = torch.Generator().manual_seed(1)
    z = {key: 2 * torch.randn(5, generator=draw).double() for key in ("zf", "zr", "zf0", "zr0")}
    zf, zr = z["zf"].clone().requires_grad_(), z["zr"].clone().requires_grad_()
    value = library_loss(name, zf, zr, z["zf0"], z["zr0"])
    forget, retain = torch.autograd.grad(value, (zf, zr), allow_unused=True)
    found = js("loss", name, {key: tensor.tolist() for key, tensor in z.items()}, AT)
    assert found["loss"] == pytest.approx(value.item())
    np.testing.assert_allclose(found["forget"], forget, atol=1e-12)
    np.testing.assert_allclose(found["retain"], torch.zeros(5) if retain is None else retain, atol=1e-12)


@pytest.mark.parametrize("name", TRAINING)
def test_training_is_gradient_descent_on_the_librarys_loss(js, name):
    zf0, zr0 = torch.tensor([4, 0, 0.2, 1.2, 0.8]).double(), torch.tensor([0.2, 0, 4, 1.2, 0.8]).double()
    xf, xr = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.6, 0.8]).double()
    D = torch.zeros(5, 2, dtype=torch.double, requires_grad=True)
    sgd = torch.optim.SGD([D], lr=1.0)
    path = js("descend", name, {"zf0": zf0.tolist(), "zr0": zr0.tolist()}, AT, {"overlap": 0.6, "steps": 20})
    for step in path:
        zf, zr = zf0 + D @ xf, zr0 + D @ xr
        value = library_loss(name, zf, zr, zf0, zr0)
        assert step["loss"] == pytest.approx(value.item(), rel=1e-6, abs=1e-9)
        np.testing.assert_allclose(step["retain"], zr.softmax(-1).detach(), rtol=1e-6)
        sgd.zero_grad()
        value.backward()
        sgd.step()


# ---------------------------------------------------------------------------------------------------------------------
# The directive


def rendered(source: str) -> str:
    directives.register_directive("explore", Explore)
    env = SimpleNamespace(new_serialno=lambda kind: 0)
    quiet = {"env": env, "report_level": 5, "halt_level": 5}
    return publish_doctree(source, settings_overrides=quiet).astext()


def test_a_wrong_name_and_a_missing_caption_are_named():
    assert "'rank-two'" in rendered(".. explore:: rank-two\n\n   A caption.")
    assert "rank-one, codebook" in rendered(".. explore:: rank-two\n\n   A caption.")
    assert "begins with one of rome, plain, alphaedit, not 'memit'" in rendered(
        ".. explore:: rank-one memit\n\n   A caption."
    )
    assert "needs a caption" in rendered(".. explore:: rank-one")
    assert "needs a caption" not in rendered(".. explore:: rank-one\n\n   A caption.")


def test_without_a_script_every_figure_makes_its_point(book, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{book.as_uri()}/{PAGE}")
    for name, piece in PIECES.items():
        figure = page.locator(f'.eu-explore[data-explore="{name}"]')
        assert figure.locator(".eu-title").inner_text() == piece.title
        assert figure.locator("figcaption").inner_text() == f"The point of {name}."
        assert len(figure.locator(".eu-static, .eu-drawing").inner_text()) > 150
    context.close()


def test_figures_of_one_page_have_ids_of_their_own(book, visit):
    ids = visit(book, PAGE).page.locator(".eu-explore .eu-title").evaluate_all("nodes => nodes.map(n => n.id)")
    assert len(set(ids)) == len(PIECES)


# ---------------------------------------------------------------------------------------------------------------------
# The page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_offline_narrow_and_legible(book, visit, scheme):
    seen = visit(book, PAGE, size=PHONE, scheme=scheme)
    assert seen.away == [] and seen.errors == []
    page = seen.page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    wide = page.evaluate(
        """() => [...document.querySelectorAll('.eu-explore, .eu-explore *')]
           .filter(n => !n.closest('.eu-scroll table, svg'))
           .filter(n => n.getBoundingClientRect().right > innerWidth + 1).map(n => n.outerHTML.slice(0, 120))"""
    )
    assert wide == []
    found = page.evaluate(CONTRASTS)
    assert len(found) > 150
    assert [row for row in found if row[0] < 4.5] == []


def test_a_page_without_figures_is_left_alone(book, visit):
    seen = visit(book, "book/plain.html")
    assert seen.errors == []
    assert seen.page.locator(".eu, svg.eu-chart").count() == 0


@pytest.mark.parametrize("name", INTERACTIVE)
def test_every_control_is_named_and_reached_by_tab(book, visit, name):
    page = visit(book, PAGE).page
    figure = page.locator(f'[data-explore="{name}"]')
    controls = figure.locator("select, input, textarea, [role=slider]")
    wanted = controls.evaluate_all("nodes => nodes.filter(n => n.getClientRects().length).length")
    nameless = controls.evaluate_all("ns => ns.filter(n => !n.ariaLabel && !(n.labels && n.labels.length)).length")
    assert wanted >= 2 and nameless == 0
    figure.locator("select, input, textarea, [role=slider]").first.focus()
    reached = 1
    for _ in range(wanted + 1):
        page.keyboard.press("Tab")
        reached += page.evaluate(
            "name => document.activeElement.matches("
            "`[data-explore='${name}'] :is(select, input, textarea, [role=slider])`)",
            name,
        )
    assert reached == wanted


def status(figure) -> str:
    figure.page.wait_for_timeout(WAIT)
    return figure.locator(".eu-status").inner_text()


def data(figure) -> list[dict]:
    """The rows behind the download link."""
    link = figure.get_by_text("Download data")
    assert link.get_attribute("download") == f"{figure.get_attribute('data-explore')}.csv"
    return list(csv.DictReader(unquote(link.get_attribute("href").split(",", 1)[1]).splitlines()))


@pytest.fixture
def figure(book, visit):
    return lambda name: visit(book, PAGE).page.locator(f'[data-explore="{name}"]')


def test_rank_one_by_keyboard(figure):
    piece = figure("rank-one")
    key, mean = piece.locator("[data-key=k]"), lambda: np.mean([float(row["moved by"]) for row in data(piece)])
    assert "the edit takes" in status(piece)
    rome = mean()
    assert f"move by {rome:.2f} on average" in status(piece)
    plain = float(re.search(r"([\d.]+) under plain rank-one", status(piece))[1])
    key.focus()
    piece.page.keyboard.press("ArrowRight")
    piece.page.keyboard.press("Shift+ArrowDown")
    assert key.get_attribute("aria-valuetext") == "(1.7, 1.2)"
    assert mean() != rome
    piece.get_by_text("Reset").click()
    assert key.get_attribute("aria-valuetext") == "(1.6, 1.7)" and mean() == rome
    piece.get_by_role("combobox", name="Edit").select_option("plain")
    assert mean() == pytest.approx(plain, abs=0.005) and plain > 2 * rome  # C⁻¹ spares the kept keys
    piece.get_by_role("combobox", name="Edit").select_option("alphaedit")
    assert mean() < rome and "of the way to v*" in status(piece)
    threshold = piece.get_by_label("Null-space threshold")
    threshold.focus()
    piece.page.keyboard.press("Home")
    assert "nothing can be edited" in status(piece) and mean() == 0
    piece.page.keyboard.press("End")
    assert "nothing is protected" in status(piece)


def test_alphaedit_cannot_edit_a_key_among_the_kept(figure):
    piece = figure("rank-one")
    piece.get_by_role("combobox", name="Edit").select_option("alphaedit")
    piece.locator("[data-key=k]").focus()
    for _ in range(8):
        piece.page.keyboard.press("ArrowDown")  # towards the line on which the kept keys lie
    assert "does not take" in status(piece)


def test_a_figure_begins_with_the_method_of_its_page_and_is_reset_to_it(book, visit):
    page = visit(book, "book/begun.html").page
    for name, control, begun, other in (
        ("rank-one", "Edit", "alphaedit", "plain"),
        ("training", "Method", "dpo", "ga"),
    ):
        piece = page.locator(f'[data-explore="{name}"]')
        choice = piece.get_by_role("combobox", name=control)
        assert choice.input_value() == begun
        said = status(piece)
        choice.select_option(other)
        assert status(piece) != said
        piece.get_by_role("button", name="Reset").click()
        assert choice.input_value() == begun and status(piece) == said


def test_a_handle_follows_the_pointer(figure):
    piece = figure("rank-one")
    target = piece.locator("[data-key=v]")
    target.scroll_into_view_if_needed()
    box = target.locator(".eu-grip").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse = piece.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(x + 60, y + 40, steps=4)
    mouse.up()
    moved = target.locator(".eu-grip").bounding_box()
    assert moved["x"] - box["x"] == pytest.approx(60, abs=1) and moved["y"] - box["y"] == pytest.approx(40, abs=1)
    mouse.move(x, y)
    assert target.locator(".eu-grip").bounding_box() == moved  # let go


def test_codebook_by_keyboard(figure):
    piece = figure("codebook")
    assert "within" in status(piece) and "slips through" in status(piece)
    query, radius = piece.locator("[data-key=query]"), piece.get_by_label("Radius")
    query.focus()
    for _ in range(2):
        piece.page.keyboard.press("Shift+ArrowDown")
    assert "the model’s own answer" in status(piece)
    radius.focus()
    for _ in range(7):
        piece.page.keyboard.press("ArrowRight")
    assert "The rephrase is caught, the unrelated question is not" in status(piece)
    for _ in range(5):
        piece.page.keyboard.press("ArrowRight")
    assert "and so is the unrelated question" in status(piece)
    assert {row["question"] for row in data(piece)} == {"your question", "rephrase", "unrelated"}


def test_metrics_by_keyboard(figure):
    piece = figure("metrics")
    page = piece.page
    area, result = piece.get_by_label("The model’s output"), piece.locator(".eu-result")
    truth = "The copper tarn"
    for output in ("Copper tarns, the!", "<img src=x onerror='planted=1'> tarn", ""):
        area.fill(output)
        assert result.inner_text().endswith(
            f"{metrics.rouge1_recall(output, truth):.2f}".replace("0.00", "0").replace("1.00", "1")
        )
    assert page.evaluate("window.planted") is None and piece.locator("img").count() == 0
    foot = piece.locator("tfoot tr")
    rank = piece.get_by_label("Teacher-forced rank of token 1")
    rank.focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("1")
    page.keyboard.press("Tab")
    rows = data(piece)
    assert [row["rank_free_running"] for row in rows] == ["1", "1", "1"]
    assert "both protocols agree" in status(piece)
    assert foot.nth(2).inner_text().split() == ["MRR", "1", "1"]
    p = piece.get_by_label("Probability of token 2")
    p.fill("0.2")
    p.press("Enter")
    ranks = piece.get_by_label("Teacher-forced rank of token 2")
    ranks.fill("50")
    ranks.press("Enter")
    assert p.input_value() == "0.02"  # fifty tokens cannot have more than 1 together
    product = math.prod(float(row["p"]) for row in data(piece))
    assert product == pytest.approx(0.002 * 0.02 * 0.9)
    assert foot.nth(3).inner_text().split()[-2:] == ["1", "0.67"]  # the third free-running rank is of another text
    piece.get_by_label("Question").select_option("2")
    assert [row["token"] for row in data(piece)] == ["The", "Sea", "of", "Glass", "Bells"]
    piece.get_by_label("Length of the output").focus()
    page.keyboard.press("Home")
    assert [row["rank_free_running"] for row in data(piece)][1:] == ["32000"] * 4


def test_training_by_keyboard(figure):
    piece = figure("training")
    rows = {row["method"]: {k: float(v) for k, v in row.items() if k != "method"} for row in data(piece)}
    start = float(re.search(r"began at ([\d.]+)", status(piece))[1])
    assert rows["GA"]["answer"] < 1e-3 and rows["GA"]["kept"] < 0.1 * start  # broken
    assert min(rows["GD"]["kept"], rows["KL"]["kept"]) > 0.7 * start  # held
    assert rows["IDK"]["refusal"] > 0.9 and rows["DPO"]["refusal"] > 5 * rows["GA"]["refusal"]
    piece.get_by_label("Overlap").focus()
    piece.page.keyboard.press("Home")
    rows = {row["method"]: float(row["kept"]) for row in data(piece)}
    assert rows["GA"] == pytest.approx(start, abs=0.01)  # nothing shared, nothing broken
    piece.get_by_role("slider", name="Steps").focus()
    piece.page.keyboard.press("Home")
    piece.get_by_label("Method").select_option("dpo")
    assert "DPO after 0 steps" in status(piece)
    value = {row["method"]: row["loss (nats)"] for row in data(piece)}["DPO"]
    assert float(value) == pytest.approx(math.log(2))


def test_routing_by_keyboard(figure):
    piece = figure("routing")
    assert "3 of 3 edited, 2 of 3 rephrased and 0 of 4 unrelated" in status(piece)
    piece.get_by_label("act_ratio").focus()
    piece.page.keyboard.press("Home")
    assert "4 of 4 unrelated" in status(piece)
    piece.page.keyboard.press("End")
    assert "0 of 3 edited" in status(piece)
    piece.get_by_text("Reset").focus()
    piece.page.keyboard.press("Enter")
    piece.get_by_label("Δ of your question").focus()
    piece.page.keyboard.press("End")
    assert "yours goes to the side memory" in status(piece)
    assert {row["memory"] for row in data(piece) if row["question"].startswith("edited")} == {"side"}


def test_no_user_text_is_parsed_and_nothing_is_evaluated():
    script = (ROOT / "book" / "_static" / "explore.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\b|new Function|document\.write", script)
