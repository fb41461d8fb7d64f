"""Every example runs, shows something, and asserts its own fold."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from recipes.faces.judging.judge import JUDGES
from recipes.tsmr.stages import LOSSES
from reparam_kit.algebra import FACTORS

SHORT = ("own_factor", "own_judge", "own_loss")
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (FACTORS, JUDGES, LOSSES):  # what it defines is forgotten
        monkeypatch.setattr(registry, "_known", {name: registry[name] for name in registry})
    text = path.read_text()
    if "sklearn" in text:
        pytest.importorskip(
            "sklearn", reason="scikit-learn, of the extra `test`, has the data of this example"
        )
    if path.stem == "classifier":
        for package in ("torchvision", "timm"):
            pytest.importorskip(package, reason=f"this example is about nets of {package}")
    assert "assert " in text
    assert len(text.splitlines()) < (40 if path.stem in SHORT else 80)
    runpy.run_path(str(path), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) > 2
