"""Judges by what a user names: a path, a set, or a kind of judge and a path."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from recipes.faces.judging.agreement import AgreementJudge as AgreementJudge
from recipes.faces.judging.classes import ClassesJudge as ClassesJudge
from recipes.faces.judging.judge import JUDGES, Judge
from recipes.faces.judging.pairs import PairsJudge
from recipes.faces.judging.people import PeopleJudge as PeopleJudge
from recipes.faces.judging.retrieval import RetrievalJudge as RetrievalJudge
from recipes.faces.sets.pairs import PairSet
from recipes.faces.sets.templates import TemplateSet

Judged: TypeAlias = Judge | PairSet | TemplateSet | str | os.PathLike[str]


def read_judge(judged: Judged) -> Judge:
    """Return the judge of what is given.

    Args:
        judged: a judge; a verification set, or the path of one; or the name of a kind of judge and what it reads, such
            as ``"classes:photos"``, ``"people:people.rec"`` or ``"retrieval:query,bounding_box_test"``.

    Raises:
        UnsafeFileError, InputError: as the judge.

    >>> [type(read_judge(path)).__name__ for path in ("lfw.bin", "classes:photos", "retrieval:query,gallery")]
    ['PairsJudge', 'ClassesJudge', 'RetrievalJudge']
    """
    if isinstance(judged, Judge):
        return judged
    if isinstance(judged, str | os.PathLike):
        name, colon, rest = os.fspath(judged).partition(":")
        if colon and name.isidentifier() and not Path(judged).exists():
            return JUDGES[name].read(rest)
    return PairsJudge(judged)


def read_judges(judged: Judged | Sequence[Judged] | None) -> tuple[Judge, ...]:
    """Return the judges of one thing or of several, the first of which decides; none of None.

    >>> [type(judge).__name__ for judge in read_judges(["lfw.bin", "classes:photos"])]
    ['PairsJudge', 'ClassesJudge']
    """
    if judged is None:
        return ()
    if isinstance(judged, list | tuple):
        return tuple(map(read_judge, judged))
    return (read_judge(judged),)  # type: ignore[arg-type]
