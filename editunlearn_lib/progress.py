"""One progress bar for everything: shown at a terminal or in a live notebook, silent elsewhere."""

from __future__ import annotations

import os
import sys

from tqdm.auto import tqdm


def shown() -> bool:
    """Whether there is somebody to see a bar: a terminal or a live kernel, and ``EDITUNLEARN_QUIET`` is not set.

    Papermill runs set it: a text bar writes a line an update into the page.
    """
    live = sys.stderr.isatty() or "ipykernel" in sys.modules
    return live and not os.environ.get("EDITUNLEARN_QUIET")


def progress(iterable=None, *, enabled: bool = True, **options) -> tqdm:
    """A tqdm bar with an estimate of the time left; silent unless `shown`."""
    return tqdm(iterable, disable=not (enabled and shown()), **options)
