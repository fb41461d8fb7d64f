"""Lists of training images, lines ``path label``: the label a number or a name."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

from recipes.faces.sets.text import iterate_lines
from reparam_kit import InputError, require_file

WHOLE = re.compile(r"-?[0-9]{1,18}")
_OTHER_NUMBER = re.compile(r"-?([0-9]*\.[0-9]*|[0-9]{19,}|nan|inf)")


def read_label_list(path: Path, images: Path) -> tuple[list[str], list[int] | list[str]]:
    """Paths and labels; the labels are numbers if all of them are whole numbers, else names.

    Args:
        path: the list.
        images: the folder that its paths start in.

    Raises:
        InputError: the list is missing, empty or malformed, a line names no file, or all labels are numbers and one is
            not whole. The message names the line.
    """
    names, labels = [], []
    for line in iterate_lines(path):
        if path.suffix.lower() == ".lst" and "\t" in line.text and len(line.words) > 2:
            raise InputError(
                f"{line.where} has the columns of MXNet's lists, which are not read: name the .rec packed from "
                "it, or write lines `path label`"
            )
        if len(line.halves) != 2 or not line.halves[0]:
            raise InputError(f"{line.where} is not `path label`, with a tab or spaces between")
        name, label = line.halves
        try:
            require_file(images / name, "an image")
        except InputError as error:
            raise InputError(f"{line.where}: {error}") from error
        names.append(name)
        labels.append(label)
    if not names:
        raise InputError(f"{path} is empty")
    strange = [i for i, label in enumerate(labels) if not WHOLE.fullmatch(label)]
    if not strange:
        return names, list(map(int, labels))
    if not all(_OTHER_NUMBER.fullmatch(labels[i]) for i in strange):
        return names, labels
    line = next(islice(iterate_lines(path), strange[0], None))
    raise InputError(
        f"{line.where} has the label {labels[strange[0]]}, not a whole number of at most 18 digits"
    )
