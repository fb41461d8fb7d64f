"""The lists that name a verification set's pairs, in the formats in which their makers publish them.

- LFW, ``pairs.txt`` (README of the set, 3c): a header ``sets pairs``, or ``pairs`` alone for one set; then for each set
  that many lines ``name i j`` (genuine) and that many ``name1 i name2 j`` (impostors). Image ``i`` of a person is
  ``name/name_000i.jpg``. The sets are the folds; the pairs of a single set are dealt out to ten.
- CALFW and CPLFW, ``pairs_CALFW.txt``, ``pairs_CPLFW.txt`` (Zheng and Deng, 2017, 2018): two lines ``file number`` for
  a pair, the number the same on both. 0 is an impostor pair, any other the fold of a genuine one. The lists do not say
  which fold an impostor pair belongs to; they are dealt out evenly here, in the order of the list. Where all genuine
  pairs have the number 1, so are they, to ten folds.
- ``path path 0/1``, in which AgeDB-30 and most sets that were unpacked from a ``.bin`` come: no folds.
- CFP (Sengupta et al., WACV 2016; Readme of the set), a folder: ``Protocol/Pair_list_F.txt`` and ``Pair_list_P.txt``
  have lines ``number ../Data/Images/001/frontal/01.jpg``; ``Protocol/Split/FP/01 .. 10`` are the folds, each with
  ``same.txt`` and ``diff.txt`` of lines ``frontal number,profile number``. ``Split/FF`` has two frontal ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from recipes.faces.images.decoding import SUFFIXES
from recipes.faces.sets.text import Line, read_lines, whole
from reparam_kit import InputError

_FOLDS = 10


@dataclass(frozen=True)
class ListedPair:
    """One pair as a list names it: ``where`` is file and line, for messages."""

    files: tuple[Path, Path]
    same: bool
    fold: int | None
    where: str


def read_pair_list(path: Path, images: Path) -> list[ListedPair]:
    """Read a list of LFW, CALFW, CPLFW or ``path path 0/1``, told apart by its first line.

    Args:
        path: the list.
        images: the folder that its paths start in.

    Raises:
        InputError: the list is missing or in none of the formats, a line is malformed, or the header does not fit.
    """
    lines = read_lines(path)
    first = lines[0].words
    if len(first) <= 2 and all(word.strip(" ").isdecimal() for word in first):
        return _lfw(lines, images)
    if len(first) == 2:
        return _deal(list(_two_lines(lines, images)))
    if len(first) == 3:
        return [_one_line(line, images) for line in lines]
    raise InputError(
        f"{lines[0].where} begins no known pair list: LFW's begin with `sets pairs`, CALFW's and CPLFW's have two "
        "lines `file number` for a pair, others a line `path path 0/1`; tabs part names that have spaces"
    )


def _lfw(lines: list[Line], images: Path) -> list[ListedPair]:
    header, *rows = lines
    *sets, pairs = (whole(word, header) for word in header.words)
    count = sets[0] if sets else 1
    if pairs == 0 or len(rows) != 2 * count * pairs:
        raise InputError(
            f"{header.where} promises {count} sets of {pairs} genuine and {pairs} impostor pairs, and {len(rows)} "
            "lines follow"
        )
    listed = []
    for i, row in enumerate(rows):
        same = i % (2 * pairs) < pairs
        if len(row.words) != (3 if same else 4):
            form = "`name i j` (a genuine pair)" if same else "`name1 i name2 j` (an impostor pair)"
            raise InputError(f"{row.where} is not {form}, which the header promises here")
        name, one, other, two = (
            (row.words[0], row.words[1], row.words[0], row.words[2]) if same else row.words
        )
        files = (_lfw_image(name, one, row, images), _lfw_image(other, two, row, images))
        listed.append(ListedPair(files, same, i // (2 * pairs), row.where))
    return _deal(listed)


def _lfw_image(name: str, number: str, line: Line, images: Path) -> Path:
    stem = images / name / f"{name}_{whole(number, line):04d}"
    for suffix in SUFFIXES:  # aligned crops are not always saved as the originals were
        file = stem.with_name(stem.name + suffix)
        if file.is_file():
            return file
    raise InputError(f"{line.where}: there is no image {stem}.jpg")


def _two_lines(lines: list[Line], images: Path) -> Iterator[ListedPair]:
    if len(lines) % 2:
        raise InputError(f"{lines[-1].where} is half a pair: each has two lines `file number`")
    for one, two in zip(lines[0::2], lines[1::2], strict=True):
        for line in (one, two):
            if len(line.words) != 2:
                raise InputError(f"{line.where} is not `file number`, which a pair has two lines of")
        (first, number), (second, other) = one.words, two.words
        if number != other:
            raise InputError(
                f"{two.where} has the number {other}, and the first line of its pair has {number}"
            )
        fold = whole(number, one)
        yield ListedPair((images / first, images / second), fold > 0, fold or None, one.where)


def _one_line(line: Line, images: Path) -> ListedPair:
    if len(line.words) != 3 or line.words[2] not in ("0", "1"):
        raise InputError(f"{line.where} is not `path path 0/1`")
    first, second, truth = line.words
    return ListedPair((images / first, images / second), truth == "1", None, line.where)


def _deal(pairs: list[ListedPair]) -> list[ListedPair]:
    """Give a fold to each pair that has none, or to all where only one is given: runs of each kind, in order."""
    given = sorted({pair.fold for pair in pairs if pair.fold is not None})
    if len(given) < 2:
        given = list(range(1, _FOLDS + 1))
        pairs = [replace(pair, fold=None) for pair in pairs]
    total = Counter(pair.same for pair in pairs if pair.fold is None)
    seen: Counter[bool] = Counter()
    dealt = []
    for pair in pairs:
        if pair.fold is None:
            fold = given[seen[pair.same] * len(given) // total[pair.same]]
            seen[pair.same] += 1
            pair = replace(pair, fold=fold)
        dealt.append(pair)
    return dealt


def read_cfp(path: Path, images: Path | None) -> list[ListedPair]:
    """Read CFP's pairs.

    Args:
        path: the set's folder, for the frontal-profile pairs, or ``Protocol/Split/FP`` or ``Protocol/Split/FF`` in it.
        images: a folder of aligned crops with the persons' folders (``001/frontal/01.jpg``). None: the set's own.

    Raises:
        InputError: the folder is not such a set, or a line of it is malformed.
    """
    split = path / "Protocol" / "Split" / "FP" if (path / "Protocol").is_dir() else path
    protocol = split.parent.parent
    folds = sorted(file.parent for file in split.glob("*/same.txt"))
    if not folds:
        raise InputError(
            f"{path} is no folder of a verification set: CFP's has Protocol/Split/FP/01/same.txt. To judge by a folder "
            f"of labelled faces write people:{path} (evaluate: --people), of classes classes:{path}"
        )
    frontal = _cfp_images(protocol / "Pair_list_F.txt", images)
    second = _cfp_images(protocol / "Pair_list_P.txt", images) if split.name == "FP" else frontal
    listed = []
    for number, fold in enumerate(folds):
        for name, same in (("same.txt", True), ("diff.txt", False)):
            for line in read_lines(fold / name, ","):
                try:
                    one, two = line.words
                    files = frontal[int(one)], second[int(two)]
                except (ValueError, KeyError) as error:
                    raise InputError(
                        f"{line.where} is not two numbers of images with a comma between"
                    ) from error
                listed.append(ListedPair(files, same, number, line.where))
    return listed


def _cfp_images(path: Path, images: Path | None) -> dict[int, Path]:
    files = {}
    for line in read_lines(path):
        if len(line.words) != 2:
            raise InputError(f"{line.where} is not `number path`")
        number, file = line.words
        crop = images and images.joinpath(*Path(file).parts[-3:])
        files[whole(number, line)] = crop or path.parent / file
    return files
