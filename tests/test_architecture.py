"""Who may import whom, and how quickly the command line starts."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Lowest first. A module may import its own room and rooms before it.
ROOMS = [
    "errors",
    "lazy",
    "extras",
    "files",
    "atomic",
    "digests",
    "modes",
    "substitution",
    "baking",
    "algebra",
    "sites",
    "calibration",
    "restoration",
    "intact",
    "planning",
    "surgery",
    "record",
    "onnx",
    "verification",
    "formats",
    "outputs",
    "cli",
]


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "reparam_kit" and len(parts) > 1 and parts[1] in ROOMS else None


@pytest.mark.parametrize(
    "path", sorted((ROOT / "reparam_kit").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_rooms_import_only_what_lies_below(path: Path) -> None:
    own = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for name in imports(path):
        assert not name.startswith("recipes"), f"{path} imports {name}"
        other = room(name)
        if own is not None and other is not None:
            assert ROOMS.index(other) <= ROOMS.index(own), f"{own} imports {other}"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_recipes_use_public_names_only(path: Path) -> None:
    private = [name for name in imports(path) if room(name) is not None]
    assert not private, f"{path} imports {private}"


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from reparam_kit.cli import main; "
        "result = CliRunner().invoke(main, ['--help']); assert result.exit_code == 0, result.output; "
        "assert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules); print(result.output)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    for command in ("inspect", "expand", "fold", "verify", "diff", "export", "evaluate", "tsmr", "demo"):
        assert f"  {command} " in shown


LAZY = ["reparam_kit", "reparam_kit.onnx", "recipes.faces", "recipes.tsmr"]


@pytest.mark.parametrize("package", LAZY)
def test_public_names_are_there_although_imported_on_first_use(package: str) -> None:
    module = import_module(package)
    assert all(callable(getattr(module, name)) for name in module.__all__ if name != "__version__")
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize("package", LAZY)
def test_completion_offers_the_public_names(package: str) -> None:
    module = import_module(package)
    assert dir(module) == sorted(module.__all__)
    assert len(module.__all__) == len(set(module.__all__)) > 2


@pytest.mark.parametrize("package", LAZY)
def test_no_module_takes_the_place_of_a_lazy_name(package: str) -> None:
    module = import_module(package)
    beside = {path.stem for path in Path(module.__path__[0]).iterdir()}
    assert set(module.__all__) & beside <= vars(module).keys()
