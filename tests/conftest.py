"""What every test shares: where the measuring data is, and deterministic torch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")

SHARED_FACES = Path(os.environ.get("REPARAM_SHARED", Path(__file__).parents[2] / "shared")) / "faces"


@pytest.fixture(scope="session")
def shared_faces() -> Path:
    """Folder with real face data and models; see its README. Not part of the project."""
    if not SHARED_FACES.is_dir():
        pytest.skip(
            f"the measuring data is not at {SHARED_FACES}; set REPARAM_SHARED to the folder that holds faces/"
        )
    return SHARED_FACES


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import torch

    torch.manual_seed(0)
