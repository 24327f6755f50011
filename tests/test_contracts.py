"""The built-in contracts and the rules for the official PISTOL rows (the latter only where the samples are present)."""

import functools
import json
import random
import re
from collections import Counter, defaultdict
from statistics import mean

import pytest
from rouge_score import rouge_scorer
from wordings import jaccard, rouge

from editunlearn_lib.data import contracts
from editunlearn_lib.data.facts import fill

ONE_PARTY = {"seller", "customer", "employer", "employee"}


@pytest.fixture
def samples(official):
    """The official rows of both samples, by number."""
    files = {number: official / "pistol" / f"sample_data_{number}.json" for number in (1, 2)}
    return {number: json.loads(file.read_text(encoding="utf-8")) for number, file in files.items()}


def wordings_of(row: contracts.ContractRow | contracts.Wording) -> tuple[str, ...]:
    return (row.question, *row.rephrasings, *row.trained)


def graph(edges: list[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Edges with every party replaced by the set of edges it is in, roles kept: equal for isomorphic graphs."""
    at = defaultdict(set)
    for edge, *parties in edges:
        for party in parties:
            at[party].add(edge)
    return {(edge, *(tuple(sorted(at[party])) for party in parties)) for edge, *parties in edges}


def test_cached_tokenizer_gives_the_scores_of_rouge_score():
    plain = rouge_scorer.RougeScorer(["rouge1"], use_stemmer=True)
    for row in contracts.generate()[::40]:
        for text in row.rephrasings:
            assert rouge(row.question, text) == plain.score(row.question, text)["rouge1"].fmeasure


def test_shape_of_the_built_in_contracts():
    rows = contracts.generate()
    assert len(rows) == 400 and len({row.id for row in rows}) == 400
    assert rows[7].id == "A_B-07"
    assert Counter(row.kind for row in rows) == {"sales": 200, "employment": 200}
    assert set(Counter(row.group for row in rows).values()) == {20} and len({row.group for row in rows}) == 20
    assert set(Counter(row.relation for row in rows).values()) == {10}
    assert len({row.parties for row in rows}) == 20


def test_seeds_repeat_and_differ():
    contracts.generate.cache_clear()
    first = contracts.generate(3)
    contracts.generate.cache_clear()
    assert first == contracts.generate(3)
    assert not {row.parties for row in first} & {row.parties for row in contracts.generate(4)}


def test_values_of_one_contract_agree():
    for edge in {row.group for row in contracts.generate()}:
        rows = {row.relation: row for row in contracts.generate() if row.group == edge}
        kind = "sales" if "seller" in rows else "employment"
        first, second = ("seller", "customer") if kind == "sales" else ("employer", "employee")
        assert (rows[first].answer, rows[second].answer) == rows[first].parties
        date = rows["sale_date" if kind == "sales" else "job_date"].answer
        assert date in rows[first].question and date in rows[second].question
        if kind == "sales":
            product = int(rows["quantity"].answer) * int(rows["unit_price"].answer)
            assert int(rows["total_price"].answer) == product
        else:
            assert int(rows["start_hour"].answer) < int(rows["finish_hour"].answer) <= 24
    # a party has one address in all its contracts
    addresses = defaultdict(set)
    for row in contracts.generate():
        if row.relation.endswith("_address") and row.relation != "delivery_address":
            first = row.relation.startswith(("seller", "employer"))
            addresses[row.parties[0 if first else 1]].add(row.answer)
    assert len(addresses) == 24 and all(len(found) == 1 for found in addresses.values())


def rows_of(source: str) -> tuple[contracts.ContractRow, ...]:
    return (
        contracts.invented_contracts(random.Random(5), 8) if source == "invented" else contracts.generate(int(source))
    )


@pytest.mark.parametrize("source", ["0", "1", "2", "invented"])
def test_each_row_is_well_formed(source):
    for row in rows_of(source):
        texts = wordings_of(row)
        assert len(row.rephrasings) >= 3 and len(row.trained) >= 20
        assert row.subject in row.parties
        assert row.answer and not row.answer.endswith(".") and len(row.answer) <= 40
        for text in texts:
            assert "{" not in text and "}" not in text and text[0].isupper() and text[-1] in ".?"
            assert row.subject in text, text
            assert row.answer.lower() not in text.lower(), (row.answer, text)
            # a question for a party's name states the day and the other party; all others state both parties
            asked = row.relation in ONE_PARTY
            assert sum(party in text for party in row.parties) == (1 if asked else 2), text
            assert bool(re.search(r"\d{1,2} [A-Z][a-z]+ \d{4}", text)) == asked, text
        assert row.question.rfind(row.subject) == max(row.question.rfind(party) for party in row.parties)


@pytest.mark.parametrize("source", ["0", "1", "2", "invented"])
def test_no_two_wordings_are_the_same(source):
    texts = [text.lower() for row in rows_of(source) for text in wordings_of(row)]
    assert len(texts) == len(set(texts))


def test_the_subject_tells_the_edge_where_the_order_is_free():
    rows = contracts.generate()
    edges = defaultdict(set)
    for row in rows:
        for party in row.parties:
            edges[party].add(row.group)
    for row in rows:
        if "{y}" in contracts.wordings()[row.relation].question:
            assert len(edges[row.subject]) == min(len(edges[party]) for party in row.parties)
            assert len(edges[row.subject]) == 1 or row.group == "A_B"


def test_rephrasings_differ_from_the_question():
    rows = contracts.generate()
    assert mean(rouge(row.question, text) for row in rows for text in row.rephrasings) <= 0.5
    assert max(rouge(row.question, text) for row in rows for text in row.rephrasings) <= 0.75


def test_trained_wordings_leave_the_rephrasings_held_out():
    for row in contracts.generate():
        for text in row.trained:
            assert max(jaccard(text, held_out) for held_out in row.rephrasings) <= 0.7, text
        for i, text in enumerate(row.rephrasings):
            assert max(jaccard(text, other) for other in row.rephrasings[:i] or ("",)) <= 0.8, text


def test_every_type_has_twenty_trained_wordings():
    for item in contracts.wordings().values():
        assert len({text.lower() for text in item.trained}) == len(item.trained) >= 20, item.relation


def test_wordings():
    assert len(contracts.wordings().values()) == 40 == len({item.relation for item in contracts.wordings().values()})
    assert Counter(item.kind for item in contracts.wordings().values()) == {"sales": 20, "employment": 20}
    assert sum(item.official is not None for item in contracts.wordings().values()) == 38
    assert contracts.wordings()["good"].kind == "sales"
    with pytest.raises(KeyError):
        contracts.wordings()["colour"]


def test_no_template_holds_a_value_of_its_pool():
    pools = {
        "good": contracts.pool("goods"),
        "position": contracts.pool("positions"),
        "benefit": contracts.pool("benefits"),
        "pay_frequency": contracts.pool("frequencies"),
        "shipping_choice": contracts.pool("roles"),
        "shipping_cost": contracts.pool("roles"),
        "sale_law": contracts.pool("jurisdictions"),
        "job_law": contracts.pool("jurisdictions"),
    }
    for relation, pool in pools.items():
        assert len(set(pool)) == len(pool)
        for template in wordings_of(contracts.wordings()[relation]):
            assert not [value for value in pool if value.lower() in template.lower()], template
    for item in contracts.wordings().values():
        assert not re.search(r"\d", "".join(wordings_of(item))), item.relation


def test_fill_does_not_fill_values():
    assert fill("{x} and {y}", x="{y}", y="z") == "{y} and z"


def test_invented_contracts_share_no_name_with_the_known_ones():
    invented = contracts.invented_contracts(random.Random(1), 60)
    assert len(invented) == 1200 and len({row.id for row in invented}) == 1200
    assert {row.relation for row in invented} == {item.relation for item in contracts.wordings().values()}

    def name_words(rows):
        found = {word for row in rows for party in row.parties for word in party.split()}
        found |= {row.answer.split()[1] for row in rows if row.relation.endswith(("address", "location"))}
        return found - set(contracts.pool("legal_forms"))

    # 120 parties (30 of them persons of two words), their streets, and a street of delivery or work per contract
    assert len(name_words(invented)) == 120 + 30 + 120 + 60
    assert not name_words(invented) & name_words(contracts.generate(0))
    assert invented == contracts.invented_contracts(random.Random(1), 60)
    assert invented != contracts.invented_contracts(random.Random(2), 60)


def test_invented_contracts_avoid_known_words_even_from_the_same_stream():
    # the seed of generate(0) would draw its very words again
    known = {word for row in contracts.generate(0) for party in row.parties for word in party.split()}
    for row in contracts.invented_contracts(random.Random(0), 20):
        assert not known & {word for p in row.parties for word in p.split()} - set(contracts.pool("legal_forms"))


@pytest.mark.parametrize(("number", "count"), [(1, 400), (2, 1500)])
def test_every_official_row_is_annotated(samples, number, count):
    scores = []
    rows = samples[number]
    assert len(rows) == count
    edge_parties = defaultdict(set)
    seen = set()
    for row in rows:
        subject, rephrasings, parties = contracts.annotate(row["question"], row["answer"], row["edge"])
        answer = row["answer"].removesuffix(".").lower()
        assert subject in parties and subject in row["question"]
        assert row["question"].rfind(subject) == max(row["question"].rfind(party) for party in parties)
        assert len(rephrasings) >= 3 and len(set(rephrasings)) == len(rephrasings)
        asks_name = bool(re.search("name of the (seller|customer|employer|employee)", row["question"]))
        assert len(parties) == (1 if asks_name else 2)
        edge_parties[row["edge"]].add(frozenset({*parties, row["answer"].removesuffix(".")} if asks_name else parties))
        for text in rephrasings:
            assert "{" not in text and answer not in text.lower(), text
            assert all(party in text for party in parties), text
            assert bool(re.search(r"\d\d-\d\d-\d{4}", text)) == asks_name, text
            scores.append(rouge(row["question"], text))
        assert not seen & set(rephrasings)
        seen |= set(rephrasings)
    assert all(len(parties) == 1 for parties in edge_parties.values())
    assert mean(scores) <= 0.6


def test_annotated_relations_are_as_many_as_the_official_forms(samples):
    forms = set()
    for row in samples[1]:
        _, rephrasings, parties = contracts.annotate(row["question"], row["answer"], row["edge"])
        text = re.sub(r"\d\d-\d\d-\d{4}", "D", rephrasings[0])
        forms.add(functools.reduce(lambda t, party: t.replace(party, "P"), parties, text))
    assert len(forms) == 38  # 40 less: the address of either company, the law of either kind


def test_annotate_refuses_what_it_does_not_know():
    for question in (
        "What was the colour of the contract between Abc Ltd and Def SA?",
        "What was the effective date of the contract?",
        "What was the quantity and the unit price based on the contract between Abc Ltd and Def SA?",
        "What was the effective date of the contract between Abc Ltd and Def SA? Or of another?",
        "What was the name of the seller in the contract with Def SA?",
    ):
        with pytest.raises(ValueError, match=re.escape(question)):
            contracts.annotate(question, "4711.", "A_B")  # no rephrasing holds it: the form alone is refused
    with pytest.raises(ValueError, match="stands in a rephrasing"):
        contracts.annotate(
            "What was the work location based on the contract between Abc Ltd and D E?", "street.", "A_m"
        )


def test_annotate_fills_the_party_it_finds():
    subject, rephrasings, parties = contracts.annotate(
        "What was the name of the customer in the contract with Abc Ltd as of 01-02-2003?", "Def SA.", "A_B"
    )
    assert (subject, parties) == ("Abc Ltd", ("Abc Ltd",))
    assert rephrasings[0] == "Name the purchaser that Abc Ltd supplied in a deal of 01-02-2003."


def test_the_graph_is_that_of_sample_1(samples):
    edges = {}
    for row in samples[1]:
        match = re.search(r"contract between (.+) and (.+)\?", row["question"])
        if match:
            edges[row["edge"]] = (row["edge"], *match.groups())
    ours = {row.group: (row.group, *row.parties) for row in contracts.generate()}
    assert graph(list(ours.values())) == graph(list(edges.values()))


def test_questions_are_not_the_official_ones(samples):
    def patterns(rows):
        result = set()
        for question, parties in rows:
            for i, party in enumerate(sorted(parties, key=question.find)):
                question = question.replace(party, f"party{i}")
            result.add(re.sub(r"\d\d-\d\d-\d{4}|\d+ [A-Z][a-z]+ \d{4}", "day", question))
        return result

    theirs = patterns((r["question"], contracts.annotate(r["question"], r["answer"], r["edge"])[2]) for r in samples[1])
    assert len(theirs) == 38  # 40 less: the address of either company, the law of either kind
    ours = patterns(
        (text, tuple(p for p in row.parties if p in text)) for row in contracts.generate() for text in wordings_of(row)
    )
    assert len(ours) == 960  # 40 types of 24 wordings
    assert max(jaccard(a, b) for a in ours for b in theirs) <= 0.8
