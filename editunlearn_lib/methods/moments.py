"""Second moments of keys over texts, C = E[k kᵀ] uncentred, and the null space of C; both are stored on disk.

Sources: Meng et al. 2022, eq. 2; Fang et al. 2025, eq. 5-7.
"""

import contextlib
import functools
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import RequestError
from ..files import whole
from ..models import down, down_weight
from ..progress import progress
from ..text import encode
from .hooks import hooked

log = logging.getLogger(__name__)
CACHE = Path(os.environ.get("EDITUNLEARN_CACHE", Path.home() / ".cache" / "editunlearn"))
BATCH_TOKENS = 4_096  # of keys held in float64 at once: 0.5 GB with 14,336 dimensions


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
    P = stored_matrix(path, "P", len(C))
    if P is None:
        values, vectors = torch.linalg.eigh((C + C.T) / 2)  # ascending
        U = vectors[:, values < threshold]  # (d, r)
        if not U.shape[1]:
            raise RequestError(
                f"no eigenvalue of C is below nullspace_threshold={threshold:g} (the smallest is {values[0]:.3g}), so "
                "there is no direction in which an edit would change nothing else: choose a larger threshold."
            )
        P = U @ U.T
        P = (P + P.T) / 2  # symmetric to the last bit
        store_matrix(path, "P", P)
    return P.to(C.device)


def stored_matrix(path: Path, name: str, size: int) -> torch.Tensor | None:
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


def store_matrix(path: Path, name: str, matrix: torch.Tensor) -> None:
    """Whole or not at all, under a name of its own first: several processes may store the same matrix.

    A cache is a convenience: where it cannot be written the matrix is simply computed again next time.
    """
    with contextlib.suppress(OSError, SafetensorError), whole(path) as temporary:
        save_file({name: matrix.cpu().contiguous()}, temporary)
