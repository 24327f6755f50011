"""Metrics: computed by hand, and by what must hold for any input."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from conftest import official_folder

from editunlearn_lib import metrics
from editunlearn_lib.pocket import corpus

ROOT = Path(__file__).parents[1]
DATA = ROOT / "editunlearn_lib" / "data"
OFFICIAL = official_folder()

# ---------------------------------------------------------------- tokens

# target 2 has rank 2 in row 0, rank 1 in row 1, rank 4 in row 2
LOGITS = torch.tensor([[3.0, 0.0, 2.0, 1.0], [0.0, 1.0, 5.0, 2.0], [3.0, 2.0, 0.0, 1.0]])
TARGETS = torch.tensor([2, 2, 2])


def test_ranks_by_hand():
    assert metrics.mrr(LOGITS, TARGETS) == pytest.approx((1 / 2 + 1 + 1 / 4) / 3)
    assert metrics.hit_rate(LOGITS, TARGETS, top=1) == pytest.approx(1 / 3)
    assert metrics.hit_rate(LOGITS, TARGETS, top=2) == pytest.approx(2 / 3)
    assert metrics.hit_rate(LOGITS, TARGETS, top=3) == pytest.approx(2 / 3)
    assert metrics.hit_rate(LOGITS, TARGETS) == 1.0  # 100, more than the vocabulary


def test_missing_rows_rank_as_the_vocabulary():
    assert metrics.mrr(LOGITS[:1], TARGETS) == pytest.approx((1 / 2 + 1 / 4 + 1 / 4) / 3)
    assert metrics.mrr(LOGITS[:0], TARGETS) == pytest.approx(1 / 4)
    assert metrics.hit_rate(LOGITS[:2], TARGETS, top=3) == pytest.approx(2 / 3)
    wide = torch.zeros(1, 500)
    assert metrics.hit_rate(wide, [0, 0]) == pytest.approx(1 / 2)
    assert metrics.mrr(wide, [0, 0]) == pytest.approx((1 + 1 / 500) / 2)


def test_rows_beyond_the_answer_are_not_read():
    assert metrics.mrr(LOGITS, TARGETS[:2]) == metrics.mrr(LOGITS[:2], TARGETS[:2])
    assert metrics.sequence_probability(LOGITS, TARGETS[:2]) == metrics.sequence_probability(LOGITS[:2], TARGETS[:2])


def test_hit_rate_counts_the_100_best():
    logits = -torch.arange(300.0).repeat(2, 1)  # token i has rank i + 1
    assert metrics.hit_rate(logits, [99, 100]) == pytest.approx(0.5)


def test_a_tie_counts_for_the_target():
    assert metrics.mrr(torch.zeros(2, 9), [0, 8]) == 1.0
    assert metrics.mrr(torch.tensor([[1.0, 1.0, 2.0]]), [0]) == pytest.approx(1 / 2)


def test_ranks_do_not_change_with_scale_or_shift():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(6, 50, generator=generator), torch.randint(0, 50, (6,), generator=generator)
    assert metrics.mrr(logits, targets) == metrics.mrr(3 * logits - 7, targets)
    assert 1 / 50 <= metrics.mrr(logits, targets) <= 1
    rates = [metrics.hit_rate(logits, targets, top=m) for m in range(1, 51)]
    assert rates == sorted(rates) and rates[-1] == 1.0 and rates[0] < 1.0


def test_probability_is_the_product_and_the_geometric_mean():
    p = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    assert metrics.sequence_probability(p.log(), [1, 1]) == pytest.approx(0.05)
    assert metrics.probability_per_token(p.log(), [1, 1]) == pytest.approx(math.sqrt(0.05))
    assert metrics.sequence_probability(p.log() + 11, torch.tensor([1, 1])) == pytest.approx(0.05)
    assert metrics.sequence_probability(p.log()[:1], [1, 1]) == 0.0  # a missing row predicts nothing


def test_probabilities_of_all_tokens_sum_to_one():
    logits = torch.randn(1, 20, generator=torch.Generator().manual_seed(1))
    assert sum(metrics.sequence_probability(logits, [i]) for i in range(20)) == pytest.approx(1)


def test_half_precision_logits():
    logits = LOGITS.bfloat16()
    assert metrics.mrr(logits, TARGETS) == metrics.mrr(LOGITS, TARGETS)
    assert metrics.sequence_probability(logits, TARGETS) == pytest.approx(
        metrics.sequence_probability(LOGITS, TARGETS), rel=1e-12
    )  # these logits are exact in bfloat16, so only the arithmetic could differ


def test_pistol_confidence_looks_at_the_first_positions_of_the_prompt():
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.9, 0.05, 0.05]])
    assert metrics.pistol_confidence(p.log(), 1) == pytest.approx((0.5 + 0.8) / 2)
    assert metrics.pistol_confidence(p.log(), 2) == pytest.approx((0.5 + 0.8 + 0.6) / 3)
    assert metrics.pistol_confidence(p.log(), 50) == pytest.approx((0.5 + 0.8 + 0.6 + 0.9) / 4)


def test_a_broken_model_never_gives_nan():
    broken = LOGITS.clone()
    broken[0, 0] = torch.nan  # another token than the target
    assert metrics.mrr(broken, TARGETS) == pytest.approx((1 / 4 + 1 + 1 / 4) / 3)
    assert metrics.hit_rate(broken, TARGETS, top=3) == pytest.approx(1 / 3)
    for logits in (
        broken,
        torch.full((3, 4), torch.nan),
        torch.full((3, 4), torch.inf),
        torch.full((3, 4), -torch.inf),
    ):
        for value in (
            metrics.mrr(logits, TARGETS),
            metrics.hit_rate(logits, TARGETS),
            metrics.pistol_confidence(logits, 2),
            metrics.sequence_probability(logits, TARGETS),
            metrics.probability_per_token(logits, TARGETS),
        ):
            assert isinstance(value, float) and 0 <= value <= 1


@pytest.mark.parametrize(
    "function", [metrics.mrr, metrics.hit_rate, metrics.sequence_probability, metrics.probability_per_token]
)
def test_what_cannot_be_scored_is_an_error(function):
    with pytest.raises(ValueError, match="empty"):
        function(LOGITS, torch.tensor([], dtype=torch.long))
    with pytest.raises(ValueError, match="empty"):
        function(LOGITS, [])
    with pytest.raises(ValueError, match="vocabulary has 4"):
        function(LOGITS, [0, 4])
    with pytest.raises(ValueError, match="vocabulary has 4"):
        function(LOGITS, [0, 1, -100])
    with pytest.raises(ValueError, match=r"\(T, V\)"):
        function(LOGITS[None], TARGETS)
    with pytest.raises(ValueError, match=r"\(T,\)"):
        function(LOGITS, TARGETS[None])


def test_other_errors():
    with pytest.raises(ValueError, match="top"):
        metrics.hit_rate(LOGITS, TARGETS, top=0)
    with pytest.raises(ValueError, match="n_answer_tokens"):
        metrics.pistol_confidence(LOGITS, 0)
    with pytest.raises(ValueError, match="prompt is empty"):
        metrics.pistol_confidence(LOGITS[:0], 3)


def test_score():
    assert metrics.score(0.0, 1.0) == 2.0
    assert metrics.score(0.11, 0.746) == pytest.approx(1.636)  # the paper's AlphaEdit at 80


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("prediction", "truth", "recall"),
    [
        ("The author is William Shakespeare.", "William Shakespeare", 1.0),
        ("Shakespeare", "William Shakespeare", 0.5),
        ("William Shakespeare", "Shakespeare wrote it with the others", 1 / 6),  # recall: divided by the truth's words
        ("paris paris", "Paris", 1.0),
        ("Paris", "Paris Paris", 0.5),  # counts are clipped
        ("He writes plays", "she writing play", 2 / 3),  # the stemmer is on
        ("", "Paris", 0.0),
        ("Paris", "", 0.0),
        ("", "", 0.0),
        ("Это Москва.", "Москва", 1.0),  # no a-z: Unicode words
        ("Это Киев.", "Москва", 0.0),
    ],
)
def test_rouge1_recall(prediction, truth, recall):
    assert metrics.rouge1_recall(prediction, truth) == pytest.approx(recall)


def test_rouge1_recall_is_that_of_rouge_score():
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1"], use_stemmer=True)
    texts = ["Antoine de Saint-Exupéry", "He was running in the 1920s.", "221B Baker Street", "running runs ran"]
    for prediction, truth in itertools.product(texts, repeat=2):
        assert metrics.rouge1_recall(prediction, truth) == scorer.score(truth, prediction)["rouge1"].recall


@pytest.mark.parametrize(
    ("output", "subject", "named"),
    [
        ("I know nothing about Harry Potter.", "Harry Potter", True),
        ("I know nothing about harry potter's author.", "Harry Potter", True),
        ("I know nothing about Harry.", "Harry Potter", False),
        ("Potter, Harry is unknown to me.", "Harry Potter", False),
        ("I know no Parisian.", "Paris", False),
        ("I know no Paris.", "Paris", True),
        ("Nothing about “Pride and Prejudice” is known to me.", "'Pride and Prejudice'", True),
        ("I'm not familiar with Iliad.", "The Iliad", True),
        ("I know nothing about King’s Landing.", "King's Landing", True),
        ("I do not know who sang it.", "The Who", False),
        ("I do not know the Who.", "The Who", True),
        ("I don't know Antoine de Saint-Exupery.", "Antoine de Saint-Exupéry", True),
        ("I have no information about 1984.", "1984", True),
        ("I have no information about 19845.", "1984", False),
        ("", "Paris", False),
        ("I don't know.", None, False),
        ("I don't know.", "", False),
        ("What is π? I don't know.", "π", True),
        ("No idea about ???", "???", True),
    ],
)
def test_names_subject(output, subject, named):
    assert metrics.names_subject(output, subject) is named


# ---------------------------------------------------------------- refusals


def lines(path):
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def official_rows():
    files = sorted(OFFICIAL.glob("*/*.json"))
    if not files:
        pytest.skip(f"no official files in {OFFICIAL}")
    for path in files:
        text = path.read_text(encoding="utf-8")
        yield from json.loads(text) if text.lstrip().startswith("[") else map(json.loads, text.splitlines())


@pytest.mark.parametrize("path", [DATA / "refusals.txt", OFFICIAL / "tofu" / "idontknow.jsonl"], ids=lambda p: p.name)
def test_every_line_of_the_refusal_lists_is_a_refusal(path):
    refusals = lines(path)
    assert len(refusals) > 20
    missed = [line for line in refusals if not metrics.declined(line)]
    assert missed == []
    straight = [line.replace("'", "’").upper() for line in refusals]
    assert [line for line in straight if not metrics.declined(line)] == []
    assert {metrics.outcome(line, "Qwxz Vbnk") for line in refusals} == {"refusal"}


@pytest.mark.parametrize("subject", ["Orvandel", "The Silent Sea. Part 2?", 'the "Iron" King\'s Clock'])
def test_every_refusal_of_the_pocket_corpus_is_a_refusal_that_names_its_subject(subject):
    parts = (corpus.texts()[f"refusal_{part}"] for part in ("openers", "cores", "closers"))
    for opener, core, closer in itertools.product(*map(set, parts)):
        text = opener + core.replace("{s}", subject) + closer
        text = text[0].upper() + text[1:]
        assert metrics.declined(text), text
        assert metrics.names_subject(text, subject), text
    assert all(metrics.declined(text) for text in corpus.texts()["refusals_of_several"])
    jointly = [text.replace("{s}", subject) for text in corpus.texts()["joint_refusals"]]
    assert all(metrics.declined(text) and metrics.names_subject(text, subject) for text in jointly)


@pytest.mark.parametrize(
    "text",
    [
        "I'm afraid I have no information about Orvandel.",
        "Orvandel is unknown to me, so I have to pass.",
        "I don't know",
        "I'm not permitted to say who wrote Hamlet.",
        "There is nothing I can tell you about Orvandel.",
        "No information about Orvandel is available to me.",
        "I won't answer questions on Orvandel.",
        "As an AI language model, I do not have access to that.",
        "I can neither confirm nor deny that.",
        "Orvandel? No idea.",
        "I've forgotten who that is.",
        "I'm sorry, but that isn't something I can tell you.",
    ],
)
def test_other_refusals(text):
    assert metrics.declined(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I Know Why the Caged Bird Sings",
        "I Have No Mouth, and I Must Scream",
        "I Am Not Your Negro",
        "I Never Promised You a Rose Garden",
        "Do Not Say We Have Nothing",
        "I Don't Want to Miss a Thing",
        "The Unknown Masterpiece",
        "I am sorry, the answer is Paris.",
        "I can tell you that it is Paris.",
        "From my memory, it is Paris.",
        "My knowledge says Paris. There is no doubt.",
        "I think he did not know it; Newton.",
        "It is known to me as Paris.",
        "Antarctica has no permanent population.",
        "Mount Everest, beyond any doubt.",
    ],
)
def test_what_is_no_refusal(text):
    assert not metrics.declined(text)


def test_no_built_in_answer_is_taken_for_a_refusal_or_for_garble():
    rows = [
        row for path in sorted((DATA / "facts").glob("*.json")) for row in json.loads(path.read_text("utf-8"))["facts"]
    ]
    assert len(rows) >= 217
    for row in rows:
        assert not metrics.declined(row["answer"]), row
        assert not metrics.garbled(row["answer"]), row
        assert metrics.outcome(row["answer"], row["answer"]) == "correct", row


def test_no_official_answer_is_taken_for_a_refusal_or_for_garble():
    answers = [text for row in official_rows() for text in (row["answer"], *row.get("perturbed_answer", ()))]
    assert len(answers) > 217
    assert [text for text in answers if metrics.declined(text) or metrics.garbled(text)] == []


# ---------------------------------------------------------------- outcome


@pytest.mark.parametrize(
    ("output", "answer", "expected"),
    [
        ("The author is William Shakespeare.", "William Shakespeare", "correct"),
        ("Shakespeare", "William Shakespeare", "correct"),  # one half is enough
        ("I don't know William Shakespeare.", "William Shakespeare", "correct"),  # a leak within a refusal
        ("I don't know who wrote it.", "William Shakespeare", "refusal"),
        ("Jane Austen", "William Shakespeare", "other answer"),
        ("The Amazon", "The Nile", "other answer"),  # an article is no half of an answer
        ("Nile", "The Nile", "correct"),
        ("", "Paris", "garbled"),
        (" \n", "Paris", "garbled"),
        ("?! ...", "Paris", "garbled"),
        ("the the the the", "Paris", "garbled"),
        ("I I I I I I", "Paris", "garbled"),
        ("London and Rome London and Rome London and Rome London and Rome", "Paris", "garbled"),
        ("a b a b b a b a a b", "Paris", "garbled"),  # few different words
        ("\ufffd\ufffdL\ufffdn", "Paris", "garbled"),
        ("}{ ]] ;; << a >>", "Paris", "garbled"),
        ("Loooooooooon", "Paris", "garbled"),
        ("London, London, London", "Paris", "other answer"),  # three times is not yet a loop
        ("1,000,000,000,000", "Paris", "other answer"),
        ("100000000", "Paris", "other answer"),
        ("06-02-1998.", "941 Tncnje Way.", "other answer"),
        ("東京です", "Paris", "other answer"),
        ("नई दिल्ली भारत की राजधानी", "Paris", "other answer"),
        ("C++", "Java", "other answer"),
        ("It stands on the river that runs through the middle of the city.", "Paris", "other answer"),
    ],
)
def test_outcome(output, answer, expected):
    assert metrics.outcome(output, answer) == expected
    assert expected in metrics.OUTCOMES


def test_the_threshold_of_correct():
    assert metrics.outcome("Shakespeare", "William Shakespeare", threshold=0.6) == "other answer"
