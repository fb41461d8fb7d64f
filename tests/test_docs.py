"""The documentation is true: its code runs, its commands parse, its links lead somewhere, its tables agree."""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
from pathlib import Path

import click
import pytest
import torch
from pages import lay

import recipes.faces as faces
import recipes.tsmr as tsmr
import reparam_kit as rk
from recipes.tsmr.stages import LOSSES
from reparam_kit.algebra import FACTORS, PRESETS
from reparam_kit.cli import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
GUIDE = DOCS / "deployed-to-better.md"  # tests/test_guide.py runs it whole
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[str]:
    """The lines of a page that call ``reparam-kit``, in blocks of either kind, joined where they go on."""
    text = "\n".join([*blocks(path, "sh"), *re.findall(r"^    (.*)$", path.read_text(), re.MULTILINE)])
    joined = re.sub(r"\\\n\s*", "", text)
    return [line.strip() for line in joined.splitlines() if line.strip().startswith("reparam-kit ")]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return lay(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "page", [page for page in TEXTS if blocks(page, "python") and page != GUIDE], ids=name
)
def test_the_code_of_a_page_runs(page: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batches = [(torch.randn(2, 3, 16, 16), torch.randn(2, 16))]  # the README's reader brings these
    namespace: dict[str, object] = {"__name__": "page", "batches": batches}
    for block in blocks(page, "python"):
        exec(compile(block, name(page), "exec"), namespace)


@pytest.mark.parametrize(
    ("page", "line"), [(name(page), line) for page in TEXTS for line in commands(page)], ids=str
)
def test_a_command_parses(page: str, line: str, here: Path) -> None:
    words = shlex.split(line, comments=True)[1:]
    if words[0].startswith("-"):
        return
    command = main.get_command(click.Context(main), words[0])
    assert command is not None
    command.make_context(words[0], words[1:])


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_its_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text()), target


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_its_files_and_folders_are_there(page: Path) -> None:
    for path in re.findall(
        r"`((?:reparam_kit|recipes|tests|benchmarks|examples|docs|\.github|\.ci)/[\w./-]*)`", page.read_text()
    ):
        assert (ROOT / path).exists(), path


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert listed == {str(page.relative_to(DOCS)) for page in PAGES}


def test_the_tables_of_blocks_and_factors_are_those_of_the_package() -> None:
    text = (DOCS / "your-own-block.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(.*)` \| (.*) \|$", text, re.MULTILINE)
    assert rows == [
        (key, preset.expression, preset.source) for key, preset in ((key, PRESETS[key]) for key in PRESETS)
    ]
    factors = text[text.index("## Factors") : text.index("One size serves")]
    shown = {
        factor
        for cell in re.findall(r"^\| (`.*`) \|", factors, re.MULTILINE)
        for factor in re.findall(r"`(\w+)", cell)
    }
    assert shown == {factor for factor in FACTORS if not FACTORS.foreign(factor)}


def test_the_table_of_losses_is_that_of_the_package() -> None:
    text = (DOCS / "tsmr.md").read_text()
    rows = re.findall(
        r"^\| `(\w+)` \|", text[text.index("| loss |") : text.index("need labels")], re.MULTILINE
    )
    assert rows == [loss for loss in LOSSES if not LOSSES.foreign(loss)]


@pytest.mark.parametrize("page", ["choosing", "peers"])
def test_measured_tables_are_those_of_the_results(page: str) -> None:
    """A figure of the page stands in a file of benchmarks/results, in the same row."""
    results = "".join(path.read_text() for path in (ROOT / "benchmarks" / "results").glob("*.md"))
    rows = re.findall(r"^\|.*\| ?\d.*\|$", (DOCS / f"{page}.md").read_text(), re.MULTILINE)
    assert len(rows) > 6
    assert [row for row in rows if f"{row}\n" not in results and "benchmarks/results" not in row] == []


def test_every_public_name_is_in_the_reference() -> None:
    shown: set[str] = set()
    for page in (DOCS / "api").glob("*.md"):
        for path, members in re.findall(
            r"^::: ([\w.]+)(?:\n    options:\n(?:      [^m].*\n)*      members: \[(.*)\])?",
            page.read_text(),
            re.MULTILINE,
        ):
            module, _, last = path.rpartition(".")
            if members:
                found = importlib.import_module(path)
                assert all(hasattr(found, member) for member in members.split(", "))
                shown.update(members.split(", "))
            else:
                assert hasattr(importlib.import_module(module), last), path
                shown.add(last)
    public = {*rk.__all__, *faces.__all__, *tsmr.__all__} - {"__version__"}
    assert public - shown == set()


def test_the_drawings_are_what_their_script_draws() -> None:
    script = runpy.run_path(str(DOCS / "drawings.py"))
    for key, draw in script["DRAWINGS"].items():
        assert (DOCS / "drawings" / f"{key}.svg").read_text() == str(draw())


YAML = [*ROOT.glob("*.yml"), *ROOT.glob(".*.yaml"), *ROOT.glob("*.cff"), *ROOT.glob(".github/**/*.yml")]


@pytest.mark.parametrize("path", sorted(YAML), ids=name)
def test_a_workflow_or_form_can_be_read(path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="it comes with mkdocs: pip install 'reparam-kit[docs]'")
    read = yaml.safe_load(path.read_text())
    assert isinstance(read, dict)
    for step in (step for job in read.get("jobs", {}).values() for step in job.get("steps", [])):
        assert ("run" in step) != ("uses" in step)
