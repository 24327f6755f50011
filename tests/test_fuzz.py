"""What reads files and settings from others, fed with made-up ones: an error of ours or a result, never a traceback.

300 inputs in all, the same each time; EDITUNLEARN_FUZZ asks for more, and 10,000 are what `make soak` tries.
"""

import copy
import csv
import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import make_model, make_tokenizer, qas
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import editunlearn_lib as eu
from editunlearn_lib import rating, study
from editunlearn_lib.hparams import WITHOUT_MEANING, resolve
from editunlearn_lib.methods import METHODS
from editunlearn_lib.patch import _sha256

INPUTS = int(os.environ.get("EDITUNLEARN_FUZZ", "300"))
FUZZED = 16  # tests share them
fuzz = settings(
    max_examples=-(-INPUTS // FUZZED),
    deadline=None,
    database=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

# ---------------------------------------------------------------- made-up values

SURROGATES = st.text(st.characters(codec=None, categories=["L", "N", "P", "S", "Z", "Cc", "Cs"]), max_size=12)
TEXTS = st.one_of(
    SURROGATES,
    st.sampled_from(["", " ", "a|b", "=1+1", "{s} {", "\0", "𝒜 \u202eflow", "NaN", "é" * 200, "\ud83d", "x\r\ny", '"']),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
VALUES = st.recursive(
    SCALARS, lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(TEXTS, v, max_size=3)), max_leaves=6
)
QUESTION = "What is the capital of Testland?"
FIELDS = {
    "question": st.just(QUESTION),
    "answer": st.just("Exampleton"),
    "subject": st.sampled_from(["Testland", "capital"]),
    "rephrasings": st.sampled_from([["Say it."], "Say it.|Now."]),
    "group": st.just("A_B"),
    "id": st.integers(0, 3),
    "edge": st.just("A_B"),
}


@st.composite
def rows(draw):
    """Rows that are right but for some fields, so that what stands behind the first check is reached too."""
    made = []
    for number in range(draw(st.integers(0, 4))):
        row = {
            name: draw(value) for name, value in FIELDS.items() if draw(st.booleans()) or name in ("question", "answer")
        }
        row["question"] += f" ({number})"
        for name in draw(st.lists(st.sampled_from([*FIELDS, "other"]), max_size=1)):
            row[name] = draw(VALUES)
        made.append(row)
    return made


@st.composite
def damaged(draw, good):
    """Bytes with a few places cut out or overwritten; sometimes nothing but noise."""
    data = bytearray(draw(good))
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=60))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        data[place : place + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data)


def as_json(value) -> bytes:
    return json.dumps(value).encode()


def as_lines(value) -> bytes:
    return "\n".join(map(json.dumps, value)).encode()


def as_csv(value) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, [*FIELDS, "other"])
    writer.writeheader()
    for row in value:
        cells = {
            k: "|".join(v) if isinstance(v, list) and all(isinstance(x, str) for x in v) else v for k, v in row.items()
        }
        writer.writerow(cells)
    return out.getvalue().encode("utf-8", "surrogatepass")


def ours(function, *arguments, **options):
    """The result, or None after an error of ours that says something; anything else is let through."""
    try:
        return function(*arguments, **options)
    except eu.EditUnlearnError as error:
        assert len(str(error)) > 20
        return None


# ---------------------------------------------------------------- data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def check_split(file, name, data: bytes, n: int, source=None):
    file.write_bytes(data)
    split = ours(eu.load_split, name, n_forget=n, seed=0, source=source)
    if split is None:
        return
    assert len(split.forget) == n
    ids = [qa.id for qa in (*split.forget, *split.retain)]
    assert len(ids) == len(set(ids))
    for qa in (*split.forget, *split.retain, *split.rephrased):
        assert qa.question.strip() and qa.answer.strip() and (qa.subject is None or qa.subject in qa.question)
        (qa.id + qa.question + qa.answer + (qa.group or "")).encode()  # whatever is read can be written


@pytest.mark.parametrize(("ending", "written"), [("json", as_json), ("jsonl", as_lines), ("csv", as_csv)])
def test_load_split(folder, ending, written):
    @fuzz
    @given(st.data(), st.integers(0, 3))
    def check(data, n):
        content = data.draw(damaged(rows().map(written)))
        check_split(folder / f"own.{ending}", str(folder / f"own.{ending}"), content, n)

    check()


@pytest.mark.parametrize("name", ["pistol", "tofu-facts"])
def test_load_split_from_files_that_claim_to_be_official(folder, name):
    file = folder / ("sample_data_1.json" if name == "pistol" else "real_authors_perturbed.json")

    @fuzz
    @given(damaged(rows().map(as_json)))
    def check(data):
        check_split(file, name, data, 1, folder)

    check()


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
        b"[{" + b'"question": ' + b"9" * 5000 + b"}]",
        b"\xff\xfe[\x00",
        b"[" + b"[" * 900 + b"]" * 900 + b"]",
    ],
)
@pytest.mark.parametrize("ending", ["json", "jsonl", "csv"])
def test_files_made_to_break_a_reader(tmp_path, content, ending):
    file = tmp_path / f"own.{ending}"
    file.write_bytes(content)
    with pytest.raises(eu.DatasetError) as raised:
        eu.load_split(str(file), n_forget=1, seed=0)
    assert str(file) in str(raised.value) and len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    "name", ["a\0.json", "\udcff.json", "x" * 5000 + ".csv", ".json", "/", "nowhere.csv", "\ud83d"]
)
def test_names_of_data_that_cannot_be_read(name):
    with pytest.raises(eu.EditUnlearnError):
        eu.load_split(name, n_forget=1, seed=0)


# ---------------------------------------------------------------- patches


@pytest.fixture(scope="module")
def patches(folder):
    """A model and a patch of each kind on it: dense, of factors, a codebook, a side memory."""
    model, tokenizer = make_model(), make_tokenizer()
    quick = {
        "grace": {"layers": [2], "n_iter": 2},
        "wise": {"layers": [2], "n_iter": 2},
        "ga": {"num_epochs": 1},
        "memit": {"layers": [1], "v_num_grad_steps": 2},
    }
    identity = {layer: torch.eye(48) for layer in range(4)}
    for method, hparams in quick.items():
        options = {"covariance": identity} if method == "memit" else {}
        eu.unlearn(model, tokenizer, qas(2), method, hparams=hparams, progress=False, **options).save(folder / method)
    return model, folder


@st.composite
def changed(draw, document):
    """A JSON document with one value in it replaced or taken away."""
    document = copy.deepcopy(document)
    at = document
    for _ in range(draw(st.integers(0, 3))):
        keys = [
            k for k, v in (at.items() if isinstance(at, dict) else enumerate(at)) if isinstance(v, (dict, list)) and v
        ]
        if not keys:
            break
        at = at[draw(st.sampled_from(keys))]
    key = draw(st.sampled_from(list(at))) if isinstance(at, dict) else draw(st.integers(0, len(at) - 1))
    if draw(st.booleans()):
        at[key] = draw(VALUES)
    else:
        del at[key]
    return document


def usable(patch, model):
    """What can be asked of a patch without switching it on; then on and off, which a foreign one refuses."""
    assert patch.nbytes >= 0 and isinstance(patch.parameters, tuple) and repr(patch)
    assert all(isinstance(norm, float) for norm in patch.norms().values())

    def on():
        with patch.on(model):
            pass

    ours(on)


@pytest.mark.parametrize("method", ["ga", "memit", "grace", "wise"])
def test_load_patch(patches, method, tmp_path):
    model, folder = patches
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    document = json.loads((folder / method / "patch.json").read_text())
    tensors = (folder / method / "patch.safetensors").read_bytes()
    where = tmp_path / "patch"
    where.mkdir()

    @fuzz
    @given(st.data())
    def check(data):
        if data.draw(st.booleans()):
            (where / "patch.safetensors").write_bytes(tensors)
            (where / "patch.json").write_bytes(data.draw(damaged(changed(document).map(as_json))))
        else:
            (where / "patch.safetensors").write_bytes(data.draw(damaged(st.just(tensors))))
            digest = _sha256(where / "patch.safetensors")  # as one who means harm would write it
            (where / "patch.json").write_bytes(as_json(document | {"sha256": digest}))
        patch = ours(eu.load_patch, where)
        if patch is not None:
            usable(patch, model)

    check()
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


# ---------------------------------------------------------------- hyperparameters

CONFIG = SimpleNamespace(_name_or_path="pocket", pocket="base", num_hidden_layers=8)


@st.composite
def fields(draw):
    known = sorted(
        {name for method in METHODS.values() for name in method.config.__dataclass_fields__} | {"layer", "inner_params"}
    )
    names = st.one_of(st.sampled_from(known), st.sampled_from(sorted(WITHOUT_MEANING)), SCALARS)
    values = st.one_of(
        VALUES, st.sampled_from(["5e-1", "1e999", [1, 2], (3,), [], "model.layers[3].mlp.down_proj.weight", 1e308, -1])
    )
    return draw(st.dictionaries(names, values, max_size=3))


@fuzz
@given(st.sampled_from(sorted(METHODS)), fields())
def test_hparams_from_a_dict(method, given_fields):
    config = ours(resolve, method, CONFIG, given_fields)
    assert config is None or isinstance(config, METHODS[method].config)


def test_hparams_from_yaml(tmp_path):
    file = tmp_path / "h.yaml"

    @fuzz
    @given(
        st.sampled_from(sorted(METHODS)),
        st.one_of(
            damaged(fields().map(lambda f: yaml.dump(f, allow_unicode=True).encode("utf-8", "surrogatepass"))),
            st.text(st.sampled_from(list("{}[]:,-&*!?|>'\"%@# \n0123456789abeEtx.")), max_size=30).map(str.encode),
        ),
    )
    @example("memit", b"a: 2001-99-99")
    @example("memit", b"a: !!python/object/apply:os.system ['true']")
    @example("memit", b"[" * 5000)
    @example("memit", b"v_lr: " + b"9" * 5000)
    @example("memit", b"layers: 0b")
    def check(method, content):
        file.write_bytes(content)
        config = ours(resolve, method, CONFIG, file)
        assert config is None or isinstance(config, METHODS[method].config)

    check()


# ---------------------------------------------------------------- ratings

ITEMS = [dict.fromkeys(rating.ITEM, "x") | {"item": f"item{i}"} for i in range(4)]
RATING = {"item": "item0", "showing": 1, "forget_quality": 1, "entailment": 3, "trustworthiness": 2}


def test_read_items_and_go_on_with_them(tmp_path):
    @fuzz
    @given(damaged(changed(ITEMS).map(as_json)))
    def check(content):
        (tmp_path / "items.json").write_bytes(content)
        items = ours(rating.read_items, tmp_path)
        if items is not None:
            assert rating.Rater(tmp_path).current is not None

    check()


def test_a_raters_file(tmp_path):
    (tmp_path / "items.json").write_text(json.dumps(ITEMS))
    document = {
        "rater": "0123abcd",
        "consent": "…",
        "ratings": [RATING, RATING | {"item": "item1", "forget_quality": 0, "entailment": None}],
    }

    @fuzz
    @given(damaged(changed(document).map(as_json)))
    def check(content):
        (tmp_path / "ratings-0123abcd.json").write_bytes(content)
        rater = ours(rating.Rater, tmp_path, "0123abcd")
        file = ours(rating.export_csv, tmp_path, tmp_path / "out.csv")
        assert (rater is None) == (file is None)
        if file is not None and rater.ratings:
            assert not any(
                cell.startswith(("=", "+", "-", "@")) for cell in file.read_text().replace("\n", ",").split(",")
            )
            rating.analyse(rating.load_ratings(file, ITEMS), resamples=2)

    check()


def test_load_ratings(tmp_path):
    file, columns = tmp_path / "ratings.csv", ["rater", *RATING]
    cells = st.one_of(TEXTS, st.integers(-1, 7), st.floats(), st.just(10**400))

    @st.composite
    def tables(draw):
        out = io.StringIO(newline="")
        head = draw(st.one_of(st.just(columns), st.permutations([*columns, "method", "item"])))
        writer = csv.DictWriter(out, head, extrasaction="ignore")
        writer.writerow(dict(zip(head, head, strict=True)))
        for _ in range(draw(st.integers(0, 3))):
            row = {"rater": "0123abcd", **RATING, "method": "=x"}
            for name in draw(st.lists(st.sampled_from(columns), max_size=1)):
                row[name] = draw(cells)
            writer.writerow(row)
        return out.getvalue().encode("utf-8", "surrogatepass")

    @fuzz
    @given(damaged(tables()))
    def check(content):
        file.write_bytes(content)
        frame = ours(rating.load_ratings, file, ITEMS)
        if frame is not None and len(frame):
            assert set(frame["method"]) == {"x"}
            rating.analyse(frame, resamples=2)

    check()


# ---------------------------------------------------------------- the study

GRID = {"model": "pocket", "dataset": "factual", "method": ["base", "memit"], "n_forget": 2, "seed": [0, 1]}


@fuzz
@given(changed(GRID), st.dictionaries(st.sampled_from(list(study.Cell.__dataclass_fields__)), VALUES, max_size=2))
def test_grids(grid, more):
    found = ours(study.cells, grid | more)
    assert found is None or all(isinstance(cell, study.Cell) for cell in found)


@pytest.fixture(scope="module")
def cell():
    document = {
        "cell": dict(study.Cell("pocket", "factual", "base", 2).__dict__),
        "identity": {"schema": study.SCHEMA},
        "info": {"schema": study.SCHEMA, "patch": {}},
        "records": {"schema": [3, 3], "id": ["a", "b"], "set": ["forget", "retain"], "rouge1_recall": [0.0, 1.0]},
    }
    return document


def test_stored_cells(cell, tmp_path):
    file = tmp_path / "cell.json"

    @fuzz
    @given(damaged(changed(cell).map(as_json)))
    def check(content):
        file.write_bytes(content)
        document = ours(study.read, file)
        frame = ours(study.get, file)
        assert document is not None or frame is None

    check()


def test_a_cell_that_is_not_there(tmp_path):
    with pytest.raises(eu.StoreError):
        study.read(tmp_path / "nowhere.json")


def test_the_strategies_reach_what_is_right():
    """A fuzzer that only makes rubbish tests the first line of each loader."""
    seen = []

    @settings(fuzz, max_examples=100)
    @given(rows())
    def check(made):
        assume(made)
        seen.append(all(isinstance(row.get("question"), str) for row in made))

    check()
    assert sum(seen) > 20


@pytest.mark.slow
def test_ten_thousand_inputs():
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", __file__],
        env={**os.environ, "EDITUNLEARN_FUZZ": "10000"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-8000:]
