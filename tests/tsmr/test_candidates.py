"""The choices that a search tries."""

from __future__ import annotations

from typing import Any

import pytest

from recipes.tsmr import Augment, Stage, TSMRConfig
from recipes.tsmr.candidates import CANDIDATES, Hyperparameters
from recipes.tsmr.stages import USUAL

BOLD = Hyperparameters(1e-3, restore_bn=True, losses={"cosine": 1.0}, augment={"mirror": 0.5, "affine": 0.7})


def test_the_usual_choices_are_tried_first_and_others_after_them() -> None:
    first, *others = CANDIDATES
    usual = USUAL["embeddings"]
    settled = first.settle(TSMRConfig())
    assert (settled.lr, settled.plan.stages, settled.restore_bn) == (usual.lr, usual.stages, False)
    assert len({first, *others}) == len(CANDIDATES)


@pytest.mark.parametrize(
    ("choices", "mirror", "affine"),
    [
        ({}, 0.5, 0.7),
        ({"augment": Augment(mirror=0.9)}, 0.9, 0.7),
        ({"flip": True}, 0.0, 0.7),
        ({"views": 3}, 0.0, 0.0),
        ({"views": "live", "augment": Augment(affine=0.2)}, 0.0, 0.2),
    ],
)
def test_images_are_moved_where_nothing_else_says_what_is_shown(
    choices: dict[str, Any], mirror: float, affine: float
) -> None:
    augment = BOLD.settle(TSMRConfig(**choices)).augment
    assert (augment.mirror, augment.affine) == (mirror, affine)
    assert BOLD.told == "lr 0.001, restored BN, mirror 0.5, affine 0.7, cosine 1"


def test_losses_of_one_s_own_stay_beside_those_of_a_candidate() -> None:
    own = Stage(2, losses={"pairs": 0.3, "gallery": 1.0, "adversarial": 0.1})
    (stage,) = BOLD.settle(TSMRConfig(stages=(own,))).plan.stages
    assert stage.losses == {"cosine": 1.0, "adversarial": 0.1}
