"""Who may import whom, and how quickly the command line starts."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Lowest first. A module may import its own room and rooms before it, and packages those before theirs.
ROOMS = {
    "reparam_kit": [
        "errors",
        "lazy",
        "extras",
        "kinds",
        "files",
        "points",
        "factories",
        "states",
        "registry",
        "atomic",
        "digests",
        "modes",
        "inputs",
        "closures",
        "substitution",
        "devices",
        "patterns",
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
        "exporting",
        "archives",
        "tensors",
        "formats",
        "outputs",
        "cli",
    ],
    "recipes.faces": [
        "records",
        "images",
        "embedding",
        "sets",
        "aligning",
        "judging",
        "options",
        "cli",
        "crops",
    ],
    "recipes.tsmr": [
        "settings",
        "choices",
        "stages",
        "parts",
        "config",
        "candidates",
        "schema",
        "run",
        "catalogue",
        "told",
        "sides",
        "results",
        "provenance",
        "improved",
        "progress",
        "distributed",
        "targets",
        "objective",
        "training",
        "tasks",
        "arguments",
        "places",
        "expansion",
        "ingredients",
        "averaging",
        "beginning",
        "search",
        "prepare",
        "recipe",
        "ablation",
        "rendering",
        "improvement",
        "options",
        "cli",
        "config_cli",
    ],
}
PACKAGES = [*ROOMS, "recipes.demo"]


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def place(module: str) -> tuple[str, str] | None:
    """The package and the room of a module: what its ``__init__`` offers is no room."""
    for package, rooms in ROOMS.items():
        first = module.removeprefix(f"{package}.").split(".")[0]
        if module.startswith(f"{package}.") and first in rooms:
            return package, first
    return None


def modules() -> list[Path]:
    return sorted(path for name in ("reparam_kit", "recipes") for path in (ROOT / name).rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_what_lies_below(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    package = next((name for name in PACKAGES if module.startswith(f"{name}.")), None)
    own = place(module)
    for name in imports(path):
        other = next((p for p in PACKAGES if name.startswith(f"{p}.")), None)
        if package is not None and other is not None:
            assert PACKAGES.index(other) <= PACKAGES.index(package), f"{package} imports {name}"
        there = place(name)
        if own is not None and there is not None and own[0] == there[0]:
            rooms = ROOMS[own[0]]
            assert rooms.index(there[1]) <= rooms.index(own[1]), f"{own[1]} imports {name}"


@pytest.mark.parametrize("package", ["reparam_kit", "recipes"])
def test_nothing_is_imported_in_a_circle(package: str) -> None:
    """Not for type checkers alone, either."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in modules()
        if path.relative_to(ROOT).parts[0] == package
    }
    graph = {
        module: {
            name if name in paths else name.rpartition(".")[0]
            for name in imports(path)
            if paths.keys() & {name, name.rpartition(".")[0]}
        }
        - {package}
        for module, path in paths.items()
    }
    assert sum(map(len, graph.values())) > len(paths)
    TopologicalSorter(graph).prepare()


def test_every_module_is_in_a_room() -> None:
    for package, rooms in ROOMS.items():
        folder = ROOT / package.replace(".", "/")
        found = {
            path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
        }
        assert found - {"__init__"} == set(rooms)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_recipes_use_the_public_names_of_the_core_only(path: Path) -> None:
    private = [name for name in imports(path) if (place(name) or ("",))[0] == "reparam_kit"]
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


# What the public names of each package import besides torch, which is 1.5 s: all of it together less than 1 s.
NEEDED = {
    "reparam_kit": {"click", "google", "ml_dtypes", "onnx", "onnxruntime", "safetensors"},
    "recipes.faces": {"PIL", "rich"},
    "recipes.tsmr": {"filelock", "jinja2", "markupsafe", "msgspec"},
}
IMPORTED = """
import json, sys
def parts(): return {".".join(name.split(".")[:2]) for name in sys.modules if name.startswith(("torch.", "sympy"))}
def packages(): return {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names - {"recipes"}
before, found = packages(), {}
import reparam_kit, recipes.faces, recipes.tsmr
found["at once"] = sorted(packages() - before)
import torch
own, before = parts(), packages()
for package in (reparam_kit, recipes.faces, recipes.tsmr):
    for name in package.__all__:
        getattr(package, name)
    found[package.__name__] = sorted(packages() - before)
    before = packages()
found["torch"] = sorted(parts() - own)
print(json.dumps(found))
"""


def test_an_import_is_quick_and_the_public_names_need_little() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", IMPORTED], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    found = {name: set(packages) for name, packages in json.loads(shown).items()}
    assert found.pop("at once") == {"reparam_kit"}
    assert found.pop("torch") == set()  # nothing that `import torch` leaves for later, such as its compiler
    for package, needed in NEEDED.items():
        assert found[package] <= needed, package


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
