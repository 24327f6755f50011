"""What the pocket adds to the rooms below, on import: its corpus as covariance, the retrained model as reference."""

from __future__ import annotations

import random

from ..covariance import CovarianceSource, register_source
from ..data import covariance_facts, factual
from ..errors import RequestError
from ..methods.registry import Request
from ..study.cell import register_reference
from .corpus import document, unknown_contracts
from .train import retrained


def corpus_source(model, tokenizer, n: int) -> CovarianceSource:
    """Every token of n documents of the pocket's own corpus; the first of 3,000 are those of 1,000."""
    return CovarianceSource("pocket corpus", _documents(model, "corpus", n))


def corpus_and_subjects_source(model, tokenizer, n: int) -> CovarianceSource:
    """Half of C from n documents, half from keys of facts that are in no scored set, and whose subject is in none."""
    texts = _documents(model, "corpus+subjects", n)
    subjects = {qa.subject for rows in factual() for qa in rows}  # another fact of a scored subject has nearly its key
    rows = [qa for qa in covariance_facts() if qa.subject not in subjects]
    requests = tuple(Request((qa.id,), qa.question, "", (qa.subject,)) for qa in rows)
    return CovarianceSource("pocket corpus+subjects", texts, requests, 0.5)


def _documents(model, name: str, n: int) -> tuple[str, ...]:
    if not getattr(model.config, "pocket", None):  # written into its config.json when it was trained
        raise RequestError(
            f"the covariance {name!r} is over the pocket's own corpus, which this model was not trained on. Take "
            "'wikitext', or a CovarianceSource over your own texts: eu.covariance.text_source(texts)."
        )
    rng, unknown = random.Random("covariance 0"), unknown_contracts(0, 4)
    return tuple("".join(text for text, _ in document(rng, unknown, ("I don't know.",))) for _ in range(n))


register_source("corpus", corpus_source)
register_source(
    "corpus+subjects", corpus_and_subjects_source, default_for=lambda model: bool(getattr(model.config, "pocket", None))
)
register_reference("retrained", retrained, models=("pocket-contracts",))
