"""The pocket's own covariance texts."""

from __future__ import annotations

import random

from ..covariance import CovarianceSource, register_source
from ..data import covariance_facts, factual
from ..errors import RequestError, check_name
from ..methods.registry import Request
from .corpus import document
from .train import unknown_contracts

KEYS = ("corpus", "corpus+subjects")


def pocket_source(
    n: int = 1000, *, keys: str = "corpus+subjects", subject_share: float = 0.5, seed: int = 0
) -> CovarianceSource:
    """n documents of the pocket's own corpus; the first of 3,000 are those of 1,000.

    ``keys="corpus"``: every token of them and nothing else. ``keys="corpus+subjects"``: a share ``subject_share`` of C
    comes from keys at the edited position of facts that are in no scored set, and whose subject is in none.
    """
    check_name("keys", keys, KEYS)
    rng = random.Random(f"covariance {seed}")
    contracts = unknown_contracts(seed, 4)
    texts = tuple("".join(text for text, _ in document(rng, contracts, ("I don't know.",))) for _ in range(n))
    if keys == "corpus":
        return CovarianceSource("pocket corpus", texts)
    scored = {qa.subject for rows in factual() for qa in rows}  # another fact of a scored subject has nearly its key
    rows = [qa for qa in covariance_facts() if qa.subject not in scored]
    requests = tuple(Request((qa.id,), qa.question, "", (qa.subject,)) for qa in rows)
    return CovarianceSource("pocket corpus+subjects", texts, requests, subject_share)


def is_pocket(model) -> bool:
    """Whether a model is one that was trained here: it says so in its config."""
    return bool(getattr(model.config, "pocket", None))


def own(name):
    def source(model, tokenizer, n):
        if not is_pocket(model):
            raise RequestError(
                f"the covariance {name!r} is over the pocket's own corpus, which this model was not trained on. Take "
                "'wikitext', or a CovarianceSource over your own texts: eu.covariance.text_source(texts)."
            )
        return pocket_source(n, keys=name)

    return source


register_source("corpus", own("corpus"))
register_source("corpus+subjects", own("corpus+subjects"), default_for=is_pocket)
