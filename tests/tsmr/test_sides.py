"""Examples that changed sides, told by judges that know of single ones, with their images and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from reports import made_report
from torch import Tensor, nn

from recipes.faces import ClassesJudge, PairSet, PairsJudge, PeopleJudge, RetrievalJudge
from recipes.tsmr import write_report
from recipes.tsmr.sides import changed_sides


def image(number: int) -> Tensor:
    """All pixels of one colour, which says which image it is."""
    return torch.full((3, 8, 8), number, dtype=torch.uint8)


class Told(nn.Module):
    """Embeds an image as it is told to, by its colour."""

    def __init__(self, angles: list[float]) -> None:
        super().__init__()
        self.register_buffer("angles", torch.tensor(angles))

    def forward(self, x: Tensor) -> Tensor:
        angles = self.angles[x[:, 0, 0, 0].round().long()]
        return torch.stack([angles.cos(), angles.sin()], dim=1)


# Pairs (0, 1) and (2, 3) of one person, (4, 5) and (6, 7) of two, each pair twice; at the angles' cosine.
BEFORE = Told([0, 0.1, 0, 1.5, 0, 1.4, 0, 0.2])
AFTER = Told([0, 1.6, 0, 0.1, 0, 1.4, 0, 1.5])


def test_pairs_that_changed_sides_are_shown_with_both_images() -> None:
    same = np.array([True, True, False, False] * 2)
    judge = PairsJudge(PairSet([image(n) for n in range(8)] * 2, same), folds=2)
    verdicts = [judge.judge(net, "raw") for net in (BEFORE, AFTER)]
    for verdict in verdicts:
        object.__setattr__(verdict, "threshold", 0.5)
    (found,) = changed_sides([judge], verdicts[:1], verdicts[1:])
    assert (found.gained, found.lost, found.examples) == (4, 2, "pairs")
    assert colours(found.right + found.wrong) == [[2, 3], [6, 7], [2, 3], [6, 7], [0, 1], [0, 1]]


def colours(examples: tuple[tuple[Tensor, ...], ...]) -> list[list[int]]:
    return [[int(one[0, 0, 0]) for one in example] for example in examples]


def test_images_of_classes_are_shown() -> None:
    photos = [(image(n), n % 2) for n in range(8)]
    before, after = Told([0, 1.5] * 4), Told([0, 1.5] * 3 + [1.5, 0])  # logits: cosine, sine
    judge = ClassesJudge(photos, outputs="logits")
    (found,) = changed_sides([judge], [judge.judge(before, "raw")], [judge.judge(after, "raw")])
    assert (found.gained, found.lost, found.examples) == (0, 2, "images")
    assert colours(found.wrong) == [[6], [7]]


def test_searches_of_people_are_shown_with_the_image_in_the_gallery() -> None:
    """Image 0 is of nobody known; 1, 3, 5 are one person, 2, 4, 6 another, the first of each the gallery."""
    photos = [(image(n), -1 if n == 0 else n % 2) for n in range(7)]
    before, after = Told([9, 0, 1.5, 0, 1.5, 1.5, 0]), Told([9, 0, 1.5, 1.5, 1.5, 0, 0])
    judge = PeopleJudge(photos, bootstrap=20)
    (found,) = changed_sides([judge], [judge.judge(before, "raw")], [judge.judge(after, "raw")])
    assert (found.gained, found.lost, found.examples) == (1, 1, "searches")
    assert (colours(found.right), colours(found.wrong)) == ([[5, 1]], [[3, 1]])


def test_queries_of_retrieval_are_shown_with_a_right_image() -> None:
    """Query 0 has no image of its person; 1 is found by the deployed net, 2 by the new one."""
    query, gallery = [(image(0), 9), (image(1), 1), (image(2), 2)], [(image(3), 1), (image(4), 2)]
    before, after = Told([0, 0, 0, 0, 1.5]), Told([0, 1.5, 1.5, 0, 1.5])
    judge = RetrievalJudge(query, gallery)
    (found,) = changed_sides([judge], [judge.judge(before, "raw")], [judge.judge(after, "raw")])
    assert (found.gained, found.lost, found.examples) == (1, 1, "queries")
    assert (colours(found.right), colours(found.wrong)) == ([[2, 4]], [[1, 3]])


def test_a_page_holds_the_images_that_it_is_given_and_none_else(tmp_path: Path) -> None:
    report = made_report()
    judge = PairsJudge(PairSet([image(n) for n in range(4)], np.array([True, False])), folds=2)
    verdict = judge.judge(BEFORE, "raw")
    (none,) = changed_sides([judge], [verdict], [verdict])
    assert (none.gained, none.lost, none.right, none.wrong) == (0, 0, (), ())
    write_report(report, tmp_path / "without.html")
    text = (tmp_path / "without.html").read_text()
    assert "<img" not in text
    assert "img-src" not in text
    assert "--show-images" in text
    write_report(report, tmp_path / "asked.html", sides=[])
    text = (tmp_path / "asked.html").read_text()
    assert "--show-images" not in text
    assert "No images are shown" in text
    some = [none.__class__("20 pairs", "pairs", 30, 0, ((image(1), image(2)),), ())]
    write_report(report, tmp_path / "with.html", sides=some)
    text = (tmp_path / "with.html").read_text()
    assert text.count('<img src="data:image/jpeg;base64,') == 2
    assert "img-src data:" in text
    assert "--show-images" not in text
    assert "30 pairs that only the new model gets right, of which the first 1" in text
