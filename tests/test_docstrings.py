"""Public names say what they do, beginning with a verb, and show it in an example, which runs."""

from __future__ import annotations

import ast
import doctest
import io
import re
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from pages import lay
from torch import nn

import recipes.faces as faces
import recipes.tsmr as tsmr
import reparam_kit as rk

ROOT = Path(__file__).parents[1]
PUBLIC = {
    f"{package.__name__}.{name}": getattr(package, name)
    for package in (rk, faces, tsmr)
    for name in package.__all__
    if name != "__version__"
}
RESULT, GIVEN = "a result: what gives it shows it", "what takes it shows it"
NO_EXAMPLE = {  # besides errors, which nobody makes
    "reparam_kit.lazily": "the __init__ of a package is its only place",
    "recipes.faces.Aligned": RESULT,
    "recipes.faces.Comparison": RESULT,
    "recipes.faces.Evaluation": RESULT,
    "recipes.faces.Faces": RESULT,
    "recipes.faces.Judgements": RESULT,
    "recipes.faces.PeopleVerdict": RESULT,
    "recipes.faces.Placement": RESULT,
    "recipes.tsmr.Arm": RESULT,
    "recipes.tsmr.Batch": GIVEN,
    "recipes.tsmr.EpochReport": RESULT,
    "recipes.tsmr.Improved": RESULT,
    "recipes.tsmr.compare": "it trains eight runs; Ablation shows what is chosen",
    "recipes.tsmr.Start": GIVEN,
    "recipes.tsmr.StepReport": RESULT,
    "recipes.tsmr.TSMRReport": RESULT,
    "recipes.tsmr.TSMRResult": RESULT,
}
# First words that are no verb: what a docstring of a function begins with should be what it does.
NO_VERB = re.compile(
    "A|All|An|Any|As|At|Both|Each|Every|False|For|From|How|In|Is|It|Its|No|Nothing|Of|On|One|Only|Several|That|The|"
    "There|This|True|Two|What|Where|Whether|Which|Who|Why|With"
)


def examples() -> list[tuple[str, str]]:
    """List module and qualified name of all that has an example in its docstring."""
    found = []
    for path in sorted(path for top in ("reparam_kit", "recipes") for path in (ROOT / top).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found += [(module, name) for name, text in _docstrings(ast.parse(path.read_text())) if _shows(text)]
    return found


def _docstrings(tree: ast.Module | ast.ClassDef, within: str = "") -> list[tuple[str, str]]:
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append((within + node.name, ast.get_docstring(node) or ""))
        if isinstance(node, ast.ClassDef):
            found += _docstrings(node, f"{within}{node.name}.")
    return found


def _shows(text: str) -> bool:
    return ">>> " in text or "```python\n" in text


@pytest.mark.parametrize(("module", "name"), examples())
def test_an_example_runs(module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, monkeypatch)
    thing: Any = import_module(module)
    known = {name: getattr(package, name) for package in (tsmr, faces, rk) for name in package.__all__}
    torch_names = {"torch": torch, "nn": nn, "np": np, "rk": rk, "Path": Path}
    namespace = {**known, **torch_names, **vars(thing), "__name__": "example"}
    for part in name.split("."):
        thing = getattr(thing, part)
    text = thing.__doc__
    test = doctest.DocTestParser().get_doctest(text, namespace, name, module, 0)
    said = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(test, out=said.write, clear_globs=False).failed == 0, said.getvalue()
    for block in re.findall(r"^ *```python\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        exec(compile(_dedented(block), name, "exec"), namespace)


def _dedented(block: str) -> str:
    indent = len(block) - len(block.lstrip())
    return "\n".join(line[indent:] for line in block.splitlines())


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_shows_its_use(name: str) -> None:
    thing = PUBLIC[name]
    text = thing.__doc__ or ""
    assert text, f"{name} has no docstring"
    error = isinstance(thing, type) and issubclass(thing, Exception)
    assert _shows(text) != (error or name in NO_EXAMPLE), (
        f"{name}: an example, or a reason in NO_EXAMPLE, not both"
    )


def functions() -> dict[str, FunctionType]:
    """Find public functions, and the public methods that public classes define themselves."""
    found = {name: thing for name, thing in PUBLIC.items() if isinstance(thing, FunctionType)}
    for name, thing in PUBLIC.items():
        if isinstance(thing, type):
            for method, value in vars(thing).items():
                made = value.__func__ if isinstance(value, classmethod | staticmethod) else value
                if isinstance(made, FunctionType) and made.__doc__ and not method.startswith("_"):
                    found[f"{name}.{method}"] = made
    return found


@pytest.mark.parametrize("name", functions())
def test_a_docstring_begins_with_a_verb(name: str) -> None:
    first = (functions()[name].__doc__ or "").split()[0].rstrip(".,:;")
    assert re.fullmatch(r"[A-Z][a-z]+", first), f"{name} begins with {first!r}"
    assert not NO_VERB.fullmatch(first), f"{name} begins with {first!r}"


def test_the_reasons_are_of_names_that_there_are() -> None:
    assert NO_EXAMPLE.keys() <= PUBLIC.keys()
