"""A package that is installed, as far as its entry points go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import reparam_kit as rk


def fresh(registry: rk.Registry[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a registry look for entry points again, and forget after the test what it found."""
    monkeypatch.setattr(registry, "_known", {name: registry[name] for name in registry})
    monkeypatch.setattr(registry, "_broken", {})
    monkeypatch.setattr(registry, "_loaded", False)


def install(folder: Path, entry_points: bytes, code: str = "", package: str = "plug") -> None:
    """Lay a package as pip leaves it, with one module."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_bytes(entry_points)
    (folder / package).mkdir()
    (folder / package / "cli.py").write_text(code)
