"""The covariance of keys, C = E[k kᵀ]: uncentred, over the real tokens of some texts.

Source: Meng et al. 2022, eq. 2; ROME, MEMIT and AlphaEdit need it. The paper used 1,000 texts. Which texts is a choice,
made by name (`named_source`) or by handing in texts (`text_source`):

    corpus            the pocket's own training text; facts of every set occur in it, since the model has read them all
    corpus+subjects   half of C from that text, half from keys at the subjects of facts that are in no scored set
    wikitext          paragraphs of WikiText-2 from the hub: 6.4 MB once, CC BY-SA 3.0 and GFDL
    default           corpus+subjects for the pocket, wikitext for any other model

Matrices are stored once per (weights, layer, texts, dtype), projectors of AlphaEdit once per (C, threshold).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .errors import DatasetError, RequestError, check_name
from .methods.hooks import hooked
from .methods.locate import Request, keys
from .models import down, down_weight, encode, fingerprint, template_hash
from .progress import progress
from .store import whole

log = logging.getLogger(__name__)

CACHE = Path(os.environ.get("EDITUNLEARN_CACHE", Path.home() / ".cache" / "editunlearn"))
BATCH_TOKENS = 4_096  # of keys held in float64 at once: 0.5 GB with 14,336 dimensions
SOURCES = ("default", "corpus", "corpus+subjects", "wikitext")
KEYS = ("corpus", "corpus+subjects")  # what the pocket's covariance covers
WIKITEXT = (  # hub id, revision, the one file that is read
    "Salesforce/wikitext",
    "b08601e04326c79dfdd32d625aee71d232d685c3",
    "wikitext-2-raw-v1/train-00000-of-00001.parquet",
)


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
        parts = (*self.texts, *([str(self.requests), str(self.subject_share)] if self._shared else []))
        return _hexdigest(parts)

    def describe(self) -> dict[str, Any]:
        """What C was taken over, for the record: ``name, texts`` (their number), ``keys, subject_share, digest``."""
        covered = "every token of the texts"
        if self._shared:
            covered += f", and the edited position of {len(self.requests)} questions"
        return {
            "name": self.name,
            "texts": len(self.texts),
            "keys": covered,
            "subject_share": self.subject_share if self._shared else 0.0,
            "digest": self.digest,
        }

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
        asked = (prompt_format, fact_token, template_hash(tokenizer)) if self._shared else ()
        content = _hexdigest((self.digest, first, *asked))
        folder = CACHE / "covariance" / f"{fingerprint(model)}-{content}-n{len(self.texts)}-{str(model.dtype)[6:]}"
        found = {i: _stored(folder / f"{i}.safetensors", "C", down_weight(model, i).shape[1]) for i in layers}
        missing = [layer for layer in layers if found[layer] is None]
        if missing and self._shared:
            plain = replace(self, requests=()).matrices(model, tokenizer, missing, show=show)  # stored on its own
            for layer in missing:
                K = keys(model, tokenizer, self.requests, layer, ["{}"], prompt_format, fact_token)[0].double().cpu()
                found[layer] = (1 - self.subject_share) * plain[layer] + self.subject_share * (K.T @ K) / len(K)
        elif missing:
            found |= {i: total / n for i, (total, n) in _moments(model, tokenizer, self.texts, missing, show).items()}
        for layer in missing:
            _store(folder / f"{layer}.safetensors", "C", found[layer])
        return found


class _Enough(Exception):
    """Raised at the last layer that is read: the blocks above it need not run."""


@torch.no_grad()
def _moments(
    model, tokenizer, texts: Sequence[str], layers: Sequence[int], show: bool
) -> dict[int, tuple[torch.Tensor, int]]:
    """Σ k kᵀ in float64 and the number of tokens, every layer in one pass over the texts; no key is kept."""
    sums = {layer: [None, 0] for layer in layers}
    longest = getattr(model.config, "max_position_embeddings", None) or BATCH_TOKENS
    for batch in progress(list(_batches(texts)), desc="covariance", enabled=show):
        encoded = encode(tokenizer, batch, side="right").to(model.device)
        ids, mask = encoded["input_ids"][:, :longest], encoded["attention_mask"][:, :longest]
        real = mask.bool()

        def collect(layer, real=real):
            def add(entering, _):
                k = entering[real.to(entering.device)].double()  # (tokens, d_ffn), where the layer lies
                if sums[layer][0] is None:
                    sums[layer][0] = k.new_zeros(k.shape[1], k.shape[1])
                sums[layer][0].addmm_(k.T, k)
                sums[layer][1] += len(k)
                if layer == max(layers):
                    raise _Enough

            return add

        with contextlib.suppress(_Enough), contextlib.ExitStack() as stack:
            for layer in layers:
                stack.enter_context(hooked(down(model, layer), collect(layer)))
            model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
    return {layer: (total.cpu(), n) for layer, (total, n) in sums.items()}


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts of like length together, each batch of about ``BATCH_TOKENS`` tokens with its padding."""
    batch: list[str] = []
    for text in sorted(filter(str.strip, texts), key=len):
        if batch and (len(batch) + 1) * (len(text) // 3 + 8) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(text)
    yield batch


# ---------------------------------------------------------------- AlphaEdit's projector


def null_space(C: torch.Tensor, threshold: float) -> torch.Tensor:
    """P = U Uᵀ over the eigenvectors of C whose eigenvalue is below the threshold, (d, d) float64 where C lies.

    C is symmetrised first. P is stored under the bytes of C and the threshold: `eigh` runs once for each. Raises
    `RequestError` where no eigenvalue is below the threshold: then P = 0 and nothing could be edited.
    """
    if C.ndim != 2 or C.shape[0] != C.shape[1]:
        raise RequestError(f"null_space needs a square matrix, not one of shape {tuple(C.shape)}.")
    if not torch.isfinite(C).all():
        raise RequestError("C has entries that are not finite: its keys overflowed. Load the model in a wider dtype.")
    C, threshold = C.detach().double(), float(threshold)
    digest = hashlib.sha256(C.cpu().contiguous().numpy()).hexdigest()
    path = CACHE / "null_space" / f"{digest}-{threshold!r}.safetensors"
    P = _stored(path, "P", len(C))
    if P is None:
        values, vectors = torch.linalg.eigh((C + C.T) / 2)  # ascending
        U = vectors[:, values < threshold]  # (d, r)
        if not U.shape[1]:
            raise RequestError(
                f"no eigenvalue of C is below nullspace_threshold={threshold:g} (the smallest is {values[0]:.3g}), so "
                "there is no direction in which AlphaEdit may edit: choose a larger threshold."
            )
        P = U @ U.T
        P = (P + P.T) / 2  # symmetric to the last bit
        _store(path, "P", P)
    return P.to(C.device)


# ---------------------------------------------------------------- the cache


def _hexdigest(parts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


def _stored(path: Path, name: str, size: int) -> torch.Tensor | None:
    """A stored (size, size) matrix; ``None`` where there is none, with a warning where it cannot be read."""
    try:
        matrix = load_file(path)[name]
        if matrix.shape == (size, size) and matrix.dtype == torch.float64 and torch.isfinite(matrix).all():
            return matrix
        problem = "it is not the matrix that belongs there"
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError) as error:
        problem = f"{type(error).__name__}: {error}"
    log.warning("the stored matrix %s cannot be used (%s): it is computed again.", path, problem)
    return None


def _store(path: Path, name: str, matrix: torch.Tensor) -> None:
    """Whole or not at all, under a name of its own first: several processes may store the same matrix.

    A cache is a convenience: where it cannot be written the matrix is simply computed again next time.
    """
    with contextlib.suppress(OSError, SafetensorError), whole(path) as temporary:
        save_file({name: matrix.cpu().contiguous()}, temporary)


# ---------------------------------------------------------------- which texts


def named_source(name: str, model, tokenizer, n: int = 1000) -> CovarianceSource:
    """The source of a name in ``SOURCES``, with n texts.

    Raises `UnknownNameError`; `RequestError` where the pocket's corpus is asked for and the model is no pocket;
    `DatasetError` where ``wikitext`` cannot be read (``default`` then falls back, with a warning).
    """
    check_name("covariance", name, SOURCES)
    if name == "default":
        return default_source(model, tokenizer, n)
    if name == "wikitext":
        return hub_source(n)
    if not _is_pocket(model):
        raise RequestError(
            f"the covariance {name!r} is over the pocket's own corpus, which this model was not trained on. Take "
            "'wikitext', or a CovarianceSource over your own texts: eu.covariance.text_source(texts)."
        )
    return pocket_source(n, keys=name)


def default_source(model, tokenizer, n: int = 1000) -> CovarianceSource:
    """``corpus+subjects`` for the pocket; WikiText-2 for other models, or the built-in statements without the hub."""
    if _is_pocket(model):
        return pocket_source(n)
    try:
        return hub_source(n)
    except DatasetError as error:
        log.warning(
            "C is taken over a few built-in statements, since %s Texts of your own: "
            "covariance=eu.covariance.text_source(texts). HF_HUB_OFFLINE=1 spares the wait for the hub.",
            error,
        )
        return statement_source(n)


def _is_pocket(model) -> bool:
    return bool(getattr(model.config, "pocket", None))  # written into its config.json when it was trained


def pocket_source(
    n: int = 1000, *, keys: str = "corpus+subjects", subject_share: float = 0.5, seed: int = 0
) -> CovarianceSource:
    """n documents of the pocket's own corpus; the first of 3,000 are those of 1,000.

    ``keys="corpus"``: every token of them and nothing else. ``keys="corpus+subjects"``: a share ``subject_share`` of C
    comes from keys at the edited position of facts that are in no scored set, and whose subject is in none.
    """
    from .data import covariance_facts, factual
    from .pocket.corpus import document, unknown_contracts

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


def text_source(texts: Sequence[str], name: str = "texts") -> CovarianceSource:
    """Any texts of your own."""
    if isinstance(texts, str):
        raise DatasetError("text_source needs a list of texts, not one text.")
    return CovarianceSource(name, tuple(texts))


def statement_source(n: int = 1000, *, seed: int = 0) -> CovarianceSource:
    """n texts of five statements each, of facts that are in no scored set: small, but it needs no network."""
    from .data import covariance_facts
    from .data.facts import facts

    spare = {qa.id for qa in covariance_facts()}
    statements = [statement for fact in facts() if fact.id in spare for statement in fact.statements]
    rng = random.Random(seed)
    return text_source([" ".join(rng.sample(statements, 5)) for _ in range(n)], "built-in statements")


def hub_source(
    n: int = 1000, *, seed: int = 0, min_words: int = 50, source: str | Path | None = None
) -> CovarianceSource:
    """n paragraphs of at least ``min_words`` words, drawn by seed; the first of 3,000 are those of 1,000.

    From WikiText-2 (raw, training part) on the hub: one file of 6.4 MB with some 2 million words of Wikipedia's good
    and featured articles (Merity et al. 2017), CC BY-SA 3.0 and GFDL, at a fixed revision; no remote code is run. Or from
    ``source``: a ``.parquet`` or ``.jsonl`` file with the field ``text``, a ``.txt`` file with a paragraph a line, or
    a folder of such files. Raises `DatasetError`.
    """
    name, lines = _wikitext() if source is None else _local(Path(source))
    paragraphs = [line for line in lines if len(line.split()) >= min_words]
    if n > len(paragraphs):
        raise DatasetError(
            f"{name}: n={n}, but it holds {len(paragraphs)} paragraphs of at least {min_words} words: ask for fewer "
            "texts, or lower min_words."
        )
    drawn = random.Random(f"covariance {seed}").sample(paragraphs, len(paragraphs))[:n]
    return text_source([_untokenised(text) for text in drawn], name)


def _wikitext() -> tuple[str, list[str]]:
    hub, revision, file = WIKITEXT
    try:
        import datasets

        table = datasets.load_dataset(hub, revision=revision, data_files=file, split="train")
        return f"hub:{hub}/{file}@{revision[:7]}", list(table["text"])
    except Exception as error:
        raise DatasetError(
            f"the hub could not give {hub}/{file} ({type(error).__name__}: {str(error).split(chr(10))[0]}). "
            "Download the file and pass eu.covariance.hub_source(source='path/to/file')."
        ) from error


def _local(path: Path) -> tuple[str, list[str]]:
    """The paragraphs of a file, or of all files of a folder in the order of their names."""
    readers = {".parquet": _read_parquet, ".jsonl": _read_jsonl, ".txt": _read_lines}
    files = sorted(file for file in path.rglob("*") if file.suffix in readers) if path.is_dir() else [path]
    if not files:
        raise DatasetError(f"{path}: no {', '.join(readers)} file in this folder.")
    lines = []
    for file in files:
        if file.suffix not in readers:
            raise DatasetError(f"{file}: texts are read from {', '.join(readers)} files.")
        if not file.is_file():
            raise DatasetError(f"{file}: there is no such file.")
        lines += readers[file.suffix](file)
    return str(path), lines


def _read_parquet(path: Path) -> list[str]:
    import pandas as pd

    try:
        rows = pd.read_parquet(path).to_dict("records")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not a valid parquet file ({str(error).split(chr(10))[0]}).") from error
    return _texts(path, rows)


def _read_jsonl(path: Path) -> list[str]:
    rows = []
    for number, line in enumerate(_read_lines(path), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (json.JSONDecodeError, RecursionError) as error:
                raise DatasetError(f"{path}, line {number}: not valid JSON ({error}).") from error
    return _texts(path, rows)


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as UTF-8 text ({error}).") from error


def _texts(path: Path, rows: list[Any]) -> list[str]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise DatasetError(f"{path}, row {number}: the field 'text' is missing or no text.")
    return [row["text"] for row in rows]


def _untokenised(text: str) -> str:
    """WikiText's spaces around marks undone: nobody writes ``1 @,@ 000 ( about )``, and each space is another key."""
    text = re.sub(r" @([-,.])@ ", r"\1", text.strip())
    text = re.sub(r" ([,.;:!?)\]%])", r"\1", text)
    return re.sub(r"([(\[$]) ", r"\1", re.sub(r" ('s|n't|'re|'ve|'d|'ll|'m)\b", r"\1", text))
