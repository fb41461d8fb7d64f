"""The names of Market-1501's images, such as ``0002_c1s1_000451_03.jpg``: person 2, camera 1.

Person 0 is what detectors took for someone, and -1 is *junk*, neither right nor wrong.

Source: L. Zheng, L. Shen, L. Tian, S. Wang, J. Wang, Q. Tian, "Scalable Person Re-identification: A Benchmark", ICCV
2015.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from reparam_kit import InputError

JUNK, NOBODY = "-1", "0000"
_NAME = re.compile(r"(-1|[0-9]{4})_c([0-9]+)s[0-9]+_[0-9]+_[0-9]+\.\w+")


def read_names(folder: Path, names: Sequence[str]) -> list[tuple[str, int]] | None:
    """Read person and camera off each image's name; None where no name says them.

    Raises:
        InputError: some names do, and others do not.
    """
    found = [_NAME.fullmatch(name) for name in names]
    if not any(found):
        return None
    if None in found:
        raise InputError(
            f"{folder / names[found.index(None)]} has no name such as 0002_c1s1_000451_03.jpg (person, camera), and "
            "others have: name all images so, or put those of each person into a folder"
        )
    return [(match[1], int(match[2])) for match in found if match]
