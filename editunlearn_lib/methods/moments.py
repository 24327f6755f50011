"""The null space of C = E[k kᵀ], and how it and C are stored. Source: Fang et al. 2025, eq. 5-7."""

import contextlib
import hashlib
import logging
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import RequestError
from ..files import whole

log = logging.getLogger(__name__)
CACHE = Path(os.environ.get("EDITUNLEARN_CACHE", Path.home() / ".cache" / "editunlearn"))


def null_space(C: torch.Tensor, threshold: float) -> torch.Tensor:
    """P = U Uᵀ over the eigenvectors of C whose eigenvalue is below the threshold, (d, d) float64 where C lies.

    P is stored under the bytes of C and the threshold: `eigh` runs once for each. Raises `RequestError` where no
    eigenvalue is below the threshold: then P = 0 and nothing could be edited.
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
    """Whole or not at all: several processes may store the same one. What cannot be stored is computed again."""
    with contextlib.suppress(OSError, SafetensorError), whole(path) as temporary:
        save_file({name: matrix.cpu().contiguous()}, temporary)
