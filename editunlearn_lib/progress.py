"""One progress bar for everything: shown at a terminal or in a live notebook, silent elsewhere."""

from __future__ import annotations

import os
import sys

from tqdm.auto import tqdm


def progress(iterable=None, *, enabled: bool = True, **options) -> tqdm:
    """A tqdm bar with an estimate of the time left.

    Quiet when ``enabled`` is false, when ``EDITUNLEARN_QUIET`` is set (papermill runs do so: a text bar writes a line
    an update into the page) and when there is neither a terminal nor a live kernel.
    """
    live = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(iterable, disable=not (enabled and live) or bool(os.environ.get("EDITUNLEARN_QUIET")), **options)
