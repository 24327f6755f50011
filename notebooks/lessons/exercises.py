"""What the exercises of the workshop work on: ten questions, and what they read off records, a model and texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch

from editunlearn_lib import metrics
from editunlearn_lib.data import QA, ForgetSplit, load_split
from editunlearn_lib.hparams import resolve
from editunlearn_lib.methods import positions
from editunlearn_lib.recipes.query_merging import merge_requests
from editunlearn_lib.show import answer_words


def questions(*, n_forget: int = 10, n_retain: int = 30, seed: int = 102) -> ForgetSplit:
    """Ten built-in facts to forget, their rewordings, and thirty others to keep: few, so that a laptop asks them in
    seconds. The seed is none that the book reports.
    """
    split = load_split("factual", n_forget=n_forget, seed=seed)
    return replace(split, retain=split.retain[:n_retain], unseen=())


def outcomes(records: pd.DataFrame) -> pd.DataFrame:
    """Per set: ROUGE-1 recall, and the share of each outcome in per cent."""
    groups = records.groupby("set", sort=False)
    shares = groups["outcome"].value_counts(normalize=True).unstack(fill_value=0)
    shares = shares.reindex(columns=metrics.OUTCOMES, fill_value=0).mul(100).round().astype(int).add_suffix(" %")
    return shares.assign(rouge1_recall=groups["rouge1_recall"].mean().round(2)).reindex(groups.groups)


def edit_keys(model, tokenizer, qas: Sequence[QA], m: int = 1) -> torch.Tensor:
    """``(groups, d_ffn)``: the keys at MEMIT's first layer when every m questions are one text, minus the mean key.

    A key is the input of the layer's down projection at the last token of the (last) subject. The mean is that of the
    single questions' keys, so a cosine of 0 means "no nearer than any two keys".
    """
    layer = resolve("memit", model.config, None).layers[0]

    def keys(size: int) -> torch.Tensor:
        requests = merge_requests(qas, ["x"] * -(-len(qas) // size), size)  # the target is not read
        return positions.request_keys(model, tokenizer, requests, layer, ("{}",), "chat", "subject_last")[0]

    alone = keys(1)
    return (alone if m == 1 else keys(m)) - alone.mean(0)


def review(texts: Sequence[str], qas: Sequence[QA]) -> pd.DataFrame:
    """One row per text: does it decline, does it name the subject, how many words of the answer does it leak?"""
    rows = [
        {
            "question": qa.question,
            "text": text,
            "declines": metrics.declined(text),
            "names the subject": metrics.names_subject(text, qa.subject) if qa.subject else True,
            "leaked words": len(answer_words(text, qa.answer, qa.question)),
        }
        for text, qa in zip(texts, qas, strict=True)
    ]
    return pd.DataFrame(rows)
