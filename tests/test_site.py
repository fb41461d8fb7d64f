"""The site shows what its sources mean: no Markdown is left over in it, every option and every signature is whole."""

from __future__ import annotations

import html
import inspect
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import markdown
import pytest

import recipes.faces as faces
import recipes.tsmr as tsmr
import reparam_kit as rk
from reparam_kit.cli import main
from reparam_kit.cli.plugins import Unusable
from reparam_kit.errors import InputError

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
COMMANDS = runpy.run_path(str(DOCS / "commands.py"))
PLACE = "<!-- commands -->"
WRITTEN = [page for page in sorted(DOCS.rglob("*.md")) if "\n:::" not in page.read_text()]
SIGN = re.compile(
    r"^([-*+] |\d+[.)] |\||#+ |>)|`|(?<!\w)\*\*\w|\]\(|:(?:func|class|meth|mod|attr):|^::|&lt;|^!\["
)


def leftovers(page: str) -> list[str]:
    """The lines of a page of HTML that show signs of Markdown, code and headings' links apart."""
    body = re.sub(r"<(pre|code|script|style|a)\b.*?</\1>", "", page, flags=re.DOTALL)
    lines = html.unescape(re.sub(r"<[^>]+>", "", body)).splitlines()
    return [line for line in map(str.strip, lines) if SIGN.search(line)]


def rendered(text: str) -> str:
    """What the extensions of mkdocs.yml make of a page."""
    return markdown.markdown(text, extensions=["toc", "tables", "fenced_code"])


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_a_page_leaves_no_markdown_over(page: Path) -> None:
    assert leftovers(rendered(page.read_text().replace(PLACE, COMMANDS["reference"]()))) == []


@pytest.mark.parametrize(
    "broken",
    [
        "A list:\n- one\n- two",
        "A list:\n1. one\n2. two",
        "A table:\n\n|a|b|\n|1|2|",
        "- with code,\n\n        a = 1\n\n    and on\n- behind it",
        "- a list\n\n      and ```fenced``` `code",
        "**bold",
        "[a link](that is open",
        ":func:`a role`",
    ],
)
def test_markdown_that_is_left_over_is_found(broken: str) -> None:
    assert leftovers(rendered(broken))


def parameters() -> Iterator[tuple[str, str]]:
    """The path of each command, and the text by which help lists each of its options and commands."""
    first = click.Context(main, info_name="reparam-kit", **main.context_settings)
    for ctx in COMMANDS["contexts"](first):
        for param in ctx.command.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)) is not None:
                yield ctx.command_path, record[0]
        if isinstance(ctx.command, click.Group):
            for name in ctx.command.commands:
                yield ctx.command_path, name


def test_the_reference_has_every_option_of_every_command() -> None:
    sections = dict(
        re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", COMMANDS["reference"](), re.MULTILINE | re.DOTALL)
    )
    listed = list(parameters())
    assert {"reparam-kit tsmr", "reparam-kit evaluate", "reparam-kit demo"} < {path for path, _ in listed}
    assert [(path, text) for path, text in listed if f"- `{text}`" not in sections[path]] == []


def test_a_command_within_a_group_has_a_section_and_one_that_cannot_be_loaded_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @click.group()
    def faces() -> None:
        """Handle faces."""

    @faces.command()
    @click.option("--margin", default=0.5, show_default=True, help="A *part* of <it>.")
    def align(margin: float) -> None:
        """Align.

        \b
        one   a
        two   b
        """

    monkeypatch.setitem(main.commands, "faces", faces)
    made = COMMANDS["reference"]()
    assert "## reparam-kit faces align" in made
    assert "```text\none   a\ntwo   b\n```" in made
    assert r"- `--margin FLOAT`: A \*part\* of &lt;it&gt;.  \[default: 0.5\]" in made
    point = next(iter(rk.registry.entry_points("reparam_kit.commands")))
    monkeypatch.setitem(main.commands, "faces", Unusable(point, "it is gone"))
    with pytest.raises(InputError, match="it is gone"):
        COMMANDS["reference"]()


def test_the_page_of_a_run_fetches_nothing_and_names_no_place() -> None:
    page = (DOCS / "demo.html").read_text()
    assert re.findall(r"<script|<link|<iframe|(?:src|href)=\"(?!#|data:)|url\(", page) == []
    assert re.findall(r"(?<![\w.<])/(?:root|home|tmp|work|Users|mnt)\b", page) == []
    assert (DOCS / "demo.png").stat().st_size < 100_000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; its warnings are errors."""
    pytest.importorskip("mkdocstrings", reason="needs mkdocs: pip install 'reparam-kit[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


def test_the_site_leaves_no_markdown_over(site: Path) -> None:
    pages = {path: path.read_text() for path in site.rglob("index.html")}
    left = {str(path): leftovers(text[text.index('role="main"') :]) for path, text in pages.items()}
    assert {path: lines for path, lines in left.items() if lines} == {}


def public() -> dict[str, list[str]]:
    """The parameters of every function and class of ours that a user may import, by its full name."""
    found = {}
    for thing in (getattr(package, name) for package in (rk, faces, tsmr) for name in package.__all__):
        if inspect.isroutine(thing) or inspect.isclass(thing):
            made_by = thing.__init__ if inspect.isclass(thing) else thing  # type: ignore[misc]
            ours = getattr(made_by, "__module__", "").partition(".")[0] in ("reparam_kit", "recipes")
            parameters = inspect.signature(made_by).parameters if ours else {}
            found[f"{thing.__module__}.{thing.__qualname__}"] = [
                name for name in parameters if name != "self"
            ]
    return found


def test_every_public_signature_is_whole(site: Path) -> None:
    text = "".join(path.read_text() for path in (site / "api").rglob("index.html"))
    short = {}
    for path, parameters in public().items():
        start = text.index(f'id="{path}"')
        signature = html.unescape(re.sub(r"<[^>]+>", "", text[start : text.find("doc-contents", start)]))
        short[path] = [name for name in parameters if not re.search(rf"\b{name}\b", signature)]
        short[path] += re.findall(r"= (_\w+)\b(?!\()|\b(?:Annotated|Named|Judged)\b", signature)
    assert {path: names for path, names in short.items() if names} == {}
