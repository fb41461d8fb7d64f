"""A folder of wrong files, and an empty one to work in."""

from __future__ import annotations

from pathlib import Path

import pytest
from wrong_files import write_all


@pytest.fixture(scope="session")
def w(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_all(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, w: Path) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(w)
    return tmp_path
