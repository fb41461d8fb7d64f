"""The walks of `docs/deployed-to-better.md`, code and commands in their order, and the notebook run as they stand."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from pages import lay
from PIL import Image

from recipes.faces import write_records
from reparam_kit.cli import main

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "deployed-to-better.md").read_text()
WALKS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL))
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the walks begin with, the faces of one person alike."""
    folder = lay(tmp_path, monkeypatch)
    rng = np.random.default_rng(0)
    for name, people, pictures in (("train", 40, 4), ("people", 12, 4), ("others", 60, 1)):
        persons = rng.integers(0, 256, (people, 16, 16, 3))
        records = [
            (person if pictures > 1 else -1, png(persons[person] + rng.normal(0, 30, (16, 16, 3))))
            for person in range(people)
            for _ in range(pictures)
        ]
        write_records(folder / f"{name}.rec", records, (16, 16))
    return folder


def png(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(data, "PNG")
    return data.getvalue()


def run(line: str) -> None:
    """Run a command of a page in this process."""
    result = CliRunner().invoke(main, shlex.split(line)[1:])
    assert result.exit_code == 0, f"{line}\n{result.output}"


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_runs(walk: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {"__name__": "page"}
    for language, block in re.findall(r"^```(python|sh)\n(.*?)^```", WALKS[walk], re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(compile(block, walk, "exec"), namespace)
        else:
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                run(line)


def test_there_are_three_walks_and_each_proves_what_it_made() -> None:
    assert list(WALKS) == ["A face net", "A classifier", "A detector"]
    for text in WALKS.values():
        assert re.search(r"reparam-kit diff|rk\.diff", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(
    path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its cells in one namespace, as a kernel would run them: they use nothing of IPython."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells(path)):
        exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), namespace)
    assert "same graph" in capsys.readouterr().out


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_what_it_printed(path: Path) -> None:
    stored = json.loads(path.read_text())
    assert stored["nbformat"] == 4
    assert stored["nbformat_minor"] >= 5
    ids = [cell["id"] for cell in stored["cells"]]
    assert len(set(ids)) == len(ids)
    assert {cell["cell_type"] for cell in stored["cells"]} == {"code", "markdown"}
    for cell in cells(path):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


def cells(path: Path) -> list[dict[str, Any]]:
    """The cells of code."""
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
