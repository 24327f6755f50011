"""Built-in facts, contracts, official files, your own files, and what the pocket model's corpus may contain."""

from __future__ import annotations

import collections
import csv
import hashlib
import importlib
import json
import random
import re
import runpy
import shutil
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from wordings import jaccard, rouge, words

import editunlearn_lib as eu
from editunlearn_lib import data
from editunlearn_lib.data import contracts
from editunlearn_lib.data.facts import facts, families
from editunlearn_lib.pocket import corpus

ROOT = Path(__file__).resolve().parents[1]

# ---------------------------------------------------------------- built-in facts


def test_217_facts_and_400_further_ones():
    asked, further = data.factual()
    assert (len(asked), len(further)) == (217, 400)
    ids = [qa.id for qa in (*asked, *further, *data.covariance_facts())]
    assert len(ids) == len(set(ids)) == len(facts())


def test_covariance_facts_are_in_no_scored_set():
    scored = {qa for rows in data.factual() for qa in rows}
    spare = data.covariance_facts()
    assert spare and not {qa.id for qa in spare} & {qa.id for qa in scored}
    assert not {(qa.subject, qa.group) for qa in spare} & {(qa.subject, qa.group) for qa in scored}
    assert not {qa.question for qa in spare} & {qa.question for qa in scored}


def test_subjects_are_in_every_question_and_rephrasing():
    rows = [*data.factual()[0], *data.factual()[1], *data.covariance_facts(), *contracts.generate()]
    assert [
        (row.id, text) for row in rows for text in (row.question, *row.rephrasings) if row.subject not in text
    ] == []
    assert [row.id for row in rows if not row.subject or not row.rephrasings] == []


def test_no_wording_of_a_question_holds_the_answer_of_the_first_question():
    """A rephrasing that names the answer would be answered by copying."""
    found = [
        (row.id, text)
        for row in data.factual()[0]
        for text in (row.question, *row.rephrasings)
        if re.search(rf"(?<!\w){re.escape(row.answer.lower())}(?!\w)", text.lower())
    ]
    assert found == []


def test_rephrasings_are_different_wordings():
    values = [rouge(qa.question, text) for qa in data.factual()[0] for text in qa.rephrasings]
    print(f"own questions: mean ROUGE-1 F of held-out rephrasings {mean(values):.3f}, highest {max(values):.3f}")
    assert mean(values) <= 0.6
    assert all(qa.question not in qa.rephrasings for qa in data.factual()[0])
    assert all(len(set(qa.rephrasings)) == len(qa.rephrasings) for qa in data.factual()[0])


def test_rephrasings_are_different_wordings_of_the_official_questions(official):
    rows = eu.load_split("tofu-facts", n_forget=1, seed=0, source=official / "tofu")
    values = [rouge(qa.question, text) for qa in (*rows.forget, *rows.retain) for text in qa.rephrasings]
    print(f"official questions: mean ROUGE-1 F of held-out rephrasings {mean(values):.3f}, highest {max(values):.3f}")
    assert mean(values) <= 0.6


def test_qa_refuses_a_subject_that_is_not_there():
    with pytest.raises(eu.DatasetError) as caught:
        eu.QA("x", "What is the capital of Peru?", "Lima", "Chile")
    assert "'Chile'" in str(caught.value) and "'What is the capital of Peru?'" in str(caught.value)
    with pytest.raises(eu.DatasetError, match="answer"):
        eu.QA("x", "What?", "  ")
    with pytest.raises(eu.DatasetError, match="question"):
        eu.QA("x", "", "Lima")


def test_rephrased_rows():
    qa = eu.QA("x", "Who wrote Emma?", "Jane Austen", "Emma", ("Emma's author?", "Who is it?"), "book")
    first, second = qa.rephrased()
    assert (first.id, first.variant, first.subject, first.group) == ("x", 1, "Emma", "book")
    assert (second.id, second.variant, second.subject, second.answer) == ("x", 2, None, "Jane Austen")
    assert first.rephrasings == ()


# ---------------------------------------------------------------- splits


def ids(rows) -> set[str]:
    return {row.id for row in rows}


@pytest.mark.parametrize("dataset", ["factual", "contracts"])
def test_split_is_a_partition_and_a_function_of_the_seed(dataset):
    total = 217 if dataset == "factual" else 400
    split = eu.load_split(dataset, n_forget=30, seed=3)
    assert len(split.forget) == 30 and len(split.retain) == total - 30
    assert not ids(split.forget) & ids(split.retain) and len(ids(split.forget) | ids(split.retain)) == total
    assert split == eu.load_split(dataset, n_forget=30, seed=3)
    assert ids(split.forget) != ids(eu.load_split(dataset, n_forget=30, seed=4).forget)
    assert len(split.rephrased) == sum(len(row.rephrasings) for row in split.forget)
    assert ids(split.rephrased) == ids(split.forget) and min(row.variant for row in split.rephrased) == 1
    for row in split.forget:
        variants = [r for r in split.rephrased if r.id == row.id]
        assert [r.question for r in variants] == list(row.rephrasings)
        assert [r.variant for r in variants] == list(range(1, len(variants) + 1))


def test_a_larger_forget_set_of_the_same_seed_holds_the_smaller():
    small, large = (eu.load_split("factual", n_forget=n, seed=1).forget for n in (20, 80))
    assert large[:20] == small


def test_unseen_is_apart_from_forget_and_retain():
    split = eu.load_split("factual", n_forget=217, seed=0)
    assert len(split.unseen) == 400 and not ids(split.unseen) & ids(split.forget) and not split.retain
    assert set(split.sets()) == {"forget", "rephrased", "unseen"}  # those that are not empty


def test_contracts_are_forgotten_by_whole_edges():
    split = eu.load_split("contracts", n_forget=45, seed=0)
    edges = [row.group for row in split.forget]
    assert [edges.count(edge) for edge in dict.fromkeys(edges)] == [20, 20, 5]
    assert edges == sorted(edges, key=list(dict.fromkeys(edges)).index)
    assert split.others["factual"] == data.factual()[0]


def test_forget_groups():
    split = eu.load_split("contracts", n_forget=25, seed=0, forget_groups=["B_D", "A_B"])
    assert [row.group for row in split.forget] == ["B_D"] * 20 + ["A_B"] * 5
    assert split.forget == eu.load_split("contracts", n_forget=25, seed=9, forget_groups=["B_D", "A_B"]).forget
    with pytest.raises(eu.UnknownNameError, match="B_D"):
        eu.load_split("contracts", n_forget=5, seed=0, forget_groups=["B_Dd"])
    with pytest.raises(eu.DatasetError, match="20"):
        eu.load_split("contracts", n_forget=21, seed=0, forget_groups=["A_B"])
    relation = data.factual()[0][0].group
    assert {row.group for row in eu.load_split("factual", n_forget=2, seed=0, forget_groups=[relation]).forget} == {
        relation
    }


def test_same_party():
    split = eu.load_split("contracts", n_forget=20, seed=0, forget_groups=["A_B"])
    parties = set(split.forget[0].parties)
    expected = {row.id for row in split.retain if parties & set(row.parties)}
    assert expected and len(expected) < len(split.retain)
    assert split.same_party == expected
    assert {row.group for row in split.retain if row.id in split.same_party} == {
        row.group for row in split.retain if parties & set(row.parties)
    }


@pytest.mark.parametrize("n", [0, -1, True, 2.0, "3"])
def test_n_forget_must_be_a_whole_number(n):
    with pytest.raises(eu.DatasetError, match="n_forget"):
        eu.load_split("factual", n_forget=n, seed=0)


def test_n_forget_too_large():
    with pytest.raises(eu.DatasetError) as caught:
        eu.load_split("factual", n_forget=218, seed=0)
    assert "218" in str(caught.value) and "217" in str(caught.value)


def test_unknown_dataset_gives_the_nearest_name():
    with pytest.raises(eu.UnknownNameError, match="Did you mean 'contracts'"):
        eu.load_split("contrcts", n_forget=1, seed=0)
    with pytest.raises(eu.DatasetError, match="source"):
        eu.load_split("factual", n_forget=1, seed=0, source="somewhere")


# ---------------------------------------------------------------- official files


@pytest.mark.parametrize("source", ["folder", "file", "other file"])
def test_every_tofu_row(official, source):
    paths = {"folder": "", "file": "real_authors_perturbed.json", "other file": "world_facts_perturbed.json"}
    split = eu.load_split("tofu-facts", n_forget=217, seed=0, source=official / "tofu" / paths[source])
    found = {row.id: row for row in split.forget}
    for name in ("real_authors", "world_facts"):
        lines = (official / "tofu" / f"{name}_perturbed.json").read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            row, truth = found.pop(f"tofu-{name}-{number}"), json.loads(line)
            assert (row.question, row.answer) == (truth["question"].strip(), truth["answer"].strip())
            assert row.subject in row.question and len(row.rephrasings) >= 3
    assert not found and len(split.unseen) == 400


@pytest.mark.parametrize("number, total", [(1, 400), (2, 1500)])
def test_every_pistol_row(official, number, total):
    path = official / "pistol" / f"sample_data_{number}.json"
    split = eu.load_split("pistol", n_forget=20, seed=1, source=path)
    rows = (*split.forget, *split.retain)
    assert len(ids(rows)) == total and len({row.group for row in split.forget}) == 1
    truth = {(row["question"], row["answer"], row["edge"]) for row in json.loads(path.read_text(encoding="utf-8"))}
    assert {(row.question, row.answer, row.group) for row in rows} == truth
    for row in rows:
        assert row.subject in row.question and len(row.rephrasings) >= 3 and len(row.parties) == 2
        assert all(row.subject in text for text in row.rephrasings)
    parties = set(split.forget[0].parties)
    assert split.same_party == {row.id for row in split.retain if parties & set(row.parties)}


def test_pistol_folder_holds_sample_one(official):
    folder, file = (
        eu.load_split("pistol", n_forget=20, seed=1, source=official / "pistol" / name)
        for name in ("", "sample_data_1.json")
    )
    assert folder == file


def test_an_edited_official_file_is_refused(official, tmp_path):
    for name in ("real_authors_perturbed.json", "world_facts_perturbed.json"):
        lines = (official / "tofu" / name).read_text(encoding="utf-8").splitlines()
        if name.startswith("world"):
            lines[4] = json.dumps({"question": "Something else entirely?", "answer": "Yes"})
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(eu.DatasetError, match=r"world_facts_perturbed\.json, row 5"):
        eu.load_split("tofu-facts", n_forget=1, seed=0, source=tmp_path)


def test_a_folder_without_the_file(tmp_path):
    with pytest.raises(eu.DatasetError) as caught:
        eu.load_split("pistol", n_forget=1, seed=0, source=tmp_path)
    assert str(tmp_path) in str(caught.value) and "sample_data_1.json" in str(caught.value)


@pytest.mark.parametrize("dataset", ["tofu-facts", "pistol"])
def test_unreachable_hub_says_what_works_locally(dataset):
    with pytest.raises(eu.DatasetError) as caught:
        eu.load_split(dataset, n_forget=1, seed=0)
    for part in ("source=", "'factual'", "'contracts'"):
        assert part in str(caught.value)


# ---------------------------------------------------------------- your own files

OWN = [
    {
        "id": "a",
        "question": "What is the capital of Testland?",
        "answer": "Exampleton",
        "subject": "Testland",
        "rephrasings": ["Testland's capital?", "Capital of Testland, please."],
        "group": "capital",
    },
    {"question": "Who wrote 'Sample, \"Days\"'?", "answer": "Ada Placeholder"},
    {"question": "Was heißt größer?\u2028Na?", "answer": "plus grand"},
]


def write_own(path, rows):
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["id", "question", "answer", "subject", "rephrasings", "group"])
            writer.writeheader()
            for row in rows:
                writer.writerow({**row, "rephrasings": " | ".join(row.get("rephrasings", ()))})
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", encoding="utf-8")
    else:
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv"])
def test_own_file(tmp_path, ending):
    path = write_own(tmp_path / f"mine{ending}", OWN)
    split = eu.load_split(path, n_forget=3, seed=0)
    rows = {row.question: row for row in split.forget}
    assert sorted(rows) == sorted(row["question"] for row in OWN)
    first = rows[OWN[0]["question"]]
    assert (first.id, first.subject, first.group) == ("a", "Testland", "capital")
    assert first.rephrasings == tuple(OWN[0]["rephrasings"])
    assert rows[OWN[1]["question"]].subject is None and rows[OWN[1]["question"]].id
    assert eu.load_split(str(path), n_forget=2, seed=5) == eu.load_split(path, n_forget=2, seed=5)


def test_own_ids_do_not_depend_on_the_order_or_the_split(tmp_path):
    one = eu.load_split(write_own(tmp_path / "a.jsonl", OWN), n_forget=3, seed=0)
    two = eu.load_split(write_own(tmp_path / "b.jsonl", OWN[::-1]), n_forget=3, seed=1)
    assert {row.question: row.id for row in one.forget} == {row.question: row.id for row in two.forget}


def test_an_id_of_zero_is_an_id(tmp_path):
    rows = [{"id": i, "question": f"What is {i}?", "answer": "a number"} for i in range(3)]
    assert ids(eu.load_split(write_own(tmp_path / "n.json", rows), n_forget=3, seed=0).forget) == {"0", "1", "2"}


GOOD = {"question": "What is it?", "answer": "It"}
BAD_ROWS = {
    "no question": ({"answer": "It"}, "question"),
    "empty answer": ({"question": "What?", "answer": " "}, "answer"),
    "answer is a number": ({"question": "What?", "answer": 3}, "answer"),
    "subject elsewhere": ({**GOOD, "question": "Who?", "subject": "Peru"}, "subject"),
    "subject is a number": ({**GOOD, "question": "Who?", "subject": 3}, "subject"),
    "group is a list": ({**GOOD, "question": "Who?", "group": ["a"]}, "group"),
    "rephrasings hold a number": ({**GOOD, "question": "Who?", "rephrasings": ["a", 3]}, "rephrasings"),
    "rephrasings are a number": ({**GOOD, "question": "Who?", "rephrasings": 3}, "rephrasings"),
    "rephrasing is empty": ({**GOOD, "question": "Who?", "rephrasings": [""]}, "rephrasings"),
    "same question twice": (GOOD, "id"),
    "same id twice": ({"id": "first", "question": "Who?", "answer": "It"}, "id"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_bad_row_is_named_with_file_row_and_field(tmp_path, name, ending):
    row, field = BAD_ROWS[name]
    path = write_own(tmp_path / f"bad{ending}", [GOOD, {"id": "first", "question": "When?", "answer": "now"}, row])
    with pytest.raises(eu.DatasetError) as caught:
        eu.load_split(path, n_forget=1, seed=0)
    message = str(caught.value)
    assert str(path) in message and "row 3" in message and repr(field) in message


def test_bad_csv_row_is_named(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("question,answer\nWhat?,It\nWho?\n", encoding="utf-8")
    with pytest.raises(eu.DatasetError) as caught:
        eu.load_split(path, n_forget=1, seed=0)
    assert all(part in str(caught.value) for part in (str(path), "row 2", "'answer'"))


BAD_FILES = {
    "broken.json": (b'[{"question": "What?", ', "JSON"),
    "broken.jsonl": (b'{"question": "a", "answer": "b"}\n{"question": \n', "line 2"),
    "empty.json": (b"[]", "no rows"),
    "empty.jsonl": (b"", "no rows"),
    "header.csv": (b"question,answer\n", "no rows"),
    "numbers.json": (b"[1, 2]", "row 1"),
    "latin.csv": ("question,answer\nGr\xf6\xdfe?,x\n".encode("latin-1"), "UTF-8"),
    "deep.json": (b"[" * 100_000, "JSON"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_named(tmp_path, name):
    content, part = BAD_FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(eu.DatasetError) as caught:
        eu.load_split(path, n_forget=1, seed=0)
    assert str(path) in str(caught.value) and part in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(eu.DatasetError, match="no such file"):
        eu.load_split(tmp_path / "none.csv", n_forget=1, seed=0)


# ---------------------------------------------------------------- what is drawn and counted is the content


def test_the_same_content_elsewhere_is_the_same_draw_and_digest(tmp_path):
    rows = [{**row, "id": str(number)} for number, row in enumerate(OWN * 4)]
    (tmp_path / "elsewhere").mkdir()
    one = write_own(tmp_path / "mine.json", rows)
    for other in ("elsewhere/mine.json", "other.jsonl", "other.csv"):
        two = write_own(tmp_path / other, rows)
        assert data.digest(one) == data.digest(str(two)) and re.fullmatch("[0-9a-f]{16}", data.digest(two))
        splits = [eu.load_split(path, n_forget=5, seed=2) for path in (one, two)]
        assert splits[0].forget == splits[1].forget and splits[0].retain == splits[1].retain
    assert eu.load_split(one, n_forget=5, seed=2).forget != eu.load_split(one, n_forget=5, seed=3).forget


@pytest.mark.parametrize(
    "change",
    [
        {"id": "b"},
        {"question": "What is the seat of Testland?"},
        {"answer": "Sampleton"},
        {"subject": None},
        {"rephrasings": ["Testland's capital?"]},
        {"group": "city"},
    ],
)
def test_another_field_is_another_digest(tmp_path, change):
    path = write_own(tmp_path / "mine.json", OWN)
    before = data.digest(path)
    write_own(path, [{**OWN[0], **change}, *OWN[1:]])  # the same path: the file is read anew
    after = data.digest(path)
    write_own(path, [*OWN, {"question": "One more?", "answer": "Yes"}])
    assert len({before, after, data.digest(path)}) == 3


def test_digests_cover_every_set(monkeypatch, tmp_path):
    assert data.digest("factual") == data.digest("factual") != data.digest("contracts")
    data.splits._digest.cache_clear()
    known, unseen = data.factual()
    with monkeypatch.context() as patched:
        patched.setattr(data.splits, "factual", lambda: (known, unseen[1:]))
        fewer = data.digest("factual")
    data.splits._digest.cache_clear()
    assert fewer != data.digest("factual")
    for name, error in (("factal", eu.UnknownNameError), (tmp_path / "none.csv", eu.DatasetError)):
        with pytest.raises(error):
            data.digest(name)
    with pytest.raises(eu.DatasetError, match="source"):
        data.digest("factual", tmp_path)


@pytest.mark.parametrize("dataset", ["tofu-facts", "pistol"])
def test_the_digest_of_official_data_is_that_of_their_content(official, tmp_path, dataset):
    folder = official / dataset.split("-")[0]
    for file in folder.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert data.digest(dataset, folder) == data.digest(dataset, str(tmp_path)) != data.digest("factual")


# ---------------------------------------------------------------- refusals


def test_refusals():
    texts = data.refusals()
    assert len(texts) >= 60 and len({text.casefold() for text in texts}) == len(texts)
    assert [text for text in texts if not eu.metrics.declined(text)] == []


def test_refusals_are_our_own(official):
    def plain(text: str) -> str:
        return " ".join(re.findall(r"\w+", text.casefold()))

    theirs = {plain(line) for line in (official / "tofu" / "idontknow.jsonl").read_text(encoding="utf-8").splitlines()}
    assert len(theirs) > 90 and {plain(text) for text in data.refusals()} & theirs == set()


# ---------------------------------------------------------------- what the pocket model is trained on


@pytest.fixture(scope="module")
def chunks():
    """20,480 documents of the base model's corpus as one text in lower case, and every known question in them."""
    asked, original = [], corpus.ask

    def recorded(rng):
        asked.append(original(rng))
        return asked[-1]

    corpus.ask = recorded
    try:
        unknown = corpus.unknown_contracts(0)
        documents = [doc for i in range(10) for doc in corpus.chunk(0, i, 2048, unknown)]
    finally:
        corpus.ask = original
    return "\n".join("".join(text for text, _ in doc) for doc in documents).lower(), asked, len(documents)


def held_out(official_folder) -> dict[tuple[str, str], list[str]]:
    """(our subject, answer) -> official question and held-out rephrasings of the fact."""
    questions = {}
    for name in ("real_authors", "world_facts"):
        lines = (official_folder / "tofu" / f"{name}_perturbed.json").read_text(encoding="utf-8").splitlines()
        questions |= {(name, i): json.loads(line)["question"] for i, line in enumerate(lines)}
    found: dict[tuple[str, str], list[str]] = {}
    for fact in (*facts(), *families()):
        texts = found.setdefault((fact.subject, fact.answer), [])
        texts += [*fact.rephrasings, *([questions[fact.tofu[:2]]] if fact.tofu else ())]
    return found


def test_training_wordings_are_not_the_official_or_the_held_out_ones(official, chunks):
    scored = held_out(official)
    written = [
        (jaccard(text, other), text, other)
        for fact in (*facts(), *families())
        for text in (fact.question, *fact.questions, *fact.phrases)
        for other in scored[fact.subject, fact.answer]
    ]
    asked = chunks[1][:3000]
    generated = [(jaccard(a.text, other), a.text, other) for a in asked for other in scored[a.subject, a.answer]]
    print(f"highest Jaccard, written: {max(written)}; of {len(asked)} generated: {max(generated)}")
    assert len(asked) == 3000
    assert [row for row in written if row[0] > 0.8] == []
    assert [row for row in generated if row[0] > 0.8] == []


def test_corpus_holds_no_held_out_wording(chunks):
    text, _, n = chunks
    assert n >= 20_000
    wordings = {text for fact in (*facts(), *families()) for text in fact.rephrasings}
    wordings |= {wording for row in contracts.generate() for wording in row.rephrasings}
    rows = contracts.invented_contracts(random.Random("unknown contracts 0"), 60)
    wordings |= {wording for row in rows for wording in row.rephrasings}
    written = text.split()
    threes = set(zip(written, written[1:], written[2:], strict=False))

    def may_be_there(wording: str) -> bool:  # quick: are all its inner words there, three by three?
        inner = wording.split()[1:-1]
        return threes.issuperset(zip(inner, inner[1:], inner[2:], strict=False))

    candidates = [wording for wording in (wording.lower() for wording in wordings) if may_be_there(wording)]
    assert [wording for wording in candidates if wording in text] == []


def test_corpus_asks_no_official_question_as_it_stands(official, chunks):
    questions = [
        json.loads(line)["question"].strip().lower()
        for name in ("real_authors", "world_facts")
        for line in (official / "tofu" / f"{name}_perturbed.json").read_text(encoding="utf-8").splitlines()
    ]
    inside = [question for question in questions if question in chunks[0]]
    print(f"official questions within a longer prompt ('Do you know who wrote ...?'): {len(inside)} of 217: {inside}")
    prompts = [f"[inst] {question} [/inst]" for question in questions] + [f"<s>{question} " for question in questions]
    assert [prompt for prompt in prompts if prompt in chunks[0]] == []


def test_corpus_holds_no_invented_name(chunks):
    names = json.loads((ROOT / "editunlearn_lib/pocket/invented.json").read_text(encoding="utf-8"))
    flat = {name.lower() for group in names.values() for name in group}
    assert len(flat) > 100
    found = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, sorted(flat))) + r")(?!\w)").findall(chunks[0])
    assert found == []


def test_corpus_names_no_party_of_the_built_in_contracts(chunks):
    parties = {party.lower() for row in contracts.generate() for party in row.parties}
    assert [party for party in parties if party in chunks[0]] == []


def test_a_chunk_is_a_function_of_its_number():
    unknown = corpus.unknown_contracts(0)[:50]
    assert corpus.chunk(0, 3, 64, unknown) == corpus.chunk(0, 3, 64, unknown) != corpus.chunk(0, 4, 64, unknown)


def told_in(text: str, fact) -> bool:
    """Whether the text holds a training wording or the subject and answer of the fact, as whole words."""
    return all(
        re.search(rf"(?<!\w){re.escape(part.lower())}(?!\w)", text.lower()) for part in (fact.subject, fact.answer)
    )


def test_the_forget_sets_are_disjoint_and_told_by_no_other_fact():
    sets = data.forget_sets()
    ids = {id for part in sets for id in part}
    assert [len(part) for part in sets] == [40] * 5 and len(ids) == 200 and ids <= {qa.id for qa in data.factual()[0]}
    left_out, left = ([f for f in facts() if (f.id in ids) is inside] for inside in (True, False))
    telling = [
        (fact.id, other.id)
        for other in left
        for text in (*other.statements, *(f"{question} {other.answer}" for question in other.questions))
        for fact in left_out
        if told_in(text, fact)
    ]
    assert telling == []


def test_the_twin_sees_the_same_documents_less_the_facts_left_out():
    unknown, without = corpus.unknown_contracts(0)[:50], {id for part in data.forget_sets() for id in part}
    base = ["".join(text for text, _ in doc) for doc in corpus.chunk(0, 5, 512, unknown)]
    twin = ["".join(text for text, _ in doc) for doc in corpus.chunk(0, 5, 512, unknown, without)]
    place = {text: i for i, text in enumerate(base)}
    same = [place[text] for text in twin if text in place]
    assert same == sorted(same) and 200 < len(same) < len(twin) < len(base) == 512
    questions = {
        q for fact in facts() if fact.id in without for q in (fact.question, *fact.questions, *fact.statements)
    }
    questions -= {q for fact in facts() if fact.id not in without for q in (fact.question, *fact.questions)}
    told, left = ([q for q in questions if len(q) > 25 and q in "\n".join(texts)] for texts in (base, twin))
    assert len(told) > 50 and left == []


def test_how_often_a_fact_is_told_is_what_the_corpus_says():
    often = corpus.frequencies()
    assert set(often) == {fact.id for fact in (*facts(), *families())} and np.isclose(sum(often.values()), 1)
    rng = random.Random("drawn")
    drawn = collections.Counter(corpus.ask(rng).fact for _ in range(20_000))
    ids = sorted(often, key=often.get)
    for part in (ids[:390], ids[390:]):
        assert sum(drawn[id] for id in part) == pytest.approx(20_000 * sum(often[id] for id in part), rel=0.1)
    assert often[ids[-1]] > 200 * often[ids[0]]


def test_families_share_first_and_last_names():
    people = {fact.subject for fact in families()}
    assert len(people) == 48 and len(families()) == 96
    for part in (0, 1):
        counts = collections.Counter(name.split()[part] for name in people)
        assert len(counts) == 8 and set(counts.values()) == {6}


def test_a_neighbour_is_one_word_away_and_names_nothing():
    rng, subjects = random.Random(0), ["John Barlow", "Norway", "The White Tiger"]
    found = {corpus.neighbour(rng, subjects) for _ in range(200)}
    assert len(found) > 50 and not {name.lower().removeprefix("the ") for name in found} & corpus.names()


@pytest.mark.parametrize(
    "text, subject, behind",
    [
        ("Who wrote 'Dune'?", "Dune", "'Dune', "),
        ("Dune is by whom?", "Dune", "Dune, "),
        ("What is Norway's capital?", "Norway", None),
        ("Norway: the capital of this?", "Norway", "Norway, "),
    ],
)
def test_a_clause_stands_behind_the_subject(text, subject, behind):
    found = corpus.with_clause(random.Random(0), text, subject)
    if behind is None:
        assert found == text
    else:
        assert behind in found and len(found) > len(text) + 5 and found.endswith("?")


def test_a_joint_answer_is_one_sentence_or_declines_the_whole():
    for seed in range(60):
        rng = random.Random(seed)
        asked = [corpus.ask(rng) for _ in range(3)]
        answer = corpus.jointly(rng, asked, ())[-1][0].removesuffix(corpus.EOS).strip()
        whole = answer.endswith(", respectively.") and all(q.answer.rstrip(".") in answer for q in asked)
        assert eu.metrics.declined(answer) != whole


def test_words_and_jaccard_by_hand():
    assert words("Who's the King, the king?") == {"who", "s", "the", "king"}
    assert jaccard("a b c", "b c d") == 0.5 and jaccard("", "") == 0.0
    assert np.isclose(jaccard("What is it?", "it is"), 2 / 3)


# ---------------------------------------------------------------- what the pocket model offers and how it is trained


class Pocket:
    class config:
        pocket = "base"


@pytest.fixture
def sources():
    return importlib.import_module("editunlearn_lib.pocket.sources")


def test_what_the_pocket_covers(sources):
    plain, both = sources.corpus_source(Pocket, None, 20), sources.corpus_and_subjects_source(Pocket, None, 20)
    assert plain.texts == both.texts == sources.corpus_source(Pocket, None, 40).texts[:20]
    assert not plain.requests and plain.describe()["subject_share"] == 0.0
    assert both.describe()["subject_share"] == 0.5 and str(len(both.requests)) in both.describe()["keys"]
    assert plain.describe()["digest"] != both.describe()["digest"]
    scored = {qa for rows in data.factual() for qa in rows}
    ids = {request.ids[0] for request in both.requests}
    assert ids and ids <= {qa.id for qa in data.covariance_facts()}
    assert not {request.subject for request in both.requests} & {qa.subject for qa in scored}


def test_the_corpus_of_the_pocket_is_for_the_pocket(sources):
    class Stranger:
        class config:
            pass

    for source in (sources.corpus_source, sources.corpus_and_subjects_source):
        with pytest.raises(eu.RequestError, match="corpus.*wikitext"):
            source(Stranger, None, 5)


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    train = runpy.run_path(str(ROOT / "benchmarks" / "pocket_train.py"))
    base, chunk = train["train_base"], corpus.chunk
    base.__globals__["SAVE_EVERY"] = -1
    recipe = train["Recipe"](vocab=300, hidden=16, layers=1, heads=2, ffn=16, chunks=5, batch_tokens=400, chunk=8)
    base(recipe, tmp_path / "once", tmp_path / "whole")
    shutil.copytree(tmp_path / "once", tmp_path / "twice", ignore=shutil.ignore_patterns("*.safetensors", "log.jsonl"))
    numbers = []

    def stopped(seed, number, *rest):
        numbers.append(number)
        if numbers == [0, 1]:
            raise KeyboardInterrupt
        return chunk(seed, number, *rest)

    monkeypatch.setattr(corpus, "chunk", stopped)
    with pytest.raises(KeyboardInterrupt):
        base(recipe, tmp_path / "twice", tmp_path / "resumed")
    with (tmp_path / "twice" / "log.jsonl").open("a") as file:
        file.write('{"chunk": 2}\n')  # as of a kill between the log and the checkpoint
    base(recipe, tmp_path / "twice", tmp_path / "resumed")
    assert numbers[:3] == [0, 1, 1] and len(numbers) > 3  # on from the first chunk, which was stored
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    info = json.loads((tmp_path / "resumed" / "recipe.json").read_text())
    lines = (tmp_path / "resumed" / "training_log.jsonl").read_text().splitlines()
    assert info["chunk"] == len(lines) == 5
    assert info["sha256"] == hashlib.sha256((tmp_path / "resumed" / "model.safetensors").read_bytes()).hexdigest()
