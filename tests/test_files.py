"""Where the project lies."""

from pathlib import Path

from editunlearn_lib import files

ROOT = Path(__file__).resolve().parents[1]


def test_the_project_is_the_nearest_folder_with_the_books_contents_and_notebooks(tmp_path, monkeypatch):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert files.project() is None
    (tmp_path / "notebooks").mkdir()
    assert files.project() is None  # a folder of that name alone is anybody's
    (tmp_path / "_toc.yml").touch()
    assert files.project() == files.project(inner) == files.project(tmp_path) == tmp_path.resolve()
    assert files.project(ROOT / "notebooks" / "workshop") == files.project(str(ROOT)) == ROOT
