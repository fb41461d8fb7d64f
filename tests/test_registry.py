"""Classes by their names: of this project, of packages, of a user's file; what cannot be found or run is one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from wrong_files import assert_one_line

import reparam_kit as rk


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[rk.Registry[type]]:
    """A registry with a home of its own, which is imported on the first look-up of a name that is not known."""
    monkeypatch.syspath_prepend(tmp_path)
    made: rk.Registry[type] = rk.Registry("thing", "home_of_things", "test.things")
    (tmp_path / "home_of_things.py").write_text(
        "import sys\nTHINGS = sys.things\nclass First: pass\nTHINGS.add('first', First)\n"
    )
    monkeypatch.setattr(sys, "things", made, raising=False)
    yield made
    for name in [name for name in sys.modules if name.startswith(("home_of_things", "imported_", "plug_"))]:
        del sys.modules[name]


def test_its_home_is_imported_when_a_name_is_looked_up(things: rk.Registry[type]) -> None:
    assert "home_of_things" not in sys.modules
    assert things["first"].__name__ == "First"
    assert list(things) == ["first"]
    with pytest.raises(rk.InputError, match=r"there is no thing 'frist' \(.*\): did you mean 'first'"):
        things["frist"]


def plug(folder: Path, code: str) -> None:
    info = folder / "plug_of_things-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-of-things\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[test.things]\nmine = plug_of_things\n")
    (folder / "plug_of_things.py").write_text(code)


def test_a_package_brings_some(things: rk.Registry[type], tmp_path: Path) -> None:
    plug(tmp_path, "import sys\nclass Mine: pass\nsys.things.add('mine', Mine)\n")
    assert things["mine"].__module__ == "plug_of_things"
    assert list(things) == ["first", "mine"]


@pytest.mark.parametrize(
    "code", ["import no_such_package", "raise SystemExit(0)", "def run(:", "assert False"]
)
def test_a_package_that_cannot_be_loaded_harms_nothing_but_its_own_name(
    things: rk.Registry[type], tmp_path: Path, code: str
) -> None:
    plug(tmp_path, code)
    assert list(things) == ["first"]
    with pytest.raises(rk.InputError) as caught:
        things["mine"]
    assert_one_line(str(caught.value), "the thing 'mine' cannot be loaded: plug_of_things: ")


def test_a_name_belongs_to_one_class(things: rk.Registry[type]) -> None:
    kind = type("Other", (), {})
    things.add("other", kind)
    things.add("other", type("Other", (), {}))  # defined again, as in a notebook
    assert things["other"] is not kind
    with pytest.raises(
        rk.InputError, match=r"cannot be the thing 'other', which is .*Other: give it another name"
    ):
        things.add("other", type("Another", (), {}))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = 1\nimport no_such_package", "line 2: ModuleNotFoundError: No module named 'no_such_package'"),
        ("def run(:", "SyntaxError"),
        ("raise ValueError('first\\nsecond')", "line 1: ValueError: first"),
        ("import sys\nsys.exit(0)", "line 2: SystemExit: it exits when it is imported"),
        ("\0", "SyntaxError|ValueError"),
    ],
)
def test_a_file_that_fails_is_a_line_with_its_place(
    things: rk.Registry[type], tmp_path: Path, code: str, says: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(code)
    with pytest.raises(rk.InputError) as caught:
        rk.import_file(path)
    assert_one_line(str(caught.value), f"mine.py.*({says})")
    assert "imported_mine" not in sys.modules


def test_what_is_no_python_file_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x = 1")
    for path, says in (
        (tmp_path, "folder"),
        (tmp_path / "none.py", "no such file"),
        (tmp_path / "mine.txt", "ends in .py"),
    ):
        with pytest.raises(rk.InputError, match=says):
            rk.import_file(path)


def test_a_file_may_import_what_lies_beside_it(
    things: rk.Registry[type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "plug_beside.py").write_text("VALUE = 3\n")
    (folder / "mine.py").write_text("from plug_beside import VALUE\n")
    assert rk.import_file(folder / "mine.py").VALUE == 3
    assert rk.imported_files()["mine.py"] == sha256((folder / "mine.py").read_bytes()).hexdigest()
