"""Files: where the project lies."""

from __future__ import annotations

from pathlib import Path


def project(start: str | Path | None = None) -> Path | None:
    """The project's folder: the working folder (or ``start``) or its nearest parent with _toc.yml and notebooks/."""
    start = Path(start or ".").resolve()
    folders = (start, *start.parents)
    return next((f for f in folders if (f / "_toc.yml").is_file() and (f / "notebooks").is_dir()), None)
