"""Covariances: which texts, which keys, the cache, and AlphaEdit's projector."""

import dataclasses
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor

import huggingface_hub
import pandas as pd
import pytest
import torch
from conftest import FAMILIES_TO_ASK, make_model, make_tokenizer
from safetensors.torch import load_file, save_file

import editunlearn_lib as eu
from editunlearn_lib import covariance, data
from editunlearn_lib.covariance import hub_source, named_source, text_source
from editunlearn_lib.data.texts import untokenised
from editunlearn_lib.methods import moments
from editunlearn_lib.methods.moments import null_space
from editunlearn_lib.methods.registry import Request
from editunlearn_lib.models import down

TEXTS = ("What is the capital of Testland?", "Well, it was Ada.", "Therefore. " * 20)
LONG = [f"Paragraph number {i} " + "has many words of no great meaning " * 9 for i in range(12)]


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(moments, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def by_hand(model, tokenizer, texts, layer):
    ks = []
    handle = down(model, layer).register_forward_hook(lambda _, inputs, __: ks.append(inputs[0][0].double()))
    with torch.no_grad():
        for text in texts:
            model(input_ids=tokenizer(text, return_tensors="pt")["input_ids"])
    handle.remove()
    k = torch.cat(ks)
    return k.T @ k / len(k)


# ---------------------------------------------------------------- C


@pytest.mark.parametrize("family", FAMILIES_TO_ASK)
def test_batches_do_not_change_the_matrix(cache, monkeypatch, family):
    model, tokenizer = make_model(family), make_tokenizer()
    for tokens in (1, 60, 4_096):  # one text a batch, some, all
        monkeypatch.setattr(moments, "BATCH_TOKENS", tokens)
        found = moments.key_moments(model, tokenizer, ("", *TEXTS), [2, 1], False)
        for layer, (total, n) in found.items():
            assert total.dtype == torch.float64
            C = by_hand(model, tokenizer, TEXTS, layer)
            scale = C.diagonal().sqrt()  # an entry that is 0 by chance is as exact as the keys are long
            assert ((total / n - C).abs() <= 1e-5 * scale[:, None] * scale).all()


def test_batches_stay_near_their_size(monkeypatch):
    monkeypatch.setattr(moments, "BATCH_TOKENS", 100)
    texts = ["a" * length for length in (3, 300, 30, 9, 60, 900)]
    batches = list(moments._batches(texts))
    assert sorted(sum(batches, [])) == sorted(texts)
    assert all(len(b) == 1 or len(b) * (len(b[-1]) // 3 + 8) <= 100 for b in batches)
    assert len(batches[0]) > 1


def test_a_text_longer_than_the_context_is_cut(cache):
    model, tokenizer = make_model("gpt2"), make_tokenizer()
    text_source(["word " * 2000]).matrices(model, tokenizer, [1], show=False)


def test_subject_keys_take_their_share(cache, tiny):
    model, tokenizer = tiny
    requests = (Request(("q",), "What is the capital of Testland?", "", ("Testland",)),)

    def matrix(share):
        return eu.CovarianceSource("x", TEXTS, requests, share).matrices(model, tokenizer, [1], show=False)[1]

    plain, half, all_of_it = matrix(0.0), matrix(0.5), matrix(1.0)
    assert torch.equal(plain, text_source(TEXTS).matrices(model, tokenizer, [1], show=False)[1])
    torch.testing.assert_close(half, (plain + all_of_it) / 2)
    assert torch.linalg.matrix_rank(all_of_it) == 1
    with pytest.raises(eu.RequestError, match="subject_share"):
        eu.CovarianceSource("x", TEXTS, requests, 1.5)


@pytest.mark.parametrize("texts", [(), ("", " ")])
def test_no_texts(cache, tiny, texts):
    with pytest.raises(eu.DatasetError, match="no texts"):
        text_source(texts).matrices(*tiny, [1])
    with pytest.raises(eu.DatasetError, match="list"):
        text_source("one text")


# ---------------------------------------------------------------- the cache


def test_what_the_cache_tells_apart(cache, tiny):
    model, tokenizer = tiny
    requests = (Request(("q",), "What is the capital of Testland?", "", ("Testland",)),)

    def files():
        return {str(path.relative_to(cache)) for path in cache.rglob("*.safetensors")}

    text_source(TEXTS).matrices(model, tokenizer, [1], show=False)
    seen = files()
    assert len(seen) == 1 and "float32" in seen.pop() and all(p.name == "1.safetensors" for p in cache.rglob("*.s*"))
    text_source(TEXTS, "another name").matrices(model, tokenizer, [1], prompt_format="raw", show=False)
    assert len(files()) == 1  # neither changes the keys of plain texts
    others = (
        lambda: text_source(TEXTS).matrices(model, tokenizer, [2], show=False),
        lambda: text_source(TEXTS[:2]).matrices(model, tokenizer, [1], show=False),
        lambda: text_source(TEXTS).matrices(make_model(seed=1), tokenizer, [1], show=False),
        lambda: text_source(TEXTS).matrices(make_model().bfloat16(), tokenizer, [1], show=False),
        lambda: eu.CovarianceSource("x", TEXTS, requests, 0.5).matrices(model, tokenizer, [1], show=False),
        lambda: eu.CovarianceSource("x", TEXTS, requests, 0.4).matrices(model, tokenizer, [1], show=False),
        lambda: eu.CovarianceSource("x", TEXTS, requests, 0.4).matrices(
            model, tokenizer, [1], fact_token="prompt_last", show=False
        ),
    )
    for run in others:
        before = files()
        run()
        assert len(files()) == len(before) + 1


@pytest.mark.parametrize("harm", ["truncated", "empty", "other shape", "other name", "not finite"])
def test_a_broken_file_is_computed_again(cache, tiny, caplog, harm):
    source = text_source(TEXTS)
    before = source.matrices(*tiny, [1, 2], show=False)
    path = next(cache.rglob("1.safetensors"))
    if harm == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "empty":
        path.write_bytes(b"")
    else:
        wrong = {"other shape": torch.eye(3).double(), "not finite": before[1] / 0}.get(harm, before[1])
        save_file({"X" if harm == "other name" else "C": wrong}, path)
    with caplog.at_level(logging.WARNING):
        after = source.matrices(*tiny, [1, 2], show=False)
    assert [r.message for r in caplog.records if str(path) in r.message]
    torch.testing.assert_close(after[1], before[1])
    assert torch.equal(load_file(path)["C"], after[1])


def test_a_cache_that_cannot_be_written_is_no_error(tiny, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(moments, "CACHE", tmp_path / "file")
    assert text_source(TEXTS).matrices(*tiny, [1], show=False)[1].shape == (48, 48)
    assert null_space(torch.diag(torch.tensor([0.0, 1.0])), 0.5).shape == (2, 2)


def test_several_at_once(cache):
    C = torch.diag(torch.tensor([0.0, 1.0]))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: null_space(C, 0.5), range(16)))
    assert all(torch.equal(P, found[0]) for P in found)
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 1


def test_nothing_half_written_is_left(cache, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    null_space(torch.diag(torch.tensor([0.0, 1.0])), 0.5)
    assert not [path for path in cache.rglob("*") if path.is_file()]


# ---------------------------------------------------------------- AlphaEdit's projector


def test_null_space(cache, monkeypatch):
    torch.manual_seed(0)
    K0 = torch.randn(12, 5, dtype=torch.float64)  # keys to be kept span 5 of 12 dimensions
    C = K0 @ K0.T / 5 + 1e-4 * torch.eye(12)
    P = null_space(C, 1e-2)
    assert P.dtype == torch.float64 and P.shape == (12, 12)
    assert torch.equal(P, P.T)
    torch.testing.assert_close(P @ P, P)
    assert (P @ K0).norm() < 1e-8 * K0.norm()
    assert round(P.trace().item()) == 7
    monkeypatch.setattr(torch.linalg, "eigh", None)  # now it can only be read
    assert torch.equal(null_space(C, 1e-2), P)
    assert torch.equal(null_space(C.clone(), 0.01), P)
    for other in ((C, 1e-3), (C + 1e-9, 1e-2)):
        with pytest.raises(TypeError):  # another matrix or threshold is another file
            null_space(*other)


def test_null_space_that_is_not_there(cache):
    with pytest.raises(eu.RequestError, match=r"0\.02.*smallest is 1"):
        null_space(torch.eye(3), 0.02)
    with pytest.raises(eu.RequestError, match="square"):
        null_space(torch.zeros(2, 3), 0.02)
    with pytest.raises(eu.RequestError, match="finite"):
        null_space(torch.full((2, 2), torch.inf), 0.02)
    assert not list(cache.rglob("*.safetensors"))


def test_null_space_from_a_broken_file(cache, caplog):
    C = torch.diag(torch.tensor([0.0, 1e-3, 5.0]))
    P = null_space(C, 0.02)
    (path,) = cache.rglob("*.safetensors")
    path.write_bytes(b"not a matrix")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(null_space(C, 0.02), P)
    assert "computed again" in caplog.text
    assert torch.equal(load_file(path)["P"], P)


# ---------------------------------------------------------------- which texts and keys


class Pocket:
    class config:
        pocket = "base"


def test_named_sources(tiny):
    both, plain = (named_source(name, Pocket, None, 5) for name in ("corpus+subjects", "corpus"))
    assert named_source("default", Pocket, None, 5) == both != plain
    for name in ("corpus", "corpus+subjects"):
        with pytest.raises(eu.RequestError, match="wikitext"):
            named_source(name, *tiny)
    with pytest.raises(eu.UnknownNameError, match="'corpus'"):
        named_source("corpse", *tiny)


def test_describe_tells_sources_apart():
    both = named_source("corpus+subjects", Pocket, None, 5)
    sources = (
        both,
        named_source("corpus+subjects", Pocket, None, 6),
        named_source("corpus", Pocket, None, 5),
        dataclasses.replace(both, subject_share=0.1),
        text_source(["a", "b"]),
        text_source(["ab"]),
        text_source(["b", "a"]),
    )
    assert len({source.describe()["digest"] for source in sources}) == len(sources)
    told = both.describe()
    assert json.loads(json.dumps(told)) == told and told["texts"] == 5


def test_without_the_hub_the_default_says_what_it_takes(tiny, caplog):
    with pytest.raises(eu.DatasetError, match=r"wikitext.*source="):
        hub_source(5)
    with pytest.raises(eu.DatasetError, match="wikitext"):  # asked for by name: nothing else will do
        named_source("wikitext", *tiny, 5)
    with caplog.at_level(logging.WARNING, "editunlearn_lib"):
        source = named_source("default", *tiny, 5)
    (record,) = [r for r in caplog.records if r.name.startswith("editunlearn_lib")]
    assert "built-in statements" in record.message and "text_source(texts)" in record.message
    assert source.describe()["name"] == "built-in statements" and len(source.texts) == 5


def test_built_in_statements_are_of_no_scored_fact():
    answers = {qa.id: qa for rows in data.factual() for qa in rows}
    told = " ".join(covariance.statement_source(300).texts)
    statements = {s for fact in data.facts() if fact.id in answers for s in fact.statements}
    assert not [s for s in statements if s in told]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "txt", "folder"])
def test_local_texts(tmp_path, kind):
    rows = ["", " = Heading = \n", *LONG]
    path = tmp_path / f"train.{'parquet' if kind == 'folder' else kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps({"text": row}) for row in rows), encoding="utf-8")
    elif kind == "txt":
        path.write_text("\n".join(row.strip() for row in rows), encoding="utf-8")
    else:
        pd.DataFrame({"text": rows}).to_parquet(path)
    (tmp_path / "README.md").write_text("not a text")
    source = hub_source(10, source=tmp_path if kind == "folder" else path)
    assert len(set(source.texts)) == 10 and set(source.texts) <= {text.strip() for text in LONG}
    assert source.texts == hub_source(12, source=path).texts[:10] != hub_source(10, seed=1, source=path).texts
    assert str(tmp_path) in source.describe()["name"]
    with pytest.raises(eu.DatasetError, match="12 paragraphs of at least 50 words"):
        hub_source(13, source=path)


def test_local_texts_that_cannot_be_used(tmp_path):
    def refused(name, content, match):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(eu.DatasetError, match=match):
            hub_source(1, source=path)

    refused("a.jsonl", b'{"text": "x"}\n{"words": "x"}', r"a\.jsonl, row 2: the field 'text'")
    refused("b.jsonl", b'{"text": "x"}\n{"text"', r"b\.jsonl, line 2")
    refused("c.parquet", b"nonsense", r"c\.parquet': cannot be read as parquet")
    refused("d.txt", b"\xff\xfe\xfa", r"d\.txt': cannot be read as UTF-8 text")
    refused("e.csv", b"text", r"e\.csv: texts are read from")
    with pytest.raises(eu.DatasetError, match="no such file"):
        hub_source(1, source=tmp_path / "missing.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(eu.DatasetError, match="in this folder"):
        hub_source(1, source=tmp_path / "empty")


def test_wikitext_is_read_from_one_file_of_a_fixed_revision(monkeypatch, tmp_path):
    calls = []

    def download(*args, **options):
        calls.append((args, options))
        pd.DataFrame({"text": LONG}).to_parquet(tmp_path / "train.parquet")
        return str(tmp_path / "train.parquet")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    source = hub_source(3)
    ((args, options),) = calls
    assert args[0] == "Salesforce/wikitext" and args[1].startswith("wikitext-2-raw-v1/train")
    assert len(options["revision"]) == 40 and options["repo_type"] == "dataset"
    assert len(source.texts) == 3 and source.describe()["name"].startswith(f"hub:{args[0]}/{args[1]}@")


def test_spaces_of_wikitext_are_undone():
    raw = " The game 's 1 @,@ 000 fans ( a well @-@ known lot ) paid $ 2 @.@ 5 , or 3 % ; they did n't mind . \n"
    told = "The game's 1,000 fans (a well-known lot) paid $2.5, or 3%; they didn't mind."
    assert untokenised(raw) == told
