"""The covariance of keys, C = E[k kᵀ]: over which texts it is taken. Source: Meng et al. 2022, eq. 2.

Which texts is a choice, made by name (`named_source`) or by handing in texts (`text_source`):

    wikitext     paragraphs of WikiText-2 from the hub: 6.4 MB once, CC BY-SA 3.0 and GFDL
    default      what a model says is its own (the pocket does), wikitext for any other model

and more where somebody registers them (`register_source`; the pocket's are ``corpus`` and ``corpus+subjects``).
Matrices are stored once per (weights, layer, texts, dtype). The paper took 1,000 texts.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from .data import covariance_facts
from .data.facts import facts
from .data.texts import paragraphs
from .errors import DatasetError, RequestError, check_name
from .methods import moments
from .methods.moments import store_matrix, stored_matrix
from .methods.positions import hooked, request_keys
from .methods.registry import Request
from .models import down, down_weight, fingerprint
from .progress import progress
from .text import encode, template_hash

log = logging.getLogger(__name__)
BATCH_TOKENS = 4_096  # of keys held in float64 at once: 0.5 GB with 14,336 dimensions


def hexdigest(parts: Sequence[str]) -> str:
    """Sixteen hex digits of some texts in their order."""
    return hashlib.sha256("".join(f"{part}\0" for part in parts).encode()).hexdigest()[:16]


class _Enough(Exception):
    """Raised at the last layer that is read: the blocks above it need not run."""


@torch.no_grad()
def key_moments(model, tokenizer, texts: Sequence[str], layers: Sequence[int], show: bool) -> dict:
    """``{layer: (Σ k kᵀ in float64, the number of tokens)}`` in one pass over the texts; no key is kept."""
    weights = {layer: down_weight(model, layer) for layer in layers}
    sums = {i: W.new_zeros(W.shape[1], W.shape[1], dtype=torch.float64) for i, W in weights.items()}  # where it lies
    longest, n = getattr(model.config, "max_position_embeddings", None) or BATCH_TOKENS, 0

    def add(layer, real, entering, _):
        k = entering[real.to(entering.device)].double()  # (tokens, d_ffn)
        sums[layer].addmm_(k.T, k)
        if layer == max(layers):
            raise _Enough

    for batch in progress(list(_batches(texts)), desc="covariance", enabled=show):
        encoded = encode(tokenizer, batch, side="right").to(model.device)
        ids, mask = encoded["input_ids"][:, :longest], encoded["attention_mask"][:, :longest]
        n += int(mask.sum())
        with contextlib.suppress(_Enough), contextlib.ExitStack() as stack:
            for layer in layers:
                stack.enter_context(hooked(down(model, layer), functools.partial(add, layer, mask.bool())))
            model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
    return {layer: (total.cpu(), n) for layer, total in sums.items()}


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts of like length together, each batch of about ``BATCH_TOKENS`` tokens with its padding."""
    batch: list[str] = []
    for text in sorted(filter(str.strip, texts), key=len):
        if batch and (len(batch) + 1) * (len(text) // 3 + 8) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(text)
    yield batch


@dataclass(frozen=True)
class CovarianceSource:
    """Texts whose keys make C.

    ``texts`` are read as they are, special tokens written out; what is longer than the model's context is cut. With
    ``requests`` (questions with a subject), a share ``subject_share`` of C comes from their keys at the edited
    position instead: those are what an edit must spare.
    """

    name: str
    texts: tuple[str, ...]
    requests: tuple[Request, ...] = field(default=(), repr=False)
    subject_share: float = 0.0

    def __post_init__(self):
        if not 0 <= self.subject_share <= 1:
            raise RequestError(f"subject_share must lie between 0 and 1, not {self.subject_share!r}.")

    @functools.cached_property
    def digest(self) -> str:
        """Sixteen hex digits of the texts, the requests and their share."""
        return hexdigest([*self.texts, *([str(self.requests), str(self.subject_share)] if self._shared else [])])

    def describe(self) -> dict[str, Any]:
        """What C was taken over, for the record: ``name, texts`` (their number), ``keys, subject_share, digest``."""
        keys, share = "every token of the texts", 0.0
        if self._shared:
            keys, share = f"{keys}, and the edited position of {len(self.requests)} questions", self.subject_share
        about = {"name": self.name, "texts": len(self.texts), "keys": keys}
        return about | {"subject_share": share, "digest": self.digest}

    @property
    def _shared(self) -> bool:
        return bool(self.requests and self.subject_share)

    def matrices(
        self, model, tokenizer, layers: Sequence[int], *, prompt_format="chat", fact_token="subject_last", show=True
    ) -> dict[int, torch.Tensor]:
        """{layer: C}, (d_ffn, d_ffn) float64 on the CPU; read from the cache where it is there."""
        if not any(text.strip() for text in self.texts):
            raise DatasetError(f"the covariance source {self.name!r} holds no texts.")
        # the same text has other tokens, so other keys, under another tokenizer
        first = str(encode(tokenizer, self.texts[:1])["input_ids"].tolist())
        form = (prompt_format, fact_token, template_hash(tokenizer)) if self._shared else ()
        content = f"{hexdigest((self.digest, first, *form))}-n{len(self.texts)}"
        folder = moments.CACHE / "covariance" / f"{fingerprint(model)}-{content}-{str(model.dtype)[6:]}"
        C = {i: stored_matrix(folder / f"{i}.safetensors", "C", down_weight(model, i).shape[1]) for i in layers}
        missing = [layer for layer in layers if C[layer] is None]
        if missing and self._shared:
            plain = replace(self, requests=()).matrices(model, tokenizer, missing, show=show)  # stored on its own
            for layer in missing:
                K = request_keys(model, tokenizer, self.requests, layer, ["{}"], prompt_format, fact_token)[0]
                K = K.double().cpu()
                C[layer] = (1 - self.subject_share) * plain[layer] + self.subject_share * (K.T @ K) / len(K)
        elif missing:
            C |= {i: total / n for i, (total, n) in key_moments(model, tokenizer, self.texts, missing, show).items()}
        for layer in missing:
            store_matrix(folder / f"{layer}.safetensors", "C", C[layer])
        return C


Source = Callable[[Any, Any, int], CovarianceSource]  # (model, tokenizer, n texts)
SOURCES: dict[str, Source] = {}
DEFAULTS: list[tuple[Callable[[Any], bool], str]] = []  # (is it for this model?, the name of its own source)


def register_source(name: str, function: Source, *, default_for: Callable[[Any], bool] | None = None) -> None:
    """Make a source known by its name; ``default_for(model)``: whether it is what "default" means for a model."""
    SOURCES[name] = function
    if default_for:
        DEFAULTS.append((default_for, name))


def named_source(name: str, model, tokenizer, n: int = 1000) -> CovarianceSource:
    """The source of a name in ``SOURCES``, with n texts.

    Raises `UnknownNameError`; `RequestError` where a source is another model's own; `DatasetError` where ``wikitext``
    cannot be read (``default`` then falls back on built-in statements, with a warning).
    """
    check_name("covariance", name, SOURCES)
    return SOURCES[name](model, tokenizer, n)


def source_of(covariance: Any, model, tokenizer) -> CovarianceSource:
    """The source that `unlearn` is asked to read: one, or the name of one. Raises `RequestError` for anything else."""
    if covariance is None or isinstance(covariance, str):
        return named_source(covariance or "default", model, tokenizer)
    if not isinstance(covariance, CovarianceSource):
        raise RequestError("covariance must be {layer: tensor}, a CovarianceSource or the name of one.")
    return covariance


def select_layers(covariance: Mapping[int, torch.Tensor], model, layers: Sequence[int]) -> dict[int, torch.Tensor]:
    """The matrices of these layers; `RequestError` where one is missing or of another shape."""
    if missing := [layer for layer in layers if layer not in covariance]:
        raise RequestError(f"covariance has no matrix for the layers {missing}; it has {sorted(covariance)}.")
    for layer in layers:
        size, shape = down_weight(model, layer).shape[1], tuple(covariance[layer].shape)
        if shape != (size, size):
            raise RequestError(f"covariance of layer {layer}: {(size, size)} is needed, not {shape}.")
    return {layer: covariance[layer] for layer in layers}


def default_source(model, tokenizer, n: int = 1000) -> CovarianceSource:
    """A model's own source; WikiText-2 for other models, or the built-in statements without the hub."""
    for is_own, name in DEFAULTS:
        if is_own(model):
            return SOURCES[name](model, tokenizer, n)
    try:
        return hub_source(n)
    except DatasetError as error:
        log.warning(
            "C is taken over a few built-in statements, since %s Texts of your own: "
            "covariance=eu.covariance.text_source(texts). HF_HUB_OFFLINE=1 spares the wait for the hub.",
            error,
        )
        return statement_source(n)


def text_source(texts: Sequence[str], name: str = "texts") -> CovarianceSource:
    """Any texts of your own."""
    if isinstance(texts, str):
        raise DatasetError("text_source needs a list of texts, not one text.")
    return CovarianceSource(name, tuple(texts))


def statement_source(n: int = 1000) -> CovarianceSource:
    """n texts of five statements each, of facts that are in no scored set: small, but it needs no network."""
    spare = {qa.id for qa in covariance_facts()}
    statements = [statement for fact in facts() if fact.id in spare for statement in fact.statements]
    rng = random.Random(0)
    return text_source([" ".join(rng.sample(statements, 5)) for _ in range(n)], "built-in statements")


def hub_source(
    n: int = 1000, *, seed: int = 0, min_words: int = 50, source: str | Path | None = None
) -> CovarianceSource:
    """n paragraphs of at least ``min_words`` words, drawn by seed; the first of 3,000 are those of 1,000.

    From WikiText-2 (raw, training part) on the hub: one file of 6.4 MB with some 2 million words of Wikipedia's good
    and featured articles (Merity et al. 2017), CC BY-SA 3.0 and GFDL, at a fixed revision; no remote code is run. Or
    from ``source``, a file or folder (`data.texts.paragraphs`). Raises `DatasetError`.
    """
    name, texts = paragraphs(source, min_words)
    if n > len(texts):
        raise DatasetError(
            f"{name}: n={n}, but it holds {len(texts)} paragraphs of at least {min_words} words: ask for fewer "
            "texts, or lower min_words."
        )
    return text_source(random.Random(f"covariance {seed}").sample(texts, len(texts))[:n], name)


register_source("default", default_source)
register_source("wikitext", lambda model, tokenizer, n: hub_source(n))
