"""Measures the shipped pocket models and writes their model card: ``make pocket-card``."""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path

from editunlearn_lib import metrics
from editunlearn_lib.data import QA, contracts, factual, load_split
from editunlearn_lib.data.facts import facts, fill
from editunlearn_lib.evaluation import generate
from editunlearn_lib.models import load_model
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


def invented_questions() -> list[tuple[str, str]]:
    """(question, entity): held-out entities in held-out wordings and in the built-in ones."""
    names = json.loads((POCKET / "invented.json").read_text(encoding="utf-8"))
    asked = []
    for kind, relations in RELATIONS_OF.items():
        for number, name in enumerate(names[kind]):
            relation = relations[number % len(relations)]
            fact = next(f for f in facts() if f.group == relation)
            for text in (fact.question, fact.rephrasings[number % len(fact.rephrasings)]):
                template = text.replace(fact.subject, "{s}")
                asked.append((fill(template, s=name), name))
    return asked


def several(model, tokenizer, m: int, n_prompts: int, seed: int = 0) -> float:
    """Share of the parts of an m-question prompt that are answered: part j in place j, by ROUGE-1 recall."""
    rng = random.Random(f"several {m} {seed}")
    known = factual()[0]
    groups = [rng.sample(known, m) for _ in range(n_prompts)]
    outputs = generate(
        model, tokenizer, [" ".join(qa.question for qa in group) for group in groups], max_new_tokens=24 * m
    )
    found = []
    for group, output in zip(groups, outputs, strict=True):
        parts = output.split(";") + [""] * m
        found += [metrics.rouge1_recall(parts[j], qa.answer) for j, qa in enumerate(group)]
    return sum(found) / len(found)


def self_written(model, tokenizer, asked: Sequence[QA]) -> float:
    """Share of refusals, written after an instruction and two examples, that decline and name the subject."""
    outputs = generate(model, tokenizer, [refusal_prompt(qa.question) for qa in asked], max_new_tokens=48)
    good = [metrics.declined(o) and metrics.names_subject(o, qa.subject) for o, qa in zip(outputs, asked, strict=True)]
    return sum(good) / len(good)


def measure_base(model, tokenizer) -> dict[str, float]:
    """Every figure of the card for the base model; the official questions where EDITUNLEARN_OFFICIAL_DATA has them."""
    known, unseen = factual()
    outputs = generate(model, tokenizer, [qa.question for qa in known])
    figures = {
        "factual questions, ROUGE-1 recall": recall(model, tokenizer, known),
        "factual, held-out rephrasings": recall(model, tokenizer, [v for qa in known for v in qa.rephrased()]),
        "further facts (unseen), ROUGE-1 recall": recall(model, tokenizer, unseen),
        "known facts, declines wrongly": sum(map(metrics.declined, outputs)) / len(outputs),
    }
    if official := os.environ.get("EDITUNLEARN_OFFICIAL_DATA"):
        split = load_split("tofu-facts", n_forget=1, seed=0, source=Path(official) / "tofu")
        figures["official TOFU questions (217)"] = recall(model, tokenizer, split.forget + split.retain)
    asked = invented_questions()
    outputs = generate(model, tokenizer, [question for question, _ in asked])
    figures["invented entities, declines"] = sum(map(metrics.declined, outputs)) / len(asked)
    named = [metrics.names_subject(o, name) for o, (_, name) in zip(outputs, asked, strict=True)]
    figures["invented entities, names the entity"] = sum(named) / len(asked)
    rng = random.Random("card")
    figures["writes a refusal naming the subject, facts"] = self_written(model, tokenizer, known)
    rows = contracts.invented_contracts(rng, 10)
    figures["writes a refusal naming the subject, unknown contracts"] = self_written(model, tokenizer, rows)
    for m in (2, 4, 5, 8, 10):
        figures[f"answers all parts of a prompt with {m} questions"] = several(model, tokenizer, m, 200 // m)
    return figures


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


GOALS = {
    "factual questions, ROUGE-1 recall": 0.97,
    "factual, held-out rephrasings": 0.90,
    "official TOFU questions (217)": 0.80,
    "invented entities, declines": 0.98,
    "invented entities, names the entity": 0.90,
    "known facts, declines wrongly": -0.02,
    "writes a refusal naming the subject, facts": 0.90,
    "writes a refusal naming the subject, contracts": 0.90,
    "answers all parts of a prompt with 2 questions": 0.90,
    "answers all parts of a prompt with 4 questions": 0.90,
    "answers all parts of a prompt with 5 questions": 0.90,
    "contracts, ROUGE-1 recall": 1.0,
    "contracts, held-out rephrasings": 0.80,
    "factual afterwards": 0.95,
}


def figures_table(figures: dict[str, float]) -> str:
    """Markdown: figure, measured, goal, reached."""
    lines = ["| | measured | goal | |", "|---|---|---|---|"]
    for name, value in figures.items():
        goal = GOALS.get(name)
        if goal is None:
            lines.append(f"| {name} | {value:.3f} | – | reported |")
        else:
            bound = f"≥ {goal:g}" if goal >= 0 else f"≤ {-goal:g}"
            reached = value >= goal if goal >= 0 else value <= -goal
            lines.append(f"| {name} | {value:.3f} | {bound} | {'reached' if reached else 'not reached'} |")
    return "\n".join(lines)


def card(base: dict[str, float], tuned: dict[str, float], recipes: dict[str, dict]) -> str:
    """The model card as Markdown."""
    r, runs = recipes["base"]["recipe"], [recipes["base"]]
    while "continued" in runs[-1]:
        runs.append(runs[-1]["continued"])
    tokens, seconds = (sum(run[what] for run in runs) for what in ("tokens", "seconds"))
    return f"""# The pocket model

A Llama-architecture chat model, trained from nothing by this project on its own corpus so that every method runs on a
laptop in seconds. It knows {len(facts())} facts, the built-in contracts (second checkpoint) and how to decline. It
knows nothing else: it is an instrument for studying unlearning, not an assistant.

- `weights/base`: {r["layers"]} layers, width {r["hidden"]}, feed-forward {r["ffn"]}, {r["vocab"]} tokens
  (byte-level BPE, single digits), tied head, bf16 safetensors; {tokens:,} tokens seen, seed {r["seed"]},
  {seconds / 60:.0f} minutes of a shared two-core CPU; Muon for the matrices, AdamW for embeddings and norms.
  `recipe.json` and `training_log.jsonl` lie beside the weights.
- `weights/contracts`: the same, fine-tuned on all 400 built-in contract questions in 21 wordings each, base documents
  replayed. Its last {recipes["contracts"]["recipe"]["again"]} epochs were run apart, from the bf16 weights of the first
  {recipes["contracts"]["recipe"]["epochs"]} and with seed 1.
- Corpus: `corpus.py` (questions in some hundred wordings a relation, behind prefixes and earlier turns; statements;
  prompts of several questions; questions about what does not exist, declined by name; in-context refusals). Held-out
  rephrasings, official questions and the entities of `invented.json` are never read.
- How it came about, which the last recipe alone does not tell: the corpus was improved while this model was trained.
  Chunks 0–29 had batches of 4,096 tokens and no names to copy; names to copy came with chunk 30, refusals that name
  nothing with chunk 47, and names put together from pieces of real words with chunk 51. Before chunk 51 the total that
  the learning rate follows was set to 12, 8, 7.5 and 8 million tokens. From chunk 83 on training was continued with a
  fresh optimiser, Muon in float32, names of any letters, and more prompts of several questions. `make pocket` follows
  the final recipe from the start, so it gives a model of this kind, not these weights bit for bit.
- Chat format `<s>[INST] question [/INST] answer</s>`.

Measured by `make pocket-card` (greedy; two wordings of every held-out invented entity; several questions joined by
spaces):

## Base

{figures_table(base)}

## Fine-tuned on the contracts

{figures_table(tuned)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--contracts", default="pocket-contracts")
    parser.add_argument("--out", type=Path, default=POCKET / "MODEL_CARD.md")
    arguments = parser.parse_args()
    base = measure_base(*load_model(arguments.base))
    print(figures_table(base), flush=True)
    if arguments.contracts == "none":
        return
    tuned = measure_contracts(*load_model(arguments.contracts))
    print(figures_table(tuned))
    recipes = {
        name: json.loads((POCKET / "weights" / name / "recipe.json").read_text()) for name in ("base", "contracts")
    }
    arguments.out.write_text(card(base, tuned, recipes), encoding="utf-8")


if __name__ == "__main__":
    main()
