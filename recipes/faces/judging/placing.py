"""Whether the faces that a judge holds lie where a net expects them."""

from __future__ import annotations

from recipes.faces.aligning.placement import IMAGES, Placement, find_placement
from recipes.faces.embedding.embedder import Embedder
from recipes.faces.judging.agreement import AgreementJudge
from recipes.faces.judging.judge import Judge
from recipes.faces.judging.pairs import PairsJudge
from recipes.faces.judging.people import PeopleJudge

_SPREAD = 4 * IMAGES  # examples of which they are taken, so that few are of one person


def judges_faces(judge: Judge) -> bool:
    """Return whether what it holds are faces, and not images of classes or of whole people."""
    return isinstance(judge, PairsJudge | PeopleJudge | AgreementJudge)


def judged_placement(embedder: Embedder, judge: Judge) -> Placement | None:
    """Find out where the faces of a judge lie, as :func:`find_placement`; None of other images."""
    if not judges_faces(judge):
        return None
    return find_placement(embedder, judge.sample(_SPREAD).images(_SPREAD))
