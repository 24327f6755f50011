"""The covariance of keys, C = E[k kᵀ]: uncentred, over the real tokens of some texts.

Source: Meng et al. 2022, eq. 2; ROME, MEMIT and AlphaEdit need it. The paper used 1,000 texts. Which texts is a
parameter: nothing is downloaded unless a hub data set is named. Results are stored once per (weights, layer, texts).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .errors import DatasetError
from .methods.locate import CHUNK_TOKENS, Request, hooked, keys
from .models import down, encode, fingerprint
from .progress import progress

CACHE = Path(os.environ.get("EDITUNLEARN_CACHE", Path.home() / ".cache" / "editunlearn"))


@dataclass(frozen=True)
class CovarianceSource:
    """Texts whose keys make C.

    ``texts`` are read as they are, special tokens written out. With ``requests`` (questions with a subject), a share
    ``subject_share`` of C comes from their keys at the edited position instead: those are what an edit must spare.
    """

    name: str
    texts: tuple[str, ...]
    requests: tuple[Request, ...] = field(default=(), repr=False)
    subject_share: float = 0.0

    def matrices(
        self, model, tokenizer, layers: Sequence[int], *, prompt_format="chat", fact_token="subject_last", show=True
    ) -> dict[int, torch.Tensor]:
        """{layer: C}, (d_ffn, d_ffn) float64 on the CPU; read from the cache where it is there."""
        if not self.texts:
            raise DatasetError(f"the covariance source {self.name!r} holds no texts.")
        digest = hashlib.sha256()
        for part in (*self.texts, prompt_format, fact_token, str(self.subject_share), str(self.requests)):
            digest.update(part.encode() + b"\0")
        folder = CACHE / "covariance" / f"{fingerprint(model)}-{digest.hexdigest()[:16]}-{str(model.dtype)[6:]}"
        missing = [layer for layer in layers if not (folder / f"{layer}.safetensors").exists()]
        found = {}
        if missing:
            found = {layer: C / n for layer, (C, n) in _moments(model, tokenizer, self.texts, missing, show).items()}
            if self.requests and self.subject_share:
                for layer in missing:
                    K = (
                        keys(model, tokenizer, self.requests, layer, ["{}"], prompt_format, fact_token)[0]
                        .double()
                        .cpu()
                    )
                    share = self.subject_share
                    found[layer] = (1 - share) * found[layer] + share * (K.T @ K) / len(K)
            for layer, C in found.items():
                _store(folder / f"{layer}.safetensors", C)
        return {
            layer: found[layer] if layer in found else load_file(folder / f"{layer}.safetensors")["C"]
            for layer in layers
        }


def _store(path: Path, C: torch.Tensor) -> None:
    """A cache is a convenience: where it cannot be written the matrix is simply computed again next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        save_file({"C": C.contiguous()}, temporary)
        os.replace(temporary, path)
    except OSError:
        pass


@torch.no_grad()
def _moments(
    model, tokenizer, texts: Sequence[str], layers: Sequence[int], show: bool
) -> dict[int, tuple[torch.Tensor, int]]:
    """Σ k kᵀ and the number of tokens, every layer in one pass over the texts."""
    sums = {layer: [None, 0] for layer in layers}
    texts = sorted(texts, key=len)
    size = max(1, CHUNK_TOKENS // (len(texts[-1]) // 3 + 8))
    for start in progress(range(0, len(texts), size), desc="covariance", enabled=show):
        encoded = encode(tokenizer, texts[start : start + size], side="right").to(model.device)
        real = encoded["attention_mask"].bool()

        def collect(layer, real=real):
            def add(entering, _):
                k = entering[real].double()  # (tokens, d_ffn)
                total = k.T @ k
                sums[layer][0] = total if sums[layer][0] is None else sums[layer][0] + total
                sums[layer][1] += len(k)

            return add

        with contextlib.ExitStack() as stack:
            for layer in layers:
                stack.enter_context(hooked(down(model, layer), collect(layer)))
            model(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                use_cache=False,
                logits_to_keep=1,
            )
    return {layer: (total.cpu(), n) for layer, (total, n) in sums.items()}


def pocket_source(n: int = 1000, *, subject_share: float = 0.5, seed: int = 0) -> CovarianceSource:
    """The pocket's default: documents of its own corpus, and subject keys of facts that are in no scored set."""
    from .data import covariance_facts
    from .pocket.corpus import document
    from .pocket.train import unknown_contracts

    rng = random.Random(f"covariance {seed}")
    contracts = unknown_contracts(seed, 4)
    texts = tuple("".join(text for text, _ in document(rng, contracts, ("I don't know.",))) for _ in range(n))
    requests = tuple(Request((qa.id,), qa.question, "", (qa.subject,)) for qa in covariance_facts())
    return CovarianceSource("pocket corpus", texts, requests, subject_share)


def text_source(texts: Sequence[str], name: str = "texts") -> CovarianceSource:
    """Any texts of your own."""
    return CovarianceSource(name, tuple(texts))


def default_source(model, tokenizer, n: int = 1000) -> CovarianceSource:
    """The pocket's own corpus for the pocket; for other models the built-in statements: no download.

    A larger general corpus is better for a large model: hand in ``text_source(...)`` over texts of your choice.
    """
    if getattr(model.config, "pocket", None):  # written into its config.json when it was trained
        return pocket_source(n)
    from .data.facts import facts

    rng = random.Random(0)
    statements = [statement for fact in facts() if not fact.tofu for statement in fact.statements]
    return text_source(tuple(" ".join(rng.sample(statements, 5)) for _ in range(n)), "built-in statements")
