"""What setup.cfg promises is so: the lowest versions are tested, and the core works without its extras."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest
from deployed import Free, deploy
from nets import build
from packaging.requirements import Requirement
from packaging.version import Version

import reparam_kit

ROOT = Path(__file__).parents[1]
SETUP = ConfigParser()
SETUP.read(ROOT / "setup.cfg")
EXTRAS = SETUP["options.extras_require"]


def requirements(written: str) -> Iterator[Requirement]:
    """Those of a list of setup.cfg, with those of the extras it names."""
    for requirement in map(Requirement, written.split("\n")[1:]):
        if requirement.name == "reparam-kit":
            for extra in requirement.extras:
                yield from requirements(EXTRAS[extra])
        else:
            yield requirement


def test_the_lowest_versions_tested_are_the_lowest_that_setup_cfg_allows() -> None:
    allowed: dict[str, Version] = {}
    for requirement in requirements(SETUP["options"]["install_requires"] + EXTRAS["test"]):
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        allowed[requirement.name] = max(allowed.get(requirement.name, Version("0")), Version(bound.version))
    pins = map(Requirement, (ROOT / "constraints-lowest.txt").read_text().splitlines())
    pinned = {pin.name: Version(str(pin.specifier).removeprefix("==")) for pin in pins}
    # There may be more pins, for what those ask for in turn: matplotlib 3.8 warns of newer pyparsing.
    assert allowed.items() <= pinned.items()


# What an extra installs, by the names it is imported by; torch brings Jinja2 of its own accord, today.
OPTIONAL = {
    "pillow": "PIL",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "tensorboard": "tensorboard",
    "onnxscript": "onnxscript",
    "onnxsim": "onnxsim",
}
WITHOUT = f"""
import json, sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {set(OPTIONAL.values())}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent)
from click.testing import CliRunner
from reparam_kit.cli import main
results = [CliRunner().invoke(main, command.split()) for command in sys.argv[1:]]
print(json.dumps([(result.exit_code, result.stderr) for result in results]))
"""


def test_all_is_all_that_a_user_may_want() -> None:
    assert {requirement.name for requirement in requirements(EXTRAS["all"])} == OPTIONAL.keys()


CORE = [
    "--help",
    "inspect net.onnx",
    "expand net.onnx -o student.pt",
    "fold student.pt -o folded.onnx",
    "diff net.onnx folded.onnx",
    "verify net.onnx folded.onnx",
    "export deployed:Free --like net.onnx -o exported.onnx",
]
FACES = [
    "evaluate net.onnx --pairs lfw.bin --input raw",
    "tsmr a.onnx --teacher t.onnx --data d --student-input raw --teacher-input raw -o b.onnx",
    "demo",
]


def test_the_core_works_without_extras_and_what_needs_one_says_so(tmp_path: Path) -> None:
    deploy(build(Free), tmp_path / "net.onnx")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *CORE, *FACES],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    for code, said in results[: len(CORE)]:
        assert code == 0, said
        assert "warning" not in said
    for code, said in results[len(CORE) :]:
        assert code == 2
        assert len(said.splitlines()) == 1
        assert 'needs Pillow: pip install "reparam-kit[faces]"' in said
    made = {"student.pt", "folded.onnx", "exported.onnx"}
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", *made}


def test_the_versions_of_python_are_those_that_are_tested() -> None:
    named = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
    matrix = re.search(r"python: \[(.*)\]", (ROOT / ".github" / "workflows" / "tests.yml").read_text())
    assert matrix is not None
    assert re.findall(r"3\.\d+", matrix[1]) == named
    assert SETUP["options"]["python_requires"] == f">={named[0]}"


def test_who_cites_it_cites_this_version_and_these_authors() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {reparam_kit.__version__}\n" in citation
    assert f"\n  - name: {SETUP['metadata']['author']}\n" in citation


HOME = SETUP["metadata"]["url"].removeprefix("https://github.com/")
TAG = f"v{reparam_kit.__version__}"


@pytest.mark.parametrize(
    ("tag", "home", "says"),
    [
        (TAG, HOME, ""),
        ("v9.9.9", HOME, "the tag is v9.9.9, and __version__ of reparam_kit/__init__.py is "),
        (TAG.removeprefix("v"), HOME, f": tag {TAG}"),
        (TAG, "another/place", "the url of setup.cfg is not https://github.com/another/place"),
    ],
)
def test_a_tag_is_released_where_all_that_names_a_version_names_that(tag: str, home: str, says: str) -> None:
    done = subprocess.run([ROOT / ".ci" / "tag", tag, home], capture_output=True, text=True)
    assert done.returncode == bool(says), done.stderr
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == bool(says)


def test_what_is_tracked_is_in_the_archive_of_the_source(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no repository")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    command = [
        sys.executable,
        "-c",
        "import setuptools; setuptools.setup()",
        "--quiet",
        "egg_info",
        "--egg-base",
    ]
    subprocess.run([*command, str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    (sources,) = tmp_path.glob("*.egg-info/SOURCES.txt")
    assert set(listed.splitlines()) <= set(sources.read_text().splitlines())
