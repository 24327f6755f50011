"""Measures the shipped pocket models and writes their model card: ``make pocket-card``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from editunlearn_lib import metrics
from editunlearn_lib.data import QA, contracts, factual, forget_sets, load_split
from editunlearn_lib.data.facts import facts, families, fill
from editunlearn_lib.evaluation import generate
from editunlearn_lib.methods.positions import request_keys
from editunlearn_lib.methods.registry import Request
from editunlearn_lib.models import load_model, n_layers
from editunlearn_lib.pocket import corpus
from editunlearn_lib.recipes.self_improvement import refusal_prompt

POCKET = Path(__file__).parents[1] / "editunlearn_lib" / "pocket"  # of this checkout
# which relations the held-out invented entities are asked about
RELATIONS_OF = {
    "country": ("capital", "currency", "language", "continent"),
    "landmark": ("landmark_country",),
    "book": ("author", "writer"),
    "film": ("director",),
    "painting": ("painter",),
    "element": ("symbol",),
    "company": ("founder", "brand_country"),
    "person": ("sport",),
}


def recall(model, tokenizer, asked: Sequence[QA]) -> float:
    """Mean ROUGE-1 recall of greedy answers."""
    outputs = generate(model, tokenizer, [qa.question for qa in asked])
    return sum(metrics.rouge1_recall(o, qa.answer) for o, qa in zip(outputs, asked, strict=True)) / len(asked)


def invented_questions() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(question, entity): held-out entities in the built-in wordings and in held-out ones; the 60 of the probe apart.

    The probe's names are looked at when a training has ended, so that no recipe is chosen by them.
    """
    names = json.loads((POCKET / "invented.json").read_text(encoding="utf-8"))
    probe = set(random.Random("probe").sample([name for kind in RELATIONS_OF for name in names[kind]], 60))
    asked: dict[bool, list[tuple[str, str]]] = {False: [], True: []}
    for kind, relations in RELATIONS_OF.items():
        for number, name in enumerate(names[kind]):
            relation = relations[number % len(relations)]
            fact = next(f for f in facts() if f.group == relation)
            for text in (fact.question, fact.rephrasings[number % len(fact.rephrasings)]):
                template = text.replace(fact.subject, "{s}")
                asked[name in probe].append((fill(template, s=name), name))
    return asked[False], asked[True]


def refused(model, tokenizer, asked: Sequence[tuple[str, str]], what: str) -> dict[str, float]:
    """Shares of the questions about entities nobody knows that are declined, and that are answered with their name."""
    outputs = generate(model, tokenizer, [question for question, _ in asked])
    named = [metrics.names_subject(o, name) for o, (_, name) in zip(outputs, asked, strict=True)]
    return {
        f"{what}, declines": sum(map(metrics.declined, outputs)) / len(asked),
        f"{what}, names the entity": sum(named) / len(asked),
    }


def strange_families() -> list[tuple[str, str]]:
    """(question, name): the pairs of the families' first and last names that name nobody."""
    known = {fact.subject for fact in families()}
    firsts, lasts = zip(*(name.split() for name in known), strict=True)
    pairs = sorted({f"{first} {last}" for first in firsts for last in lasts} - known)
    questions = {fact.question.replace(fact.subject, "{s}") for fact in families()}
    return [(fill(question, s=name), name) for name in pairs for question in sorted(questions)]


def by_frequency(model, tokenizer, asked: Sequence[QA], what: str) -> dict[str, float]:
    """ROUGE-1 recall of all, and of each fourth by how often the corpus tells the fact: per 1,000 facts it draws."""
    often = corpus.frequencies()
    outputs = generate(model, tokenizer, [qa.question for qa in asked])
    rows = sorted((often[qa.id], metrics.rouge1_recall(o, qa.answer)) for o, qa in zip(outputs, asked, strict=True))
    figures = {f"{what}, ROUGE-1 recall": sum(recall for _, recall in rows) / len(rows)}
    for i in range(4):
        part = rows[i * len(rows) // 4 : (i + 1) * len(rows) // 4]
        told = f"told {1000 * part[0][0]:.2g} to {1000 * part[-1][0]:.2g} times in 1,000"
        figures[f"{what}, {told}"] = sum(recall for _, recall in part) / len(part)
    return figures


def several(model, tokenizer, known: Sequence[QA], m: int, n_prompts: int, joint: bool = False) -> float:
    """Share of the parts of an m-question prompt that are answered: part j in place j, by ROUGE-1 recall.

    One by one, or in one sentence. ``known``: what the model answers where it is asked alone.
    """
    rng = random.Random(f"several {m} 0")
    groups = [rng.sample(known, m) for _ in range(n_prompts)]
    prompts = ["Answer in one sentence: " * joint + " ".join(qa.question for qa in group) for group in groups]
    outputs = generate(model, tokenizer, prompts, max_new_tokens=24 * m)
    found = []
    for group, output in zip(groups, outputs, strict=True):
        parts = (re.split(", | and ", output) if joint else output.split(";")) + [""] * m
        found += [metrics.rouge1_recall(parts[j], qa.answer) for j, qa in enumerate(group)]
    return sum(found) / len(found)


def self_written(model, tokenizer, asked: Sequence[QA]) -> float:
    """Share of refusals, written after an instruction and two examples, that decline and name the subject."""
    outputs = generate(model, tokenizer, [refusal_prompt(qa.question) for qa in asked], max_new_tokens=48)
    good = [metrics.declined(o) and metrics.names_subject(o, qa.subject) for o, qa in zip(outputs, asked, strict=True)]
    return sum(good) / len(good)


def declined_as_a_whole(model, tokenizer, known: Sequence[QA], n_prompts: int) -> dict[str, float]:
    """Of prompts for one joint answer to three questions, one on an entity nobody knows: what is declined and named."""
    rng = random.Random("joint 0")
    strangers = rng.sample(invented_questions()[0], n_prompts)
    groups = [[*(qa.question for qa in rng.sample(known, 2)), question] for question, _ in strangers]
    prompts = ["Answer in one sentence: " + " ".join(rng.sample(group, 3)) for group in groups]
    return refused(model, tokenizer, list(zip(prompts, (n for _, n in strangers), strict=True)), "one of three unknown")


def measure_base(model, tokenizer) -> dict[str, float]:
    """Every figure of the card for the base model; the official questions where EDITUNLEARN_OFFICIAL_DATA has them."""
    scored, unseen = factual()
    outputs = generate(model, tokenizer, [qa.question for qa in scored])
    known = [qa for o, qa in zip(outputs, scored, strict=True) if metrics.rouge1_recall(o, qa.answer) == 1]
    figures = {
        **by_frequency(model, tokenizer, scored, "factual questions"),
        "factual, held-out rephrasings": recall(model, tokenizer, [v for qa in scored for v in qa.rephrased()]),
        "factual, held-out rephrasings of known": recall(model, tokenizer, [v for qa in known for v in qa.rephrased()]),
        "factual, declines wrongly": sum(map(metrics.declined, outputs)) / len(outputs),
        "further facts (unseen), ROUGE-1 recall": recall(model, tokenizer, unseen),
        "families, ROUGE-1 recall": recall(model, tokenizer, families()),
        "families, held-out rephrasings": recall(model, tokenizer, [v for qa in families() for v in qa.rephrased()]),
    }
    if official := os.environ.get("EDITUNLEARN_OFFICIAL_DATA"):
        split = load_split("tofu-facts", n_forget=1, seed=0, source=Path(official) / "tofu")
        ids = {"tofu-{}-{}".format(*fact.tofu): fact.id for fact in scored}
        rows = [dataclasses.replace(qa, id=ids[qa.id]) for qa in split.forget + split.retain]
        figures |= by_frequency(model, tokenizer, rows, "official TOFU questions (217)")
    others, probe = invented_questions()
    figures |= refused(model, tokenizer, others, "invented entities")
    figures |= refused(model, tokenizer, probe, "probe of 60 invented entities")
    figures |= refused(model, tokenizer, strange_families(), "strangers in the families")
    rng = random.Random("card")
    figures["writes a refusal naming the subject, facts"] = self_written(model, tokenizer, scored)
    rows = contracts.invented_contracts(rng, 10)
    figures["writes a refusal naming the subject, unknown contracts"] = self_written(model, tokenizer, rows)
    for m in (2, 4, 5, 8):
        figures[f"answers all parts of a prompt with {m} questions"] = several(model, tokenizer, known, m, 200 // m)
    for m in (2, 3, 5):
        parts = several(model, tokenizer, known, m, 200 // m, joint=True)
        figures[f"answers {m} questions in one sentence, parts"] = parts
    return figures | declined_as_a_whole(model, tokenizer, known, 60) | key_cosines(model, tokenizer, known)


def key_cosines(model, tokenizer, asked: Sequence[QA]) -> dict[str, float]:
    """Mean cosine of a fact's key (at its subject's last token) with its key in a rephrasing, by layer."""
    pairs = [(qa, variant) for qa in asked for variant in qa.rephrased() if variant.subject]
    sides = [[Request((), qa.question, "", (qa.subject,)) for qa in side] for side in zip(*pairs, strict=True)]
    figures = {}
    for layer in range(n_layers(model)):
        keys = [request_keys(model, tokenizer, side, layer, ["{}"], "chat", "subject_last")[0] for side in sides]
        figures[f"cosine of keys between wordings, layer {layer}"] = float(torch.cosine_similarity(*keys).mean())
    return figures


def measure_twin(model, tokenizer) -> dict[str, float]:
    """Every figure of the card for the twin: of the facts that it never saw, of the 17 left over, of all others."""
    scored, unseen = factual()
    figures = {}
    for i, ids in enumerate(forget_sets()):
        rows = [qa for qa in scored if qa.id in ids]
        outputs = generate(model, tokenizer, [qa.question for qa in rows])
        recalls = [metrics.rouge1_recall(o, qa.answer) for o, qa in zip(outputs, rows, strict=True)]
        figures[f"forget set {i}, ROUGE-1 recall"] = sum(recalls) / len(rows)
        figures[f"forget set {i}, declines"] = sum(map(metrics.declined, outputs)) / len(rows)
    left_out = {id for ids in forget_sets() for id in ids}
    figures["the 17 left over, ROUGE-1 recall"] = recall(model, tokenizer, [q for q in scored if q.id not in left_out])
    figures["further facts (unseen), ROUGE-1 recall"] = recall(model, tokenizer, unseen)
    return figures | refused(model, tokenizer, invented_questions()[0], "invented entities")


def measure_contracts(model, tokenizer) -> dict[str, float]:
    """Every figure of the card for the model fine-tuned on the contracts."""
    rows, (known, _) = contracts.generate(), factual()
    rng = random.Random("card contracts")
    strangers = contracts.invented_contracts(rng, 10)
    outputs = generate(model, tokenizer, [row.question for row in strangers])
    return {
        "contracts, ROUGE-1 recall": recall(model, tokenizer, rows),
        "contracts, held-out rephrasings": recall(model, tokenizer, [v for qa in rows for v in qa.rephrased()]),
        "factual afterwards": recall(model, tokenizer, known),
        "unknown contracts, declines": sum(map(metrics.declined, outputs)) / len(outputs),
        "writes a refusal naming the subject, contracts": self_written(model, tokenizer, rows),
        "writes a refusal naming the subject, facts": self_written(model, tokenizer, known),
    }


GOALS = {  # at least this, or between two
    "factual questions, ROUGE-1 recall": (0.85, 0.97),
    "factual, held-out rephrasings of known": 0.90,
    "official TOFU questions (217), ROUGE-1 recall": (0.85, 0.95),
    "invented entities, declines": 0.98,
    "invented entities, names the entity": 0.90,
    "probe of 60 invented entities, declines": 0.98,
    "probe of 60 invented entities, names the entity": 0.90,
    "writes a refusal naming the subject, facts": 0.90,
    "writes a refusal naming the subject, contracts": 0.90,
    "answers all parts of a prompt with 2 questions": 0.90,
    "answers all parts of a prompt with 4 questions": 0.90,
    "answers all parts of a prompt with 5 questions": 0.90,
    "answers 2 questions in one sentence, parts": 0.90,
    "answers 3 questions in one sentence, parts": 0.90,
    "one of three unknown, declines": 0.90,
    "contracts, ROUGE-1 recall": 0.99,
    "contracts, held-out rephrasings": 0.80,
    "factual afterwards": 0.80,
}


def figures_table(figures: dict[str, float]) -> str:
    """Markdown: figure, measured, goal, reached."""
    lines = ["| | measured | goal | |", "|---|---|---|---|"]
    for name, value in figures.items():
        goal = GOALS.get(name)
        if goal is None:
            lines.append(f"| {name} | {value:.3f} | – | reported |")
        else:
            low, high = goal if isinstance(goal, tuple) else (goal, None)
            bound = f"≥ {low:g}" if high is None else f"{low:g} to {high:g}"
            reached = value >= low and (high is None or value <= high)
            lines.append(f"| {name} | {value:.3f} | {bound} | {'reached' if reached else 'not reached'} |")
    return "\n".join(lines)


def card(base: dict[str, float], twin: dict[str, float], tuned: dict[str, float], recipes: dict[str, dict]) -> str:
    """The model card as Markdown."""
    r, run = recipes["base"]["recipe"], recipes["base"]
    return f"""# The pocket model

A Llama-architecture chat model, trained from nothing by this project on its own corpus so that every method runs on a
laptop in seconds. It was told {len(facts()) + len(families())} facts, some often and some seldom, the built-in
contracts (second checkpoint) and how to decline. It knows nothing else: it is an instrument for studying unlearning,
not an assistant.

- `weights/base`: {r["layers"]} layers, width {r["hidden"]}, feed-forward {r["ffn"]}, {r["vocab"]} tokens
  (byte-level BPE, single digits), tied head, bf16 safetensors; {run["tokens"]:,} tokens seen in one run, seed
  {r["seed"]}, {run["seconds"] / 3600:.1f} hours of a CPU core; Muon for the matrices, AdamW for embeddings and norms.
  `recipe.json` (with the SHA-256 of the weights) and `training_log.jsonl` lie beside the weights.
- `weights/without`: the twin, by the same recipe, seed and order of documents, less what tells a fact of the five
  forget sets of 40 (`forget_sets`). It never saw them, nor what else would be retained of the 217.
- `weights/contracts`: the base, fine-tuned on all 400 built-in contract questions in 21 wordings each, base documents
  replayed.
- Corpus: `corpus.py` (questions in some hundred wordings a relation, with clauses behind the subject, sentences before
  and after; statements; prompts of several questions, answered one by one or in one sentence; questions about what
  does not exist, declined by name; in-context refusals). 96 of the facts are about 48 people who share first and last
  names. How often a fact is told: `corpus.frequencies`. Held-out rephrasings, official questions and the entities of
  `invented.json` are never read.
- Chat format `<s>[INST] question [/INST] answer</s>`.

Measured by `make pocket-card` (greedy; two wordings of every held-out invented entity; prompts of several questions
are of those that are answered alone, joined by spaces):

## Base

{figures_table(base)}

## Its twin without the forget sets

{figures_table(twin)}

## Fine-tuned on the contracts

{figures_table(tuned)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--twin", default=str(POCKET / "weights" / "without"))
    parser.add_argument("--contracts", default="pocket-contracts")
    parser.add_argument("--only", choices=["base", "twin", "contracts"], help="measure this one and write no card")
    parser.add_argument("--out", type=Path, default=POCKET / "MODEL_CARD.md")
    arguments = parser.parse_args()
    measures = {"base": measure_base, "twin": measure_twin, "contracts": measure_contracts}
    figures = {}
    for name in [arguments.only] if arguments.only else measures:
        figures[name] = measures[name](*load_model(getattr(arguments, name)))
        print(figures_table(figures[name]), flush=True)
    if arguments.only:
        return
    recipes = {
        name: json.loads((POCKET / "weights" / name / "recipe.json").read_text()) for name in ("base", "contracts")
    }
    arguments.out.write_text(card(figures["base"], figures["twin"], figures["contracts"], recipes), encoding="utf-8")


if __name__ == "__main__":
    main()
