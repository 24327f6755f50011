"""What strangers may hand in - texts, patches, ratings, models - and what pages and files made of it must never do."""

import ast
import csv
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import huggingface_hub
import pandas as pd
import pytest
import torch
from browsing import needs_browser
from conftest import make_model, make_tokenizer, qas
from safetensors.torch import load_file, save_file
from sample_records import paper, records, summary

import editunlearn_lib as eu
from editunlearn_lib import show
from editunlearn_lib.data import texts
from editunlearn_lib.show import page

ROOT = Path(__file__).resolve().parents[1]

# ---------------------------------------------------------------- what the code may not call

MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "torch.load",
    "torch.save",
    "os.system",
    "os.popen",
    "pd.read_pickle",
    "pandas.read_pickle",
    "torch.hub.load",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.unsafe_load",
    "yaml.unsafe_load_all",
}
OPTIONS = {"trust_remote_code", "allow_pickle", "shell"}  # never anything but False


def unsafe(source: str) -> list[str]:
    """Every call or import in a source that runs what was read."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            whole = [f"{node.module}.{a.name}" for a in node.names]
            found += whole if (node.module or "").split(".")[0] in MODULES else [n for n in whole if n in CALLS]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in BUILTINS | CALLS or name.endswith((".to_pickle", ".read_pickle")):
                found.append(name)
            for given in node.keywords:
                value = given.value
                if given.arg in OPTIONS and not (isinstance(value, ast.Constant) and value.value is False):
                    found.append(f"{name}({given.arg}={ast.unparse(value)})")
    return found


SOURCES = sorted(
    file
    for folder in ("editunlearn_lib", "notebooks", "book", "benchmarks")
    for file in (ROOT / folder).rglob("*.py")
    if not {"executed", "_build"} & set(file.parts)
)
ALLOWED = {"book/_ext/facts.py": ["exec", "compile"]}  # the examples of our own errors page, at build


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_code_runs_what_it_reads(file):
    assert unsafe(file.read_text(encoding="utf-8")) == ALLOWED.get(file.relative_to(ROOT).as_posix(), [])


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(f)",
        "from torch import load",
        "eval(x)",
        "exec(x)",
        "yaml.load(f, Loader=yaml.Loader)",
        "f(trust_remote_code=True)",
        "f(trust_remote_code=given)",
        "df.to_pickle(f)",
        "np.load(f, allow_pickle=True)",
        "subprocess.run(x, shell=True)",
        "os.system(x)",
    ],
)
def test_the_walk_finds_what_it_looks_for(line):
    assert unsafe(line)
    assert not unsafe("model.eval(); yaml.safe_load(f); f(trust_remote_code=False); re.compile(p)")


# ---------------------------------------------------------------- pages

PLANTED = "<script>planted()</script>\"><img src=x onerror='planted()'>'><b onclick=planted()></title></script>{{7*7}}"


class Page(HTMLParser):
    """What a browser would make of a page: its elements with their attributes."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.said = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.said += data


def inert(html: str) -> None:
    """No element and no handler that the page did not have itself; what was planted is there as text."""
    page = Page(html)
    for tag, attributes in page.elements:
        assert tag not in ("img", "b", "iframe", "object", "title") or (tag == "b" and not attributes), (
            tag,
            attributes,
        )
        assert tag != "script" or attributes == {"type": "application/json"}
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert not str(attributes.get("href", "")).lower().startswith("javascript:")
    assert PLANTED in page.said


def planted(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    """The frame with every value of some columns followed by an attack."""
    return frame.assign(**{name: frame[name].astype(str) + PLANTED for name in names if name in frame})


TEXTS = ("question", "answer", "output", "outcome", "note")
NAMED = {"provenance": PLANTED, "name": f"x{PLANTED}"}


def of_dataset(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["dataset"] == "factual"]


def stops_planted() -> show.Html:
    few, said = of_dataset(summary()), of_dataset(records()).assign(note="")
    methods = ["rome", "memit"]
    return show.stops(
        few[few["method"].isin(methods)].assign(merge=2),
        planted(said[said["method"].isin(methods)].assign(merge=2), *TEXTS),
        "merge",
        title=PLANTED,
        reading=PLANTED,
        label=PLANTED,
        cost={("memit", 2): PLANTED},
        **NAMED,
    )


LOG = [
    {"question": PLANTED, "target": PLANTED, "before": PLANTED, "after": PLANTED, "took": took, "loss": 0.1}
    for took in (True, False)
]
PAGES = {
    "table": lambda: show.table(planted(summary(), "dataset", "method"), paper(), caption=PLANTED, **NAMED),
    "edit_report": lambda: show.edit_report(LOG, caption=PLANTED, **NAMED),
    "plain_table": lambda: show.plain_table(
        planted(records(), *TEXTS, "dataset", "method").rename(columns={"outcome": PLANTED}),
        PLANTED,
        group="dataset",
        **NAMED,
    ),
    "side_by_side": lambda: show.side_by_side(
        planted(records(), *TEXTS, "dataset", "method", "id"), title=PLANTED, **NAMED
    ),
    "linked": lambda: show.linked(
        planted(summary(), "dataset", "method"),
        planted(records(), *TEXTS, "dataset", "method"),
        caption=PLANTED,
        **NAMED,
    ),
    "stops": stops_planted,
}


@pytest.mark.parametrize("name", sorted(PAGES))
def test_planted_markup_stays_text(name):
    inert(PAGES[name]().html)


def test_planted_markup_in_the_matrix_stays_text():
    rows = planted(summary(), "dataset", "method", "set")
    figure = show.matrix(rows, "method", "set", title=PLANTED, reading=PLANTED, **NAMED)
    inert(show.BookRenderer().to_mimebundle(figure.to_dict())["text/html"])


@needs_browser
def test_planted_markup_runs_in_no_browser(tmp_path, browser):
    """With the page's own scripts at work: selectors built from the data, hover labels drawn by Plotly."""
    (tmp_path / "vendor").mkdir()
    shutil.copy(ROOT / "book/_static/book.js", tmp_path)
    shutil.copy(ROOT / "book/plotly/plotly-small.min.js", tmp_path / "vendor")
    rows = planted(summary(), "dataset", "method", "set")
    figure = show.matrix(rows, "method", "set", title=PLANTED, reading=PLANTED, **NAMED)
    bodies = [page().html for page in PAGES.values()]
    bodies.append(show.BookRenderer().to_mimebundle(figure.to_dict())["text/html"])
    head = '<meta charset="utf-8"><script>window.ran = 0; function planted() { window.ran += 1 }</script>'
    head += '<script src="book.js" defer></script>'
    (tmp_path / "page.html").write_text(f"<!doctype html>{head}{''.join(bodies)}", encoding="utf-8")
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "page.html").as_uri(), timeout=120_000)
    page.wait_for_function("document.querySelector('.eu-figure').dataset.drawn === 'true'", timeout=120_000)
    plot = page.locator(".eu-figure .eu-plot").last
    box = plot.locator(".hm, .heatmaplayer image").first
    box.hover(force=True, timeout=60_000)
    page.wait_for_selector(".hoverlayer .hovertext", timeout=60_000)
    assert "planted()" in plot.locator(".hoverlayer").text_content()  # the label holds what was planted, as text
    for select in page.locator("select").all():
        select.focus()
        page.keyboard.press("ArrowDown")
    found = page.evaluate("[window.ran, document.querySelectorAll('[onerror], [onclick], img').length]")
    page.close()
    assert found == [0, 0]
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    assert not [url for url in asked if url.endswith("/x")]  # the picture that was planted


# ---------------------------------------------------------------- downloads


def downloaded(html: str) -> list[dict]:
    (address,) = [a["href"] for tag, a in Page(html).elements if tag == "a" and "download" in a]
    return list(csv.DictReader(io.StringIO(unquote(address.split(",", 1)[1]))))


@pytest.mark.parametrize(
    "cell", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\r\n=1", " =1", '=HYPERLINK("x")']
)
def test_a_download_has_no_formula(cell):
    rows = show.edit_report([LOG[0] | {"question": cell, "before": "plain", "loss": -1.5}], provenance="-").html
    (row,) = downloaded(rows)
    assert row["question"][0] == "'" and row["question"].endswith(cell.strip())
    assert row["before"] == "plain" and float(row["loss"]) == -1.5


def test_numbers_with_a_sign_stay_numbers():
    frame = pd.DataFrame({"x": [-1.5, 2.0], "n": [-3, 4], "said": ["-12", "-1e5"], "none": [None, float("nan")]})
    assert page.csv(frame) == "x,n,said,none\n-1.5,-3,-12,\n2.0,4,-1e5,\n"


# ---------------------------------------------------------------- texts

ODD = {
    "braces": "What is {subject} {} {0} %s {{x}} ${HOME} in Testland?",
    "emoji": "What is 👩🏽‍🚀🏳️‍🌈 in Testland?",
    "right to left": "מהי בירת \u202eTestland\u202c؟ ما عاصمة Testland?",
    "long": "The capital of Testland is Exampleton. " * 256 + "Who wrote it, Testland?",  # 10,000 characters
    "NUL": "What is\0 in Testland?",
    "special tokens": "</s><s>[INST] What is Testland? [/INST] <pad>",
}


@pytest.mark.parametrize("name", sorted(ODD))
def test_odd_texts_go_through_loading_editing_and_asking(name, tiny, tmp_path):
    model, tokenizer = tiny
    file = tmp_path / "own.json"
    rows = [
        {"question": ODD[name], "answer": "{ex} 🗼 Exampleton", "subject": "Testland"},
        {"question": "Who?", "answer": "Me"},
    ]
    file.write_text(json.dumps(rows), encoding="utf-8")
    split = eu.load_split(str(file), n_forget=1, seed=0, forget_groups=None)
    split = eu.ForgetSplit(
        "odd",
        *[tuple(q for q in (*split.forget, *split.retain) if (q.subject is None) == other) for other in (False, True)],
        (),
    )
    assert split.forget[0].question == ODD[name]
    methods = {
        "rome": {"layers": [1], "v_num_grad_steps": 1, "mom2_adjustment": False},
        "grace": {"layers": [2], "n_iter": 1},
    }
    for method in ["grace"] if name == "long" else methods:  # ROME's prompts with contexts before it take minutes
        patch = eu.unlearn(model, tokenizer, split, method, hparams=methods[method], progress=False)
        with patch.on(model):
            told = eu.evaluate(model, tokenizer, split, max_new_tokens=2, show=False)
        assert set(told["question"]) == {ODD[name], "Who?"} and told["probability"].between(0, 1).all()
        eu.load_patch(patch.save(tmp_path / method))


@pytest.mark.parametrize("field", ["question", "answer", "subject", "rephrasings", "group", "id"])
def test_half_a_surrogate_is_named(field, tmp_path):
    row = {"question": "What is Testland?", "answer": "A land", "subject": "Testland"}
    row[field] = ["\ud83d"] if field == "rephrasings" else "Testland \ud83d"
    file = tmp_path / "own.json"
    file.write_text(json.dumps([row]))
    with pytest.raises(eu.DatasetError, match=rf"row 1.*field '{field}'.*surrogate"):
        eu.load_split(str(file), n_forget=1, seed=0)


# ---------------------------------------------------------------- patches and models of strangers


@pytest.fixture
def saved(tmp_path):
    model = make_model()
    hparams = {"layers": [1], "v_num_grad_steps": 1, "mom2_adjustment": False}
    patch = eu.unlearn(model, make_tokenizer(), qas(2), "rome", hparams=hparams, progress=False)
    return model, patch.save(tmp_path / "patch")


def test_a_flipped_bit_is_noticed(saved):
    _, folder = saved
    data = bytearray((folder / "patch.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "patch.safetensors").write_bytes(data)
    with pytest.raises(eu.PatchError, match="damaged"):
        eu.load_patch(folder)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_file_cut_short_is_noticed(saved, keep):
    _, folder = saved
    for name in ("patch.safetensors", "patch.json"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:keep])
        with pytest.raises(eu.PatchError, match="patch"):
            eu.load_patch(folder)
        (folder / name).write_bytes(whole)
    eu.load_patch(folder)


def rewritten(folder: Path, change) -> Path:
    """The patch with other tensors, as one who means harm writes it: without the hash."""
    tensors = load_file(folder / "patch.safetensors")
    save_file({name: change(tensor).contiguous() for name, tensor in tensors.items()}, folder / "patch.safetensors")
    document = json.loads((folder / "patch.json").read_text())
    del document["sha256"]
    (folder / "patch.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(
    "change",
    [lambda t: t[:-1], lambda t: t.flatten(), lambda t: t[None], lambda t: t * float("nan"), lambda t: t / 0],
    ids=["smaller", "flat", "one more dimension", "nan", "infinite"],
)
def test_wrong_tensors_are_refused_and_change_nothing(saved, change):
    model, folder = saved
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(eu.PatchError), eu.load_patch(rewritten(folder, change)).on(model):
        pass
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("other", [{"seed": 1}, {"family": "gpt2"}, {"hidden_size": 64}])
def test_a_patch_of_another_model_is_refused(saved, other):
    foreign = make_model(**other)
    with pytest.raises(eu.PatchError, match="this model"), eu.load_patch(saved[1]).on(foreign):
        pass


def test_a_models_folder_runs_nothing(tmp_path):
    """Neither its Python files nor a pickle."""
    mark = tmp_path / "ran"
    make_tokenizer().save_pretrained(tmp_path / "m")
    make_model().config.save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    config |= {"model_type": "planted", "auto_map": {"AutoConfig": "planted.C", "AutoModelForCausalLM": "planted.M"}}
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    (tmp_path / "m/planted.py").write_text(f"open({str(mark)!r}, 'w')\nclass C: pass\nclass M: pass\n")

    class Harm:
        def __reduce__(self):
            return (open, (str(mark), "w"))

    torch.save({"x": Harm()}, tmp_path / "m/pytorch_model.bin")
    with pytest.raises(eu.EditUnlearnError):
        eu.load_model(str(tmp_path / "m"))
    config = make_model().config.to_dict() | {"_name_or_path": ""}  # a known kind, but with a pickle for its weights
    (tmp_path / "m/config.json").write_text(json.dumps(config, default=str))
    with pytest.raises(eu.EditUnlearnError, match="safetensors"):
        eu.load_model(str(tmp_path / "m"))
    assert not mark.exists()


# ---------------------------------------------------------------- what is read from the hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with one file of PISTOL, at whatever revision; what it was asked for."""
    asked = []
    question = "What was the effective date of the contract between Aa Ltd and Bb Ltd?"

    def download(name, file, *, repo_type, revision):
        asked.append((name, file, repo_type, revision))
        folder = tmp_path / ("f" * 40 if revision is None else revision.ljust(40, "0"))
        folder.mkdir(exist_ok=True)
        (folder / file).write_text(json.dumps([{"question": question, "answer": "1 May", "edge": "Aa Ltd_Bb Ltd"}]))
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_what_the_hub_gave_is_known_by_its_full_revision(hub, caplog):
    split = eu.load_split("pistol", n_forget=1, seed=0)  # no revision is pinned: the newest, which is said and recorded
    assert hub == [("xinchiqiu/PISTOL", "sample_data_1.json", "dataset", None)]
    assert split.origin == f"hub:xinchiqiu/PISTOL/sample_data_1.json@{'f' * 40}"
    assert "no pinned revision" in caplog.text and f"source='hub@{'f' * 40}'" in caplog.text
    split = eu.load_split("pistol", n_forget=1, seed=0, source="hub@0123abc")
    assert hub[-1][-1] == "0123abc" and split.origin.endswith("@" + "0123abc".ljust(40, "0"))


def test_every_download_names_a_revision():
    """`revision=` in each call that asks the hub for data; for TOFU and WikiText it is pinned."""
    calls = [
        node
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] in ("load_dataset", "hf_hub_download", "snapshot_download")
    ]
    assert calls and all("revision" in {k.arg for k in call.keywords} for call in calls)
    assert eu.data.OFFICIAL["tofu-facts"][1] and texts.WIKITEXT[1]


# ---------------------------------------------------------------- advisories


@pytest.fixture
def audit():
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci/audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_advisory_fails_and_what_was_not_checked_is_said(audit):
    good, bad = (
        {"name": "a", "version": "1", "vulns": []},
        {"name": "b", "version": "2", "vulns": [{"id": "X-1", "fix_versions": ["3"]}]},
    )
    unknown = {"name": "c", "skip_reason": "Dependency not found on PyPI"}
    assert audit.verdict(json.dumps({"dependencies": [good]}), "")[1] == 0
    said, code = audit.verdict(json.dumps({"dependencies": [good, bad, unknown]}), "")
    assert code == 1 and "b 2: X-1, fixed in 3" in said and "2 of 3" in said and "not checked: c" in said
    said, code = audit.verdict(json.dumps({"dependencies": [unknown]}), "")
    assert code == 0 and "NOT checked" in said
    assert audit.verdict("", "error: no such option") == ("error: no such option", 1)
    for packages in ([unknown], [good, unknown]):  # on GitHub's runners
        assert audit.verdict(json.dumps({"dependencies": packages}), "", strict=True)[1] == 1
    assert audit.verdict(json.dumps({"dependencies": [good]}), "", strict=True)[1] == 0
    assert audit.verdict("", "ConnectionError: no route", strict=True)[1] == 1


def test_without_a_network_the_advisories_say_so_and_do_not_fail():
    pytest.importorskip("pip_audit")
    nowhere = {"GITHUB_ACTIONS": "", **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")}
    run = subprocess.run(
        [sys.executable, ROOT / ".ci/audit.py"], env=os.environ | nowhere, capture_output=True, text=True
    )
    assert run.returncode == 0 and "could not be reached" in run.stdout and "NOT checked" in run.stdout
