"""What setup.cfg promises about versions is what is tested."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def test_the_lowest_versions_tested_are_the_lowest_that_setup_cfg_allows() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    written = setup["options"]["install_requires"] + setup["options.extras_require"]["test"]
    allowed: dict[str, Version] = {}
    for requirement in map(Requirement, written.split("\n")[1:]):
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        allowed[requirement.name] = max(allowed.get(requirement.name, Version("0")), Version(bound.version))
    pins = map(Requirement, (ROOT / "constraints-lowest.txt").read_text().splitlines())
    pinned = {pin.name: Version(str(pin.specifier).removeprefix("==")) for pin in pins}
    # There may be more pins, for what those ask for in turn: matplotlib 3.8 warns of newer pyparsing.
    assert allowed.items() <= pinned.items()
